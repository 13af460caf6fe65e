"""fingerprint_of: what docs/format.md says, and another file has another one."""

import io
import random

import pytest
from xxhash import xxh3_64_intdigest

from store import fingerprint
from store.fingerprint import PART_NBYTES, fingerprint_of, fingerprint_of_bytes

LONG = random.Random(0).randbytes(100_001)


@pytest.mark.parametrize("nbytes", [0, 1, 12_287, 12_288, 12_289, 100_001])
def test_it_is_that_of_the_page(nbytes: int) -> None:
    data = LONG[:nbytes]
    covered = data
    if nbytes > 12_288:
        covered = b"".join(data[at : at + 4096] for at in (0, (nbytes - 4096) // 2, nbytes - 4096))
    assert fingerprint_of_bytes(data) == xxh3_64_intdigest(nbytes.to_bytes(8, "little") + covered)


@pytest.mark.parametrize("at", [0, 4095, 50_000, 100_000 - 4095, 100_000])
def test_one_changed_byte(at: int) -> None:
    changed = bytearray(LONG)
    changed[at] ^= 1
    assert fingerprint_of_bytes(bytes(changed)) != fingerprint_of_bytes(LONG)


def test_one_byte_more() -> None:
    assert fingerprint_of_bytes(bytes(20_000)) != fingerprint_of_bytes(bytes(20_001))


def test_wherever_the_file_stands_and_however_long_it_is_little_is_read() -> None:
    class Counted(io.BytesIO):
        nbytes = 0

        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            self.nbytes += len(data)
            return data

    file = Counted(LONG)
    file.seek(77)
    assert fingerprint_of(file) == fingerprint_of_bytes(LONG)
    assert file.nbytes == 3 * PART_NBYTES


def test_it_is_never_that_of_a_file_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    class Zero:
        def __init__(self, _: bytes) -> None: ...
        def update(self, _: bytes) -> None: ...
        def intdigest(self) -> int:
            return 0

    monkeypatch.setattr(fingerprint, "xxh3_64", Zero)
    assert fingerprint_of_bytes(b"") == 1
