"""Images in WebDataset shards: `wds/FOLDER`, cut into samples as WebDataset does it, with timm's labels."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from timm.data.readers.targets import get_field, has_field

from extract.errors import ImagesError
from extract.images.file_names import LINKS, LeftOut, natural_order, spell_suffixes
from extract.images.tables.rows import TableList, number_names, require_label
from extract.images.tar import refuse_packed, tar_members


class _Member(NamedTuple):
    """A file in a shard, its name cut at the first dot: `a/22.05.jpg` is key `a/22` and suffix `.05.jpg`."""

    tar: Path
    name: str
    key: str
    suffix: str
    offset: int
    nbytes: int

    def __str__(self) -> str:
        return f"{self.tar}: {self.name!r}"

    def read(self) -> bytes:
        with open(self.tar, "rb") as tar:
            return os.pread(tar.fileno(), self.nbytes, self.offset)


def list_wds(
    folder: str | Path, suffixes: Sequence[str], target_key: str | None = None, *, preferred: bool = False
) -> tuple[TableList, LeftOut]:
    """Every `.tar` of a folder, in natural order; the key is `__key__`, the label `.cls`.

    `target_key`: the field of `.json` that has the label, as in timm. `suffixes`: of images; with `preferred`, of
    several images in a sample the one whose suffix comes first counts, otherwise they are refused. Raises ImagesError
    for a folder without shards, an image without a label or with one that is no class index, a key that comes twice.
    """
    folder, left_out = Path(folder), LeftOut(suffixes)
    images, labels = dict[str, dict[str, _Member]](), dict[str, tuple[_Member, int]]()
    label_suffix = ".json" if target_key else ".cls"
    for member in _members(_shards(folder), left_out):
        if member.suffix in suffixes:
            _add_image(images.setdefault(member.key, {}), member)
        elif member.suffix == label_suffix:
            _refuse_second(labels.get(member.key), member)
            labels[member.key] = member, _read_label(member, target_key)
        else:
            left_out.add(f"{member.tar.name}/{member.name}", member.suffix)
    _require_images(folder, images, left_out)
    chosen = [_choose(found, suffixes, preferred) for found in images.values()]
    _require_labels(chosen, labels, label_suffix, left_out)
    numbers = np.array([labels[key][1] for key in images], np.int32)
    several = any(len(found) > 1 for found in images.values())
    by = {"input_key" if several else "suffixes": spell_suffixes(suffixes)}
    listed_by = {**by, "target_key": target_key} if target_key else by
    read = partial(_read, chosen)
    return TableList(folder, [*images], numbers, number_names(numbers), listed_by=listed_by, read=read), left_out


def _shards(folder: Path) -> list[Path]:
    if not folder.is_dir():
        found = "a file" if folder.is_file() else "no such folder"
        raise ImagesError(
            f"wds/{folder}: expected a folder of WebDataset's .tar shards, found {found}; give the folder in which the "
            "shards of one split lie, all of which are read"
        )
    names = sorted((name for name in os.listdir(folder) if not name.startswith(".")), key=natural_order)
    shards = [folder / name for name in names if name.lower().endswith(".tar")]
    for name in names:
        plain = re.sub(r"\.(tar\.\w+|tgz)$", ".tar", name, flags=re.IGNORECASE)
        if plain != name and plain not in names:  # else it was unpacked
            refuse_packed(folder / name)
    if not shards:
        raise ImagesError(
            f"wds/{folder}: expected WebDataset's .tar shards, found {', '.join(map(repr, names[:3])) or 'nothing'}; "
            "give the folder in which they lie themselves"
        )
    return shards


def _members(shards: Sequence[Path], left_out: LeftOut) -> Iterator[_Member]:
    for tar in shards:
        for member in tar_members(tar):
            folder, slash, name = member.name.rpartition("/")
            stem, dot, suffix = name.partition(".")
            if member.isdir():
                continue
            if member.isfile() and stem:  # a name that begins with a dot is none
                key = folder + slash + stem
                yield _Member(tar, member.name, key, dot + suffix.lower(), member.offset_data, member.size)
            else:
                left_out.add(f"{tar.name}/{member.name}", None if member.isfile() else LINKS)


def _add_image(found: dict[str, _Member], member: _Member) -> None:
    """One more image of a sample; in another shard it would be another sample of the same key."""
    before = next((one for one in found.values() if one.tar != member.tar or one.suffix == member.suffix), None)
    if before is not None:
        raise ImagesError(f"{member}: expected every key once, found it in {before} too; re-create the shards")
    found[member.suffix] = member


def _choose(found: dict[str, _Member], suffixes: Sequence[str], preferred: bool) -> _Member:
    if len(found) > 1 and not preferred:
        one, other = list(found.values())[:2]
        raise ImagesError(
            f"{one}: expected one image per sample, found {other.name!r} too; say which with --input-key, as "
            f"--input-key {one.suffix.lstrip('.')}"
        )
    return next(found[suffix] for suffix in suffixes if suffix in found)


def _read_label(member: _Member, target_key: str | None) -> int:
    """As timm's reader takes it: the number in `.cls`, or in a field of `.json`."""
    raw = member.read()
    value = _json_field(member, raw, target_key) if target_key else raw
    where = f"{member}: {target_key!r}" if target_key else str(member)
    try:
        label = int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):
        label = None
    if label is None or (isinstance(value, float) and value != label):
        raise ImagesError(
            f"{where}: expected a class index in digits, found {repr(value)[:80]}; number the classes from 0, or name "
            "the field of .json that has indices with --target-key"
        )
    return require_label(where, label)


def _json_field(member: _Member, raw: bytes, key: str) -> object:
    try:
        meta = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ImagesError(f"{member}: expected JSON, found {error}; re-create the shards") from error
    if not isinstance(meta, dict) or not has_field(meta, key):
        there = ", ".join(map(repr, meta)) if isinstance(meta, dict) else repr(meta)[:80]
        raise ImagesError(f"{member}: expected a field {key!r}, found {there}; name one of them with --target-key")
    found: object = get_field(meta, key)
    return found


def _require_images(folder: Path, images: dict[str, dict[str, _Member]], left_out: LeftOut) -> None:
    if not images:
        found = f"no image, but {left_out}" if left_out else "no image"
        raise ImagesError(
            f"wds/{folder}: expected images in WebDataset's .tar shards, found {found}; WebDataset takes all behind "
            "the first dot of a name for its suffix: rename such files, or name suffixes with --input-key"
        )


def _refuse_second(before: tuple[_Member, int] | None, member: _Member) -> None:
    if before is not None:
        raise ImagesError(f"{member}: expected one label per key, found {before[0]} too; re-create the shards")


def _require_labels(chosen: Sequence[_Member], labels: Mapping[str, object], suffix: str, left_out: LeftOut) -> None:
    without = [member for member in chosen if member.key not in labels]
    if without:
        raise ImagesError(
            f"{without[0]}: expected a label in {suffix} beside every image, found none for {len(without)} of "
            f"{len(chosen)} images, and beside them {left_out}; put one there, or name a field of .json "
            "with --target-key"
        )


def _read(chosen: Sequence[_Member], row: int) -> bytes:
    return chosen[row].read()
