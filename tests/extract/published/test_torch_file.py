"""Files of torch: read as torch reads them, never run, refused with a reason when they are anything else."""

import io
import math
import os
import pickle
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from extract.published.torch_file import DTYPES, parse_tensor, read_tensor, tensor_bytes
from store import StoreError

SHAPES = array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4)
ARRAYS = st.sampled_from(sorted(DTYPES.values(), key=str)).flatmap(lambda dtype: arrays(dtype, SHAPES))


def saved(value: object, new: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=new)
    return buffer.getvalue()


def topk_maps() -> torch.Tensor:
    """As TokenLabeling writes them: not contiguous."""
    logits, classes = torch.randn(18, 18, 50, generator=torch.Generator().manual_seed(0)).topk(5)
    return torch.stack([logits.half(), classes.half()]).permute(0, 3, 1, 2)


@given(array=ARRAYS, new=st.booleans(), data=st.data())
def test_what_torch_saves_is_read(array: np.ndarray[Any, Any], new: bool, data: st.DataObject) -> None:
    tensor = torch.from_numpy(array.copy()).permute(data.draw(st.permutations(range(array.ndim))))
    np.testing.assert_array_equal(parse_tensor(saved(tensor, new)), tensor.numpy(), strict=True)
    if tensor.ndim and tensor.shape[0]:
        np.testing.assert_array_equal(parse_tensor(saved(tensor[1:], new)), tensor[1:].numpy(), strict=True)


@given(array=ARRAYS)
def test_torch_reads_what_is_written(array: np.ndarray[Any, Any]) -> None:
    again = torch.load(io.BytesIO(tensor_bytes(array)), weights_only=True)
    np.testing.assert_array_equal(again.numpy(), array, strict=True)
    np.testing.assert_array_equal(parse_tensor(tensor_bytes(array)), array, strict=True)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_other_pickle_protocols(protocol: int) -> None:
    buffer = io.BytesIO()
    torch.save(topk_maps(), buffer, pickle_protocol=protocol)
    np.testing.assert_array_equal(parse_tensor(buffer.getvalue()), topk_maps().numpy())


class Hostile:
    """Pickles as a call."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call


def rezipped(change: Callable[[str, bytes], bytes], **settings: Any) -> bytes:
    """A good file with its members changed, checksums right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved(topk_maps()))) as old, zipfile.ZipFile(buffer, "w", **settings) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return buffer.getvalue()


def with_pickle(data: bytes) -> bytes:
    return rezipped(lambda name, old: data if name.endswith("data.pkl") else old)


def numbers_replaced(old: int, new: int) -> bytes:
    """One of the pickle's two-byte numbers is another."""
    good = zipfile.ZipFile(io.BytesIO(saved(topk_maps()))).read("archive/data.pkl")
    assert b"M" + struct.pack("<H", old) in good
    return with_pickle(good.replace(b"M" + struct.pack("<H", old), b"J" + struct.pack("<i", new)))


LAUGHS = (
    b"\x80\x02" + b"K\x01" + b"q\x00h\x00\x86" * 60 + b".",
    b"\x80\x02}(" + b"K\x01" + b"q\x00h\x00\x86" * 60 + b"K\x01u.",
)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"\xff\xd8\xff" * 99, "another kind of file"),
        (saved(topk_maps())[:-300], "torn"),
        (saved(topk_maps(), new=False)[:-1], "found"),
        (saved({"a": topk_maps()}), "instruction|one tensor"),
        (saved([topk_maps()]), "one tensor"),
        (saved(torch.zeros(3, dtype=torch.bool)), "numbers, found 'torch BoolStorage'"),
        (saved(torch.nn.Linear(1, 1).weight), "_rebuild_parameter"),
        (saved(torch.zeros(1).expand(10**9)), "inside of its storage"),
        (rezipped(lambda _, old: old, compression=zipfile.ZIP_DEFLATED), "compressed"),
        (rezipped(lambda name, old: b"big" if name.endswith("byteorder") else old), "little-endian"),
        (rezipped(lambda name, old: old[:-2] if name.endswith("data/0") else old), "3240 numbers"),
        (saved(topk_maps()).replace(b"data.pkl", b"dada.pkl"), "without data.pkl"),
        (numbers_replaced(1620, -1620), "inside of its storage"),
        (numbers_replaced(1620, 1 << 30), "inside of its storage"),
        (numbers_replaced(3240, 1 << 30), "numbers"),
        (with_pickle(pickle.dumps(Hostile(print, ("run",)))), "call of 'builtins print'"),
        (with_pickle(b"cos\nsystem\n(X\x04\0\0\0exittR."), "call of 'os system'"),
        (with_pickle(b"(X\x04\0\0\0exitios\nsystem\n."), "instruction 105"),
        (with_pickle(b"\x80\x02ctorch.storage\n_load_from_bytes\n)R."), "_load_from_bytes"),
        (with_pickle(b"\x80\x02K\x00r\xff\xff\xff\xffh\x00."), "instruction|damaged"),
        (with_pickle(b"\x80\x02" + b"(" * 100_000), "more than"),
        (with_pickle(b"\x80\x02X\xff\xff\xff\x7f."), "too soon"),
        (with_pickle(LAUGHS[0]), "one tensor, found a tuple"),
        (with_pickle(LAUGHS[1]), "dictionary"),
    ],
)  # fmt: skip
def test_everything_else_is_refused(data: bytes, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    started = time.monotonic()
    with pytest.raises(StoreError, match=message):
        parse_tensor(data)
    assert time.monotonic() - started < 5  # nothing grows without bounds
    assert capfd.readouterr().out == ""


def test_every_flipped_byte_of_the_numbers_is_found() -> None:
    good = saved(topk_maps())
    at = good.index(zipfile.ZipFile(io.BytesIO(good)).read("archive/data/0"))
    rng = np.random.default_rng(0)
    for place in rng.integers(at, at + 6480, 50).tolist():
        bad = bytearray(good)
        bad[place] ^= 1 << int(rng.integers(8))
        with pytest.raises(StoreError, match="checksum"):
            parse_tensor(bytes(bad))


@given(seed=st.integers(0, 2**32), new=st.booleans())
def test_damage_is_an_error_or_without_effect(seed: int, new: bool) -> None:
    rng = np.random.default_rng(seed)
    bad = bytearray(saved(topk_maps(), new))
    for place in rng.integers(0, len(bad), rng.integers(1, 9)).tolist():
        bad[place] = int(rng.integers(256))
    try:
        found = parse_tensor(bytes(bad[: rng.integers(len(bad) // 2, 2 * len(bad))]))
    except StoreError:
        return
    assert math.prod(found.shape) <= 3240


def test_large_missing_and_endless_files(tmp_path: Path) -> None:
    with open(tmp_path / "large.pt", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(StoreError, match="expected one map"):
        read_tensor(tmp_path / "large.pt")
    os.mkfifo(tmp_path / "pipe.pt")
    for endless in (tmp_path / "pipe.pt", "/dev/zero"):
        with pytest.raises(StoreError, match="found more, or no file"):
            read_tensor(endless)
    with pytest.raises(FileNotFoundError):
        read_tensor(tmp_path / "none.pt")
