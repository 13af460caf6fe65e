"""One tensor per file as torch saves it: read without torch and without running its pickle, and written.

Read are today's files, an uncompressed zip of a pickle and raw numbers with checksums, and those of torch before 1.6, a
row of pickles followed by the numbers.
"""

from __future__ import annotations

import io
import math
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from extract.published.pickled import Strided, read_pickle
from store.errors import StoreError

Array = npt.NDArray[Any]
MAX_FILE_NBYTES = 1 << 26
DTYPES: Mapping[str, np.dtype[Any]] = {
    "torch HalfStorage": np.dtype("<f2"),
    "torch FloatStorage": np.dtype("<f4"),
    "torch DoubleStorage": np.dtype("<f8"),
    "torch ShortStorage": np.dtype("<i2"),
    "torch IntStorage": np.dtype("<i4"),
    "torch LongStorage": np.dtype("<i8"),
    "torch ByteStorage": np.dtype("u1"),
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_START = b"\x80\x02\x8a\x0a" + _LEGACY_MAGIC.to_bytes(10, "little")
_LAST = struct.Struct("<4s4H2IH")  # the zip's end record
_ENTRY = struct.Struct("<4s6H3I5H2I")  # of its directory
_LOCAL = struct.Struct("<4s5H3I2H")  # before each member
_MOST_MEMBERS = 64


def read_tensor(path: str | Path) -> Array:
    """The tensor in a file; OSError where it cannot be read, StoreError, without the path, where it is no tensor."""
    with open(path, "rb", buffering=0, opener=_open_at_once) as file:
        state = os.fstat(file.fileno())
        if not stat.S_ISREG(state.st_mode) or state.st_size > MAX_FILE_NBYTES:
            raise StoreError(f"expected one map, a file of at most {MAX_FILE_NBYTES} bytes, found more, or no file")
        return parse_tensor(file.readall())


def parse_tensor(data: bytes) -> Array:
    """The tensor in the bytes of a file; read-only. Raises StoreError."""
    if data[:4] == b"PK\x03\x04":
        members = _members(data)
        root = next((name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")), None)
        if root is None:
            raise StoreError("expected a tensor saved by torch, found a zip without data.pkl")
        if members.get(f"{root}byteorder", b"little") != b"little":
            raise StoreError("expected little-endian numbers, found others; save it again on a usual machine")
        tensor = _parse_pickle(bytes(members[f"{root}data.pkl"]))
        return _view(tensor, members.get(f"{root}data/{tensor.storage.key}"))
    if data.startswith(_LEGACY_START):
        return _parse_legacy(data)
    raise StoreError("expected a tensor saved by torch, found another kind of file" if data else "found an empty file")


def tensor_bytes(array: Array) -> bytes:
    """What `torch.load(weights_only=True)` reads as this array of a type in DTYPES; the same array, the same bytes."""
    storage = next(name for name, dtype in DTYPES.items() if dtype == array.dtype).split(" ")[1]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in (
            ("data.pkl", _pickle(storage, array.shape)),
            ("byteorder", b"little"),
            ("data/0", array.astype(array.dtype.newbyteorder("<")).tobytes()),
            ("version", b"3\n"),
        ):
            file.writestr(zipfile.ZipInfo(f"map/{name}"), content)
    return buffer.getvalue()


def _open_at_once(path: str, flags: int) -> int:
    """A pipe would keep us waiting for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


@lru_cache(maxsize=256)
def _parse_pickle(data: bytes) -> Strided:
    """Maps of one shape have the same pickle, so all but the first are found here."""
    value, _ = read_pickle(data)
    if not isinstance(value, Strided):
        raise StoreError(f"expected one tensor, found a {type(value).__name__}; save [2, k, h, w] as one")
    return value


def _members(data: bytes) -> Mapping[str, memoryview]:
    """The members of a zip whose checksums hold; compressed ones are refused, so that a file is never larger inside."""
    try:
        at = data.rindex(b"PK\x05\x06")
        _, _, _, _, count, _, start, _ = _LAST.unpack_from(data, at)
        if count > _MOST_MEMBERS:
            raise StoreError(f"expected a tensor saved by torch, found a zip of {count} members")
        found: dict[str, memoryview] = {}
        for _ in range(count):
            entry = _ENTRY.unpack_from(data, start)
            name = data[start + _ENTRY.size : start + _ENTRY.size + entry[10]].decode("utf-8")
            start += _ENTRY.size + sum(entry[10:13])
            if name in found:
                raise StoreError(f"expected every member once, found {name} again")
            found[name] = _member(data, name, entry)
    except (ValueError, struct.error) as error:
        raise StoreError(f"expected a complete file, found a torn one: {error}") from error
    return found


def _member(data: bytes, name: str, entry: tuple[Any, ...]) -> memoryview:
    signature, method, crc, nbytes, local = entry[0], entry[4], entry[7], entry[8], entry[16]
    if signature != b"PK\x01\x02" or data[local : local + 4] != b"PK\x03\x04":
        raise StoreError("expected a complete file, found a torn one")
    if method != 0:
        raise StoreError(f"expected stored members, as torch writes them, found {name} compressed")
    *_, name_nbytes, extra_nbytes = _LOCAL.unpack_from(data, local)
    begin = local + _LOCAL.size + name_nbytes + extra_nbytes
    content = memoryview(data)[begin : begin + nbytes]
    if len(content) != nbytes or zlib.crc32(content) != crc:
        raise StoreError(f"expected the checksum of {name}, found another: the file is damaged")
    return content


def _parse_legacy(data: bytes) -> Array:
    at, values = 0, []
    for _ in range(5):  # magic number, protocol, the writer's machine, the tensor, keys of storages
        value, at = read_pickle(data, at)
        values.append(value)
    _, _, system, tensor, keys = values
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise StoreError("expected little-endian numbers, found others; save it again on a usual machine")
    if not isinstance(tensor, Strided) or keys != [tensor.storage.key]:
        raise StoreError("expected one tensor, found something else; save [2, k, h, w] as one")
    content = memoryview(data)[at + 8 :]
    if len(data) < at + 8 or struct.unpack_from("<q", data, at)[0] != tensor.storage.numel:
        raise StoreError("expected a complete file, found a torn one")
    return _view(tensor, content)


def _view(tensor: Strided, content: memoryview | None) -> Array:
    """The tensor's elements; StoreError for one that reaches outside of its storage."""
    storage, offset, shape, stride = tensor
    dtype = DTYPES.get(storage.type_name)
    if dtype is None:
        raise StoreError(f"expected a tensor of numbers, found {storage.type_name!r}")
    if content is None or not 0 <= storage.numel == len(content) // dtype.itemsize:
        raise StoreError(f"expected {storage.numel} numbers, found {0 if content is None else len(content)} bytes")
    count = math.prod(shape[:8])
    fits = len(shape) == len(stride) <= 8 and min((offset, *shape, *stride)) >= 0 and 0 <= count <= storage.numel
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=False))
    if not fits or (count and last >= storage.numel):
        raise StoreError(f"expected a tensor inside of its storage, found shape {shape[:8]}, strides {stride[:8]}")
    strides = [step * dtype.itemsize if n > 1 else 0 for n, step in zip(shape, stride, strict=True)]
    found: Array = np.ndarray(shape, dtype, content, offset * dtype.itemsize if count else 0, strides)
    found.setflags(write=False)
    return found


def _pickle(storage: str, shape: tuple[int, ...]) -> bytes:
    """Protocol 2: `_rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())`, contiguous."""
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    place = f"(X\x07\0\0\0storagectorch\n{storage}\nX\x01\0\0\0" + "0X\x03\0\0\0cpu"
    return b"".join(
        (
            b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(",
            place.encode("ascii") + _numbers([math.prod(shape)]) + b"tQK\0",
            b"(" + _numbers(shape) + b"t(" + _numbers(strides) + b"t",
            b"\x89ccollections\nOrderedDict\n)RtR.",
        )
    )


def _numbers(values: Iterable[int]) -> bytes:
    return b"".join(b"J" + struct.pack("<i", value) for value in values)
