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
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from extract.errors import ExtractError
from extract.published.torch_file import parse_tensor, read_tensor, tensor_bytes

SHAPES = array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4)
DTYPES = [np.dtype(name) for name in ("f2", "f4", "f8", "i2", "i4", "i8", "u1")]
ARRAYS = st.sampled_from(DTYPES).flatmap(lambda dtype: arrays(dtype, SHAPES))


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


# A tuple of two tuples of two tuples ...: whoever prints or hashes it does not come to an end.
LAUGHS = (b"K\x01" + b"q\x00h\x00\x86" * 60 + b".", b"}(" + b"K\x01" + b"q\x00h\x00\x86" * 60 + b"K\x01u.")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"\xff\xd8\xff" * 99, "another kind of file"),
        (saved(topk_maps())[:-300], "torn"),
        (saved(topk_maps(), new=False)[:-1], "damaged"),
        (saved(topk_maps(), new=False) + b"\0", "other sizes"),
        (saved({"a": topk_maps()}), "instruction SETITEM"),
        (saved([topk_maps()]), "one tensor, found a list"),
        (saved([topk_maps(), topk_maps()[0]]), "2 storages"),
        (saved([topk_maps(), topk_maps()]), "2 storages"),
        (saved(topk_maps().to_sparse()), "2 storages"),
        (saved(torch.zeros(3, dtype=torch.bool)), "numbers, found 'torch BoolStorage'"),
        (saved(torch.nn.Linear(1, 1).weight), "_rebuild_parameter"),
        (saved(torch.zeros(1).expand(10**9)), "sizes of at most"),
        (saved(torch.zeros(1).expand(100)), "other sizes"),
        (saved(torch.zeros(100)[1:], new=False).replace(b"K\x01K", b"K\x02K"), "damaged"),
        (rezipped(lambda _, old: old, compression=zipfile.ZIP_DEFLATED), "compressed"),
        (rezipped(lambda name, old: b"?" if name.endswith("byteorder") else old), "damaged"),
        (rezipped(lambda name, old: old[:-2] if name.endswith("data/0") else old), "damaged|other sizes"),
        (saved(topk_maps()).replace(b"data.pkl", b"dada.pkl"), "0 data.pkl"),
        (saved(topk_maps()).replace(b"/version", b"/VERSION").replace(b"/byteorder", b"/version\0\0"), "name again"),
        (numbers_replaced(1620, -1620), "sizes of at most"),
        (numbers_replaced(1620, 1 << 30), "sizes of at most"),
        (numbers_replaced(1620, 1621), "damaged"),
        (numbers_replaced(3240, 1 << 30), "sizes of at most"),
        (numbers_replaced(3240, 3241), "damaged|other sizes"),
        (with_pickle(pickle.dumps(Hostile(print, ("run",)), protocol=2)), "found '__builtin__ print'"),
        (with_pickle(pickle.dumps(Hostile(print, ("run",)))), "instruction PROTO 4"),
        (with_pickle(b"\x80\x02cos\nsystem\n(X\x04\0\0\0exittR."), "found 'os system'"),
        (with_pickle(b"\x80\x02(X\x04\0\0\0exitios\nsystem\n."), "instruction INST"),
        (with_pickle(b"\x80\x02ctorch.storage\n_load_from_bytes\n)R."), "_load_from_bytes"),
        (with_pickle(b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R."), "bytearray"),
        (with_pickle(b"\x80\x02K\x00r\xff\xff\xff\xffh\x00."), "sizes of at most|BINGET"),
        (with_pickle(b"\x80\x02" + b"(" * 100_000), "more than"),
        (with_pickle(b"\x80\x02X\xff\xff\xff\x7f."), "damaged"),
        *[(with_pickle(b"\x80\x02" + laughs), "instruction BINGET") for laughs in LAUGHS],
    ],
)  # fmt: skip
def test_everything_else_is_refused(data: bytes, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    started = time.monotonic()
    with pytest.raises(ExtractError, match=message):
        parse_tensor(data)
    assert time.monotonic() - started < 5  # nothing grows without bounds
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(("old", "new"), [(3240, 1 << 30), (3240, 5000), (1620, 1 << 30)])
def test_a_size_that_the_file_does_not_have_is_never_allocated(old: int, new: int, tmp_path: Path) -> None:
    """The file without checksums, whose claimed size torch would allocate before it looks for the numbers."""
    numbers = b"M" + struct.pack("<H", old), b"J" + struct.pack("<i", new)
    data = saved(topk_maps(), new=False).replace(*numbers)
    before = peak_nbytes()
    with pytest.raises(ExtractError, match="sizes of at most|damaged"):
        parse_tensor(data)
    assert peak_nbytes() - before < 1 << 28


def peak_nbytes() -> int:
    """The most address space that this process has had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmPeak"))


def test_a_storage_that_is_not_in_the_file_is_not_made_up() -> None:
    """Without its key in the list of storages, torch would return whatever was in memory."""
    good = saved(topk_maps(), new=False)
    keys = good.rindex(b"\x80\x02]q\x00X")
    with pytest.raises(ExtractError, match="expected one tensor"):
        parse_tensor(good[:keys] + b"\x80\x02]q\x00." + good[good.index(b"a.", keys) + 2 :])


def test_every_flipped_byte_of_the_numbers_is_found() -> None:
    good = saved(topk_maps())
    at = good.index(zipfile.ZipFile(io.BytesIO(good)).read("archive/data/0"))
    rng = np.random.default_rng(0)
    for place in rng.integers(at, at + 6480, 50).tolist():
        bad = bytearray(good)
        bad[place] ^= 1 << int(rng.integers(8))
        with pytest.raises(ExtractError, match="checksum"):
            parse_tensor(bytes(bad))


def test_a_flipped_bit_anywhere_is_found_or_without_effect() -> None:
    good, expected = saved(topk_maps()), topk_maps().numpy()
    flips = np.random.default_rng(0).integers(0, 8 * len(good), 2_000).tolist()
    flips += range(8 * good.index(b"PK\x01\x02"), 8 * len(good), 5)  # the directory, which has no checksum
    refused = 0
    for flip in flips:
        bad = bytearray(good)
        bad[flip // 8] ^= 1 << flip % 8
        try:
            np.testing.assert_array_equal(parse_tensor(bytes(bad)), expected, strict=True)
        except ExtractError:
            refused += 1
    assert refused > len(flips) / 2


def test_a_member_that_says_it_is_a_folder() -> None:
    """torch would skip its content and return whatever was in memory."""
    bad = bytearray(saved(topk_maps()))
    entry = bad.rindex(b"PK\x01\x02", 0, bad.rindex(b"archive/data/0"))
    bad[entry + 38] |= 0x10
    with pytest.raises(ExtractError, match="found a folder"):
        parse_tensor(bytes(bad))


@given(seed=st.integers(0, 2**32), new=st.booleans())
@example(seed=4270106, new=False)  # an escape that Python warns of
def test_damage_is_an_error_or_without_effect(seed: int, new: bool) -> None:
    rng = np.random.default_rng(seed)
    bad = bytearray(saved(topk_maps(), new))
    for place in rng.integers(0, len(bad), rng.integers(1, 9)).tolist():
        bad[place] = int(rng.integers(256))
    try:
        found = parse_tensor(bytes(bad[: rng.integers(len(bad) // 2, 2 * len(bad))]))
    except ExtractError:
        return
    assert math.prod(found.shape) <= 3240


def test_large_missing_and_endless_files(tmp_path: Path) -> None:
    with open(tmp_path / "large.pt", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ExtractError, match="expected one map"):
        read_tensor(tmp_path / "large.pt")
    os.mkfifo(tmp_path / "pipe.pt")
    for endless in (tmp_path / "pipe.pt", "/dev/zero"):
        with pytest.raises(ExtractError, match="found more, or no file"):
            read_tensor(endless)
    with pytest.raises(FileNotFoundError):
        read_tensor(tmp_path / "none.pt")
