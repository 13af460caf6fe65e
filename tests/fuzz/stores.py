"""Stores that went wrong, each by its seed: flipped, cut, rewritten, and pointing elsewhere."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from store import Header, MapStore, StoreError, verify

Rng = np.random.Generator
# What a change meets that comes after another one, and cannot be done.
RESISTS = (OSError, RuntimeError, LookupError, ValueError, TypeError, MemoryError)
Change = Callable[[Path, Rng], None]
NAMES = ("label_logit", "label", "prediction", "size", "view", "status", "digest", "key", "error")


def try_store(pristine: Path, seed: int) -> str:
    """Spoil a copy and do all that one does with a store: each is "read", or "refused" by a StoreError."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        path = shutil.copytree(pristine, Path(folder) / "maps")
        for _ in range(int(rng.integers(1, 3))):
            with suppress(*RESISTS):
                CHANGES[int(rng.integers(len(CHANGES)))](path, rng)
        if rng.random() < 0.15:  # last, for whatever is changed through a link is not ours
            LAST[int(rng.integers(len(LAST)))](path, rng)
        outcomes = [_outcome(action, path) for action in (_read, _read_unchecked, _verify)]
        if "sound" in outcomes:
            assert _content(path) == _content(pristine), "verify calls it sound"
    return " ".join(outcomes)


def _outcome(action: Callable[[Path], str | None], path: Path) -> str:
    try:
        return action(path) or "read"
    except StoreError:
        return "refused"


def _read(path: Path, check: bool = True) -> None:
    store = MapStore(path, check=check)
    rows = range(len(store))
    store.read(rows), store.views(rows)
    list(store.keys), store.labels, store.predictions, store.sizes, store.statuses, store.errors


def _read_unchecked(path: Path) -> None:
    _read(path, check=False)


def _verify(path: Path) -> str:
    return "sound" if verify(path).ok else "unsound"


def _content(path: Path) -> list[Any]:
    store = MapStore(path)
    arrays = (
        store.read(range(17)),
        store.views(range(17)),
        store.labels,
        store.predictions,
        store.sizes,
        store.statuses,
    )
    return [*(array.tobytes() for array in arrays), list(store.keys), store.errors]


def _shard(path: Path, rng: Rng) -> Path:
    return sorted(path.glob("shard-*.h5"))[int(rng.integers(3))]


def flip_bytes(path: Path, rng: Rng) -> None:
    """A few bytes anywhere, or among the structures at the file's head."""
    _flip(_shard(path, rng), rng)


def flip_header(path: Path, rng: Rng) -> None:
    """A few bytes of store.json."""
    _flip(path / "store.json", rng)


def _flip(file: Path, rng: Rng) -> None:
    data = bytearray(file.read_bytes())
    most = len(data) if rng.random() < 0.5 else min(len(data), 6000)
    for at in rng.integers(0, most, int(rng.integers(1, 17))).tolist():
        data[at] = int(rng.integers(256))
    file.write_bytes(data)


def cut_or_grow(path: Path, rng: Rng) -> None:
    """Another length."""
    file = _shard(path, rng)
    os.truncate(file, int(rng.integers(0, 2 * file.stat().st_size)))


def old_structures(path: Path, rng: Rng) -> None:
    """As another writer might store it, without checksums; then a few bytes flipped."""
    file = _shard(path, rng)
    with h5py.File(file) as old:
        columns, attributes = {name: old[name][()] for name in old}, dict(old.attrs)
        types = {name: old[name].dtype for name in old}
    with h5py.File(file, "w", libver="earliest") as new:
        for name, values in columns.items():
            new.create_dataset(name, data=values.astype(types[name]))
        new.attrs.update(attributes)
    _flip(file, rng)


def rewritten(path: Path, rng: Rng) -> None:
    """One dataset is another thing."""
    file, name = _shard(path, rng), str(rng.choice(NAMES))
    with h5py.File(file, "r+") as shard:
        values = shard[name][()] if name in shard and isinstance(shard[name], h5py.Dataset) else np.zeros(6)
        if name in shard:
            del shard[name]
        FORMS[int(rng.integers(len(FORMS)))](shard, name, values, path)


def _huge(shard: h5py.File, name: str, values: Any, _: Path) -> None:
    shard.create_dataset(name, shape=(1 << 40, *values.shape[1:]), chunks=(1024, *values.shape[1:]), dtype=values.dtype)


def _virtual(shard: h5py.File, name: str, values: Any, path: Path) -> None:
    layout = h5py.VirtualLayout(values.shape, values.dtype)
    layout[...] = h5py.VirtualSource(str(path.parent / "maps" / "shard-00000.h5"), name, values.shape)
    shard.create_virtual_dataset(name, layout)


