"""`.pt` files that went wrong, each by its seed: damaged, rebuilt, and hostile pickles."""

import io
import math
import pickle
import zipfile
from typing import Any

import numpy as np
import torch

from extract.errors import ExtractError
from extract.published.torch_file import parse_tensor

Rng = np.random.Generator
NUMEL = 2 * 5 * 18 * 18
# instructions with arguments that fit them, so that random programs get far
OPCODES = (
    b"(", b")", b"]", b"}", b"N", b"\x88", b"\x89", b"K\x05", b"M\x54\x06", b"J\xff\xff\xff\xff", b"\x8a\x01\x07",
    b"X\x07\0\0\0storage", b"X\x01\0\0\0" + b"0", b"X\x03\0\0\0cpu", b"ctorch\nHalfStorage\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n", b"cos\nsystem\n", b"cbuiltins\neval\n",
    b"\x85", b"\x86", b"\x87", *(bytes([code]) for code in b"tldusaeQR012boi."), b"\x81", b"\x93", b"\x94",
    b"q\x00", b"q\x01", b"h\x00", b"h\x01", b"r\xff\xff\xff\x7f", b"T\xff\xff\xff\x7f", b"\x8b\xff\xff\xff\x7f",
    *(bytes([code]) + b"\xff" * 8 for code in (0x8D, 0x8E, 0x95, 0x96)), b"P0\n", b"I99999999999999999999\n",
)  # fmt: skip
# those that a tensor needs, which get as far as torch.load
HONEST = (
    b"(", b")", b"]", b"}", b"N", b"\x88", b"\x89", b"K\x05", b"M\x54\x06", b"X\x07\0\0\0storage",
    b"X\x01\0\0\0" + b"0", b"X\x03\0\0\0cpu", b"ctorch\nHalfStorage\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ccollections\nOrderedDict\n", b"\x85", b"\x86", b"\x87", b"t", b"u", b"a", b"R", b"Q", b"q\x00",
    b"ctorch\nHalfStorage\nM\x54\x06\x85R",
)  # fmt: skip
CALLS = (
    ("os", "system"), ("builtins", "eval"), ("builtins", "exec"), ("subprocess", "Popen"), ("builtins", "__import__"),
    ("torch.hub", "load"), ("torch.storage", "_load_from_bytes"), ("builtins", "getattr"), ("numpy", "load"),
)  # fmt: skip


def try_tensor(seed: int) -> str:
    """Make a file and read it: "read", or "refused" by an ExtractError."""
    rng = np.random.default_rng(seed)
    data = (_damaged, _reshaped, _called, _program, _rezipped, _noise)[int(rng.integers(6))](rng)
    try:
        found = parse_tensor(data)
    except ExtractError as error:
        return "refused" if len(str(error)) < 2000 else "refused without end"
    assert math.prod(found.shape) <= NUMEL
    found.copy()  # every element can be reached
    return "read"


def _saved(new: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(
        torch.zeros(2, 18, 18, 5, dtype=torch.half).permute(0, 3, 1, 2), buffer, _use_new_zipfile_serialization=new
    )
    return buffer.getvalue()


GOOD = {new: _saved(new) for new in (True, False)}
with zipfile.ZipFile(io.BytesIO(GOOD[True])) as _archive:
    MEMBERS = {name: _archive.read(name) for name in _archive.namelist()}


def _damaged(rng: Rng) -> bytes:
    data = bytearray(GOOD[bool(rng.integers(2))])
    for at in rng.integers(0, len(data), int(rng.integers(1, 9))).tolist():
        data[at] = int(rng.integers(256))
    return bytes(data[: int(rng.integers(1, 2 * len(data)))])


def _zipped(changed: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in (MEMBERS | changed).items():
            file.writestr(name, content)
    return buffer.getvalue()


def _reshaped(rng: Rng) -> bytes:
    """Any numbers where shape, strides, offset and size are."""
    data = bytearray(MEMBERS["archive/data.pkl"])
    at = [i for i in range(92, 125) if data[i] in b"KM" or rng.random() < 0.1]
    for place in rng.choice(at, 2).tolist():
        data[place + 1] = int(rng.integers(256))
    if rng.random() < 0.5:
        big = b"\x8a\x09" + b"\xff" * 8 + bytes([int(rng.integers(2))])
        data[99:101] = big  # the offset
    return _zipped({"archive/data.pkl": bytes(data)})


def _called(rng: Rng) -> bytes:
    module, name = CALLS[int(rng.integers(len(CALLS)))]
    call = f"c{module}\n{name}\n".encode()
    place = call + b"(X\x10\0\0\0touch fuzz-canary" + b"tR"
    protocol = pickle.dumps(_Call(eval, ("1/0",)), protocol=int(rng.integers(2, 6)))
    hostile = (place + b".", protocol, MEMBERS["archive/data.pkl"].replace(b"ctorch\nHalfStorage\n", place))
    chosen = hostile[int(rng.integers(3))]
    return _zipped({"archive/data.pkl": chosen}) if rng.random() < 0.7 else GOOD[False][:137] + chosen


class _Call:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call


def _program(rng: Rng) -> bytes:
    codes = (OPCODES, HONEST)[int(rng.integers(2))]
    program = b"\x80\x02" + b"".join(codes[i] for i in rng.integers(0, len(codes), int(rng.integers(1, 400)))) + b"."
    if rng.random() < 0.3:
        program = b"\x80\x02K\x01q\x00" + b"h\x00h\x00\x86q\x00" * int(rng.integers(1, 2000)) + program[2:]
    return _zipped({"archive/data.pkl": program}) if rng.random() < 0.8 else GOOD[False][:137] + program


def _rezipped(rng: Rng) -> bytes:
    """Bombs, missing and repeated members."""
    names = list(MEMBERS)
    chosen = names[int(rng.integers(len(names)))]
    content = bytes(1 << 20) if rng.random() < 0.1 else rng.bytes(int(rng.integers(0, 99)))
    data = _zipped({chosen: content}, zipfile.ZIP_DEFLATED if rng.random() < 0.5 else zipfile.ZIP_STORED)
    return data.replace(names[0].encode(), names[1].encode()) if rng.random() < 0.2 else data


def _noise(rng: Rng) -> bytes:
    return (b"PK\x03\x04", GOOD[False][:15], GOOD[True][:300], b"")[int(rng.integers(4))] + rng.bytes(
        int(rng.integers(500))
    )
