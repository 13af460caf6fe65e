"""The same maps in other formats: how each is written, and how one reads rows of it as its manual says."""

from __future__ import annotations

import importlib.util
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt
import torch

from store import Header, MapStore, RowBatch, ShardWriter, create_store
from store.format.rows import list_digest

Maps = npt.NDArray[np.float16]
Rows = npt.NDArray[np.int64]
Read = Callable[[Rows], object]
SHARDS = 64
CHUNK = 64  # rows of a zarr chunk
RAW = "os.pread"


class Peer(NamedTuple):
    """`write` puts all maps into a folder; `open` gives what reads rows [B] there, with its handles in the stack."""

    folder: str
    write: Callable[[Path, Maps], object]
    open: Callable[[Path, ExitStack], Read]
    needs: str = ""


def peers() -> dict[str, Peer]:
    """All peers by name whose packages are there; says of which they are not. Extra `bench` has them all."""
    known = {
        "ours, batch of 256": Peer("ours", write_ours, lambda folder, _: MapStore(folder).read),
        "ours, batch of 256, preloaded": Peer(
            "ours", write_ours, lambda folder, _: MapStore(folder, preload=True).read
        ),
        "ours, uint8, batch of 256": Peer(
            "uint8",
            lambda folder, maps: write_ours(folder, maps, dtype="uint8"),
            lambda folder, _: MapStore(folder).read,
        ),
        RAW: Peer("plain", _write_plain, _open_pread),
        "h5py indexing": Peer("h5py", _write_h5py, _open_h5py),
        "LMDB": Peer("lmdb", _write_lmdb, _open_lmdb, "lmdb"),
        "zarr": Peer("zarr", _write_zarr, _open_zarr, "zarr"),
        "WebDataset, in order": Peer("webdataset", _write_webdataset, _open_webdataset, "webdataset"),
        "one .pt per image": Peer("files", _write_files, _open_files),
    }
    absent = {name for name, peer in known.items() if peer.needs and importlib.util.find_spec(peer.needs) is None}
    for name in sorted(absent):
        print(f"{name}: left out, for {known[name].needs} is not installed")
    return {name: peer for name, peer in known.items() if name not in absent}


def files_of(folder: Path) -> list[Path]:
    """Every file of a peer."""
    return [file for file in folder.rglob("*") if file.is_file()]


@contextmanager
def opened(peer: Peer, folder: Path) -> Iterator[Read]:
    """The peer's reader; handles are closed afterwards."""
    with ExitStack() as handles:
        yield peer.open(folder, handles)