def _attribute(shard: h5py.File, name: str, values: Any, _: Path) -> None:
    shard[name] = values
    shard.attrs[["rows", "shard", "format", "content_digest"][len(name) % 4]] = [1, 2, 3]


def _as(*, data: bool = False, **settings: Any) -> Callable[[h5py.File, str, Any, Path], Any]:
    """A dataset of the old shape with other settings."""

    def form(shard: h5py.File, name: str, values: Any, _: Path) -> None:
        kept = {"data": values} if data else {"shape": values.shape}
        shard.create_dataset(name, **({"dtype": values.dtype} | kept | settings))

    return form


def _link(make: Callable[[str, Path], Any]) -> Callable[[h5py.File, str, Any, Path], Any]:
    def form(shard: h5py.File, name: str, _values: Any, path: Path) -> None:
        shard[name] = make(name, path)

    return form


def _shorter(shard: h5py.File, name: str, values: Any, _: Path) -> None:
    shard[name] = values[:-1]


def _deeper(shard: h5py.File, name: str, values: Any, _: Path) -> None:
    shard[name] = values[..., None]


def _group(shard: h5py.File, name: str, _values: Any, _: Path) -> None:
    shard.create_group(name)


def _nothing(_shard: h5py.File, _name: str, _values: Any, _: Path) -> None:
    pass


def _empty(shard: h5py.File, name: str, _values: Any, _: Path) -> None:
    shard[name] = h5py.Empty("f4")


FORMS: tuple[Callable[[h5py.File, str, Any, Path], Any], ...] = (
    _shorter, _deeper, _group, _nothing, _empty, _virtual, _huge, _attribute,
    _as(),
    _as(dtype=">f8"),
    _as(dtype=np.dtype([("a", "i4"), ("b", "f8")])),
    _as(dtype=h5py.string_dtype()),
    _as(dtype=h5py.ref_dtype),
    _as(dtype=h5py.enum_dtype({"a": 1}, "i4")),
    _as(data=True, chunks=True, compression="gzip"),
    _as(data=True, chunks=True, fletcher32=True),
    _as(external=[("/dev/zero", 0, h5py.h5f.UNLIMITED)]),
    _link(lambda *_: h5py.SoftLink("/label")),
    _link(lambda name, _: h5py.SoftLink(f"/{name}")),
    _link(lambda name, path: h5py.ExternalLink(str(path / "shard-00001.h5"), name)),
    _link(lambda name, _: h5py.ExternalLink("/dev/zero", name)),
)  # fmt: skip


def exchanged(path: Path, rng: Rng) -> None:
    """Two datasets under each other's names."""
    first, second = rng.choice(NAMES, 2, replace=False).tolist()
    with h5py.File(_shard(path, rng), "r+") as shard:
        if first in shard and second in shard:
            shard.move(first, "x")
            shard.move(second, first)
            shard.move("x", second)


def linked(path: Path, rng: Rng) -> None:
    """A shard, or the header, is a link to something else."""
    file = _shard(path, rng) if rng.random() < 0.7 else path / "store.json"
    file.unlink()
    places = (path / "shard-00000.h5", "/dev/zero", "/dev/null", path, "nowhere", file.name)
    file.symlink_to(places[int(rng.integers(len(places)))])


def pipe(path: Path, rng: Rng) -> None:
    """A file that never answers."""
    file = _shard(path, rng) if rng.random() < 0.7 else path / "store.json"
    file.unlink()
    os.mkfifo(file)


def another_header(path: Path, rng: Rng) -> None:
    """A header that is right in itself, digest and all, and says something else."""
    document = json.loads((path / "store.json").read_bytes())
    try:
        name = str(rng.choice(list(document)))
        document[name] = VALUES[int(rng.integers(len(VALUES)))]
        fields = {key: document[key] for key in document if key not in ("format", "version", "content_digest")}
        document["content_digest"] = Header(**fields).content_digest
    except (ValueError, TypeError, KeyError, StoreError):
        pass  # such a header cannot be made; whatever came of it is tried
    (path / "store.json").write_text(json.dumps(document))


VALUES: tuple[Any, ...] = (
    0, 1, 2, -1, 7, 17, 18, 1 << 31, 1 << 62, 1 << 200, 1e308, 0.5, True, None, "", "x", "float32", "uint8", "topk",
    "features", "cam", [], [1], [3, 5], [5, 3], [1 << 40, 1 << 40], ["a"] * 70_000, {}, {"digest": 3},
    {"root_name": "x", "class_names": [], "teacher_class": [], "digest": "0"}, {"a": [[[[[[]]]]]]},
)  # fmt: skip

CHANGES: tuple[Change, ...] = (
    flip_bytes,
    flip_bytes,
    flip_header,
    cut_or_grow,
    old_structures,
    rewritten,
    rewritten,
    rewritten,
    exchanged,
    another_header,
    another_header,
)
LAST: tuple[Change, ...] = (linked, pipe)
