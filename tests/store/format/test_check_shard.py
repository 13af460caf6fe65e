"""check_shard: no byte of a shard file can be wrong without notice."""

import random
from pathlib import Path

import h5py
import numpy as np

from store import Header
from store.format.check_shard import check_shard
from tests.store.conftest import make_rows, write_store


def contents(shard: Path) -> dict[str, bytes]:
    with h5py.File(shard) as file:
        return {name: file[name][()].tobytes() for name in file} | {
            k: np.asarray(v).tobytes() for k, v in file.attrs.items()
        }


def test_no_byte_can_be_wrong_unnoticed(tmp_path: Path) -> None:
    """Where verify finds nothing, the byte was one that HDF5 does not use."""
    header: Header = write_store(tmp_path / "maps", make_rows(6), 6)
    shard = tmp_path / "maps" / "shard-00000.h5"
    sound, expected = shard.read_bytes(), contents(shard)
    used = [at for at, byte in enumerate(sound) if byte]
    rng = random.Random(0)
    for at in rng.sample(used, 250):
        damaged = bytearray(sound)
        damaged[at] ^= rng.randrange(1, 256)
        shard.write_bytes(damaged)
        assert check_shard(shard, header, 0).problems or contents(shard) == expected, at


def test_no_length_passes_for_another(tmp_path: Path) -> None:
    header = write_store(tmp_path / "maps", make_rows(6), 6)
    shard = tmp_path / "maps" / "shard-00000.h5"
    sound = shard.read_bytes()
    for length in [*range(0, len(sound), 997), len(sound) - 1]:
        shard.write_bytes(sound[:length])
        assert check_shard(shard, header, 0).problems, length
