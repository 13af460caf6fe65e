"""The folder that a store is pulled into: what may be there, and how what was pulled takes its place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from store.errors import StoreError, StoreMismatch
from store.folder.create import read_header
from store.folder.files import is_temporary, present_shards, sync_folder
from store.format.checksum import has_checksum
from store.format.header import Header
from store.spec import CARD_FILE, HEADER_FILE
from store.transfer.manifest import Manifest, Stamp, changed, digest_file, header_number, in_order, is_store_file
from store.transfer.remote import in_parallel


def header_of_copy(folder: Path, url: str) -> Header:
    """The header of what was pulled from there, if it was; StoreError says so."""
    try:
        return read_header(folder)
    except StoreError as error:
        raise StoreError(
            f"{folder}: expected a copy of {url}, found {error}; or move {folder} elsewhere, and pull again"
        ) from error


def expect_target(target: Path, header: Header, url: str) -> bool:
    """Whether the target holds a state of this store, which can be added to; False where nothing is there."""
    if os.path.ismount(target):
        raise StoreError(f"{target}: expected a folder that can be renamed, found a mount point; give a folder in it")
    if not os.path.lexists(target) or (target.is_dir() and not any(target.iterdir())):
        return False
    if not (target / HEADER_FILE).exists():
        raise StoreError(f"{target}: expected an empty folder, none, or a copy of this store; found something else")
    stored = header_of_copy(target, url)
    if stored.content_digest in header.lineage:
        return True
    if header.content_digest in stored.lineage:
        raise StoreMismatch(
            f"{target}: expected an earlier state of the store or none, found one with {len(stored.earlier)} "
            f"extensions; the one to pull has {len(header.earlier)}; push it, or pull into another folder"
        )
    raise StoreMismatch(
        f"{target}: expected content digest {header.content_digest[:16]}... or no store, found another store, "
        f"{stored.content_digest[:16]}...; pull into another folder"
    )


def sound_files(target: Path, manifest: Manifest, header: Header) -> frozenset[str]:
    """Files of the manifest that the target has; StoreMismatch for one that is whole and yet another.

    Which of the two is better cannot be known, and a reader may have it open.
    """

    def is_sound(name: str) -> bool:
        file, number = target / name, header_number(name)
        if not file.is_file():
            return False
        if digest_file(file) == manifest.files[name]:
            return True
        if number is not None:  # written on another machine it says other versions of libraries
            return _is_header_of(target, number, header)
        if has_checksum(file):
            raise StoreMismatch(
                f"{file}: expected the file that was pushed, or a damaged one, found another that is whole, as after "
                "`verify --retry-unreadable`; pull into another folder, or move this one away"
            )
        return False

    names = list(manifest.files)
    return frozenset(name for name, sound in zip(names, in_parallel(is_sound, names), strict=True) if sound)


def require_unchanged(target: Path, manifest: Manifest, seen: Mapping[str, Stamp | None]) -> None:
    """StoreError where files of the target are not those that were judged: what was written meanwhile must stay.

    What is pulled may have come: where locks do not hold, by another process.
    """
    for file in [target / name for name in changed(target, seen)]:
        if not (file.is_file() and digest_file(file) == manifest.files[file.name]):
            raise StoreError(
                f"{file}: expected what was there when the pull began, found that it was changed meanwhile; run again "
                "when no other job writes there"
            )


def is_there(target: Path, header: Header, url: str) -> bool:
    """Whether the target is this store as it was pushed, complete."""
    if not (target / HEADER_FILE).exists():
        return False
    stored = header_of_copy(target, url)
    complete = len(present_shards(target, stored)) == stored.sharding.shards
    return complete and stored.content_digest == header.content_digest


def require_leftovers(staging: Path, header: Header) -> None:
    """StoreError where the folder of a pull holds what no pull of this store has left: it may be a store, too."""
    for file in staging.iterdir() if staging.is_dir() else ():
        number = header_number(file.name)
        foreign = number is not None and not file.is_symlink() and not _is_header_of(staging, number, header)
        if foreign or not _is_left(file):
            raise StoreError(
                f"{staging}: expected what an earlier pull of this store left, found {file.name}; move it elsewhere"
            )


def put_in_place(staging: Path, target: Path, manifest: Manifest, here: frozenset[str], *, update: bool) -> None:
    """Let what was pulled become the store: by one rename, or, where a state of it is there, its header last."""
    if not update:
        os.rename(staging, target)  # also over an empty folder, and over no other
        sync_folder(target.parent)
        return
    for name in (*in_order(manifest.files.keys() - here), CARD_FILE):
        if (staging / name).exists() and not (staging / name).is_symlink():  # where locks do not hold, another's
            os.replace(staging / name, target / name)
            sync_folder(target)
    discard(staging)


def discard(staging: Path) -> None:
    """Remove the folder of a pull, if there is one."""
    if staging.is_dir():
        for file in filter(_is_left, list(staging.iterdir())):
            file.unlink(missing_ok=True)
        staging.rmdir()


def _is_left(file: Path) -> bool:
    """Whether a pull may leave a file of this name in its own folder."""
    return is_store_file(file.name) or is_temporary(file) or file.name == CARD_FILE


def _is_header_of(folder: Path, number: int, header: Header) -> bool:
    try:
        return [read_header(folder, number).content_digest] == list(header.lineage[number : number + 1])
    except StoreError:
        return False
