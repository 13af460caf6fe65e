"""One tensor per file as torch saves it: read by `torch.load` after the checks that torch leaves out, and written.

A zip's checksums are tested first, which finds damage. Its pickle is listed, not run, to see what `torch.load` would
build: with `weights_only=True` no code runs, but a small file could still ask for any amount of memory or time.
Files of torch before 1.6 have no checksums: five pickles in a row, then the number of elements, then the elements.
"""

from __future__ import annotations

import io
import os
import pickletools
import stat
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy.typing as npt
import torch

from extract.errors import ExtractError

Array = npt.NDArray[Any]
MAX_FILE_NBYTES = 1 << 26
_MAX_MEMBERS = 64
_FOLDER = 0x10  # of a member's external attributes, which have no checksum
_LEGACY_START = b"\x80\x02\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little") + b"."  # the first of the pickles
_LEGACY_PROTOCOL = 1001  # the second

# What the pickle of one tensor of plain numbers consists of. Nothing is used twice (no GET), so nothing can grow.
_STORAGES = tuple(f"torch {name}Storage" for name in ("Half", "Float", "Double", "Short", "Int", "Long", "Byte"))
_GLOBALS = ("torch._utils _rebuild_tensor_v2", "collections OrderedDict", *_STORAGES)
_INSTRUCTIONS = (
    "PROTO", "GLOBAL", "BINPUT", "LONG_BINPUT", "MARK", "STOP", "REDUCE", "BINPERSID", "BINUNICODE", "BININT",
    "BININT1", "BININT2", "LONG1", "NONE", "NEWTRUE", "NEWFALSE", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
    "EMPTY_LIST", "APPEND", "EMPTY_DICT", "SETITEMS",
)  # fmt: skip
_MAX_INSTRUCTIONS = 200
_PICKLE_PROTOCOL = 2


def read_tensor(path: str | Path) -> Array:
    """The tensor in a file; OSError where it cannot be read, ExtractError, without the path, where it is no tensor."""
    with open(path, "rb", buffering=0, opener=_open_without_waiting) as file:
        state = os.fstat(file.fileno())
        if not stat.S_ISREG(state.st_mode) or state.st_size > MAX_FILE_NBYTES:
            raise ExtractError(f"expected one map, a file of at most {MAX_FILE_NBYTES} bytes, found more, or no file")
        return parse_tensor(file.readall())


def parse_tensor(data: bytes) -> Array:
    """The tensor in the bytes of a file. Raises ExtractError."""
    if data.startswith(b"PK\x03\x04"):
        storage_nbytes = _check_zip(data)
    elif data.startswith(_LEGACY_START):
        storage_nbytes = _check_legacy(data)
    else:
        found = "another kind of file" if data else "an empty file"
        raise ExtractError(f"expected a tensor saved by torch, found {found}")
    try:
        tensor = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a damaged file
        raise ExtractError(f"expected a tensor saved by torch, found a damaged file: {error}"[:500]) from error
    if type(tensor) is not torch.Tensor:
        raise ExtractError(f"expected one tensor, found a {type(tensor).__name__}; save [2, k, h, w] as one")
    held = tensor.untyped_storage().nbytes()
    if held != storage_nbytes or tensor.nbytes > held:  # torch would read behind the end of what it has loaded
        raise ExtractError(f"expected a tensor of the file's {storage_nbytes} bytes of numbers, found other sizes")
    array: Array = tensor.detach().numpy()
    return array


def tensor_bytes(array: Array) -> bytes:
    """What `torch.save` writes for this array; the same array gives the same bytes."""
    buffer = io.BytesIO()
    torch.save(torch.from_numpy(array.copy()), buffer)
    return buffer.getvalue()


def _open_without_waiting(path: str, flags: int) -> int:
    """Opening a pipe would otherwise wait for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def _check_zip(data: bytes) -> int:
    """Test the members' checksums and the pickle; return the size of the one storage, in bytes.

    Compressed members are refused, so that nothing is larger than the file.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            _check_members(members)
            if damaged := archive.testzip():
                raise ExtractError(f"expected the checksum of {damaged}, found another: the file is damaged")
            pickles = [archive.read(member) for member in members if member.filename.endswith("/data.pkl")]
    except ExtractError:
        raise
    except Exception as error:  # BadZipFile and whatever else zipfile raises for a damaged directory
        raise ExtractError(f"expected a complete file, found a torn one: {error}") from error
    storages = [member.file_size for member in members if "/data/" in member.filename]
    if len(pickles) != 1 or len(storages) != 1:
        raise ExtractError(
            f"expected a tensor saved by torch, found a zip of {len(pickles)} data.pkl and {len(storages)} storages; "
            "save [2, k, h, w] as one tensor"
        )
    _check_pickle(io.BytesIO(pickles[0]), len(data))
    return storages[0]


def _check_members(members: list[zipfile.ZipInfo]) -> None:
    if len(members) > _MAX_MEMBERS:
        raise ExtractError(f"expected a tensor saved by torch, found a zip of {len(members)} members")
    if len({member.filename.lower() for member in members}) != len(members):  # torch ignores case
        raise ExtractError("expected every member of the zip once, found a name again")
    if any(member.external_attr & _FOLDER for member in members):  # torch would take whatever was in memory before
        raise ExtractError("expected files in the zip, found a folder: the file is damaged")
    if compressed := [member.filename for member in members if member.compress_type != zipfile.ZIP_STORED]:
        raise ExtractError(f"expected stored members, as torch writes them, found {compressed[0][:80]} compressed")


def _check_legacy(data: bytes) -> int:
    """Test the pickles; return the size of the one storage, in bytes."""
    stream = io.BytesIO(data)
    stream.seek(len(_LEGACY_START))
    _protocol, _system, tensor, keys = (_check_pickle(stream, max(len(data), _LEGACY_PROTOCOL)) for _ in range(4))
    if len(keys) != 1 or keys != tensor[1:2]:  # a storage that is not listed would keep what was in memory before
        raise ExtractError("expected one tensor, found something else; save [2, k, h, w] as one")
    return len(data) - stream.tell() - 8


def _check_pickle(stream: BinaryIO, most: int) -> list[str]:
    """List the next pickle without running it; returns its texts.

    Raises ExtractError for an instruction or a name that one tensor does not need, and for numbers above `most`,
    the size of the file: they would be sizes that it cannot have.
    """
    texts: list[str] = []
    try:
        for count, (instruction, value, _) in enumerate(pickletools.genops(stream)):
            _check_instruction(instruction.name, value, most)
            if count > _MAX_INSTRUCTIONS:
                raise ExtractError(f"expected a tensor, found a pickle of more than {_MAX_INSTRUCTIONS} instructions")
            if instruction.name == "BINUNICODE":
                texts.append(str(value))
    except (ValueError, DeprecationWarning) as error:  # the latter under `-W error`, of odd escapes
        raise ExtractError(f"expected a pickled tensor, found a damaged one: {error}"[:500]) from error
    return texts


def _check_instruction(name: str, value: object, most: int) -> None:
    if name == "GLOBAL" and value not in _GLOBALS:
        raise ExtractError(f"expected one tensor of numbers, found {str(value)[:80]!r}; save [2, k, h, w] as one")
    if name not in _INSTRUCTIONS or (name == "PROTO" and value != _PICKLE_PROTOCOL):
        raise ExtractError(f"expected a tensor and nothing else, found the pickle instruction {name} {value!r:.80}")
    if isinstance(value, int) and not 0 <= value <= most:
        raise ExtractError(f"expected sizes of at most {most}, that of the file in bytes, found {value!r:.80}")