def write_ours(path: Path, maps: Maps, shards: int = SHARDS, dtype: str = "float16") -> Header:
    """A store of these maps with made-up columns."""
    rows, *grid = maps.shape
    keys = [f"class{row % 1000:04d}/image{row:07d}.jpg" for row in range(rows)]
    labels = np.arange(rows, dtype=np.int32) % 1000
    dataset = {"root_name": "synthetic", "class_names": [], "teacher_class": [], "digest": list_digest(keys, labels)}
    header = Header("label", {}, {}, (grid[0], grid[1]), dtype, rows, -(-rows // shards), dataset, {})
    create_store(path, header)
    for shard in range(header.sharding.shards):
        part = slice(*header.sharding.bounds(shard))
        n = part.stop - part.start
        batch = RowBatch(
            payload={"label_logit": maps[part].astype(header.maps[0].dtype)},
            label=labels[part],
            prediction=labels[part],
            size=np.full((n, 2), 500, dtype=np.int32),
            view=np.tile(np.array([0, 0, 1, 1], dtype=np.float32), (n, 1)),
            status=np.zeros(n, dtype=np.uint8),
            key=keys[part],
            error=[""] * n,
        )
        with ShardWriter(path, header, shard) as writer:
            writer.append(batch)
            writer.publish()
    return header


def _write_plain(folder: Path, maps: Maps) -> None:
    """The bytes and nothing else, synced: what all writers are compared with."""
    folder.mkdir()
    with open(folder / "maps.bin", "wb") as file:
        file.write(maps.data)
        os.fsync(file.fileno())


def _open_pread(folder: Path, handles: ExitStack) -> Read:
    handle = os.open(folder / "maps.bin", os.O_RDONLY)
    handles.callback(os.close, handle)
    return lambda rows: [os.pread(handle, 648, 648 * row) for row in rows.tolist()]


def _write_h5py(folder: Path, maps: Maps) -> None:
    folder.mkdir()
    with h5py.File(folder / "maps.h5", "w") as file:
        file["maps"] = maps
    _sync(folder / "maps.h5")


def _open_h5py(folder: Path, handles: ExitStack) -> Read:
    dataset = handles.enter_context(h5py.File(folder / "maps.h5"))["maps"]
    return lambda rows: [dataset[row] for row in rows.tolist()]


def _write_lmdb(folder: Path, maps: Maps) -> None:
    import lmdb

    with lmdb.open(str(folder), map_size=1 << 32) as base, base.begin(write=True) as change:
        for row, values in enumerate(maps):
            change.put(row.to_bytes(4, "big"), values.tobytes(), append=True)


def _open_lmdb(folder: Path, handles: ExitStack) -> Read:
    import lmdb

    base = handles.enter_context(lmdb.open(str(folder), readonly=True, lock=False, readahead=False))
    look = handles.enter_context(base.begin())
    return lambda rows: [np.frombuffer(look.get(row.to_bytes(4, "big")) or b"", np.float16) for row in rows.tolist()]


def _write_zarr(folder: Path, maps: Maps) -> None:
    import zarr

    array = zarr.open(str(folder), mode="w", shape=maps.shape, chunks=(CHUNK, *maps.shape[1:]), dtype=maps.dtype)
    array[:] = maps


def _open_zarr(folder: Path, _: ExitStack) -> Read:
    import zarr

    array = zarr.open(str(folder), mode="r")
    return lambda rows: [array[row] for row in rows.tolist()]


def _write_webdataset(folder: Path, maps: Maps) -> None:
    import webdataset

    folder.mkdir()
    for shard, part in enumerate(np.array_split(maps, SHARDS)):
        with webdataset.TarWriter(str(folder / f"{shard:05d}.tar")) as tar:
            for row, values in enumerate(part):
                tar.write({"__key__": f"{row:07d}", "map": values.tobytes()})


def _open_webdataset(folder: Path, _: ExitStack) -> Read:
    """It cannot look up a row: as many are read as asked for, in the order of the tars."""
    import webdataset

    tars: Sequence[str] = sorted(map(str, folder.glob("*.tar")))

    def endless() -> Iterator[Any]:
        while True:
            yield from webdataset.WebDataset(tars, shardshuffle=False, empty_check=False)

    samples = endless()
    return lambda rows: [np.frombuffer(sample["map"], np.float16) for sample in islice(samples, len(rows))]


def _write_files(folder: Path, maps: Maps) -> None:
    folder.mkdir()
    for row, values in enumerate(torch.from_numpy(maps)):
        torch.save(values.clone(), folder / f"{row}.pt")


def _open_files(folder: Path, _: ExitStack) -> Read:
    return lambda rows: [torch.load(folder / f"{row}.pt", weights_only=True) for row in rows.tolist()]


def _sync(file: Path) -> None:
    handle = os.open(file, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def drop_cached(files: Sequence[Path]) -> None:
    """Ask the system to forget the content of files; it keeps what a process has mapped and touched."""
    for file in files:
        handle = os.open(file, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def cached_share(files: Sequence[Path]) -> float:
    """Which share of the files' pages is in memory, by mincore(2)."""
    import ctypes

    mincore = ctypes.CDLL(None).mincore
    mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    found = pages = 0
    for file in files:
        size = file.stat().st_size
        if size == 0:
            continue
        with open(file, "rb") as stream, mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            states = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
            view = np.frombuffer(mapped, np.uint8)
            mincore(view.ctypes.data, size, states.ctypes.data)
            del view
        found += int((states & 1).sum())
        pages += len(states)
    return found / max(1, pages)
