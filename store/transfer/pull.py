"""Pulling a store from a URL: into a folder beside its place, verified there, and then into its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from store.checking.verify import require_sound
from store.errors import StoreError, TransferError
from store.folder.files import (
    StrPath,
    discard_leftovers,
    is_temporary,
    sync_file,
    whole,
    write_whole,
)
from store.folder.lock import locked
from store.format.header import Header
from store.spec import CARD_FILE, MANIFEST_FILE
from store.transfer.manifest import Manifest, digest_file, in_order, is_store_file, stamps, store_files
from store.transfer.places import local_folder, open_remote
from store.transfer.published import latest_header, look_at, read_page
from store.transfer.remote import UNKNOWN_NBYTES, Remote, travel
from store.transfer.result import OnProgress, Progress, Say, Transfer, silent
from store.transfer.target import (
    discard,
    expect_target,
    is_there,
    put_in_place,
    require_leftovers,
    require_unchanged,
    sound_files,
)


class _Published(NamedTuple):
    """A complete store at a place, and the lengths of all files there."""

    manifest: Manifest
    header: Header
    sizes: Mapping[str, int]


def pull(url: StrPath, path: StrPath, *, on_progress: OnProgress = silent, say: Say = silent) -> Transfer:
    """Copy a pushed store to the folder `path`; called again, it goes on.

    Files arrive in the folder `PATH.pull`, where each is compared with the SHA-256 of the manifest and all together
    with the rules of the format; then they become the store by one rename. Where `path` holds an earlier or incomplete
    copy of this store, missing and damaged files are added, the header last: whoever reads the earlier state goes on.
    Of several processes one pulls, and the others wait for it, or for its end. `on_progress` is told how many of how
    many bytes have come, `say` what is waited for.

    Raises StoreMismatch where `path` holds another store, a later state, or sound files that differ; TransferError
    where the URL holds no complete store, cannot be reached, or gives other bytes than it says.
    """
    target = local_folder(path).resolve()  # a link to a folder stays one
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.with_name(f".{target.name}.pull.lock"), lambda: say(f"{target}: another process pulls it")):
        remote = open_remote(url)
        published = _published(remote)
        manifest, header = published.manifest, published.header
        there = is_there(target, header, remote.url)
        try:
            moved = _pull_missing(remote, published, target, on_progress)
        except (OSError, StoreError):
            # where locks do not hold, another process may have finished the same work just now
            if there or not is_there(target, header, remote.url):
                raise
            moved = []
    nbytes = sum(manifest.files[name].nbytes for name in moved)
    return Transfer(remote.url, target, header.content_digest, len(manifest.files), manifest.nbytes, len(moved), nbytes)


def _published(remote: Remote) -> _Published:
    """What the place holds; TransferError for no store, or none that is complete."""
    sizes, manifest = look_at(remote)
    if manifest is None:
        found = "files of a store without one; push them" if any(map(is_store_file, sizes)) else "none; check the URL"
        raise TransferError(f"{remote.url}: not a pushed store: expected {MANIFEST_FILE} there, found {found}")
    if not manifest.complete:
        raise TransferError(
            f"{remote.url}: expected a complete store, found a push that is under way or was stopped; wait for its "
            "end, or push again"
        )
    header = latest_header(remote, {name: sizes.get(name, UNKNOWN_NBYTES) for name in manifest.files})
    if (
        header is None
        or header.content_digest != manifest.content_digest
        or set(store_files(header)) != manifest.files.keys()
    ):
        raise TransferError(
            f"{remote.url}: expected the header and the files that {MANIFEST_FILE} names, found others; was it pushed "
            "to meanwhile? Run again, or push again"
        )
    return _Published(manifest, header, sizes)


def _pull_missing(remote: Remote, published: _Published, target: Path, on_progress: OnProgress) -> list[str]:
    """Bring the target to what the manifest says; returns the names of the files that travelled."""
    manifest, header, sizes = published
    seen = stamps(target, manifest.files)
    update = expect_target(target, header, remote.url)
    here = sound_files(target, manifest, header) if update else frozenset()
    staging = target.with_name(f"{target.name}.pull")
    require_leftovers(staging, header)
    if len(here) == len(manifest.files):
        discard(staging)  # of a call that was killed at its very end
        return []
    staged = _prepare(staging, manifest, target, here)
    missing = [name for name in in_order(manifest.files) if name not in here | staged]
    _require_lengths(remote, published, missing)
    progress = Progress(manifest, missing, on_progress)
    with remote.quietly():
        travel(missing, lambda name: _fetch_one(remote, manifest, name, staging), progress.moved)
    require_sound(staging)
    if CARD_FILE in sizes and not (target / CARD_FILE).exists():
        write_whole(staging / CARD_FILE, read_page(remote, CARD_FILE, sizes))  # it says under which licence they are
    require_unchanged(target, manifest, seen)
    put_in_place(staging, target, manifest, here, update=update)
    return missing


def _prepare(staging: Path, manifest: Manifest, target: Path, here: frozenset[str]) -> frozenset[str]:
    """Make the folder, with links to what the target has; returns the files that an earlier call brought."""
    staging.mkdir(exist_ok=True)
    discard_leftovers(staging)
    staged = set()
    for file in list(staging.iterdir()):
        if is_temporary(file):  # of another machine, where locks do not hold
            continue
        wanted = manifest.files.get(file.name)
        if wanted and not file.is_symlink() and digest_file(file) == wanted:
            staged.add(file.name)
        else:
            file.unlink(missing_ok=True)
    for name in here - staged:
        (staging / name).symlink_to(target / name)
    return frozenset(staged)


def _require_lengths(remote: Remote, published: _Published, missing: Sequence[str]) -> None:
    """TransferError, before anything travels, where a file cannot be the one of the manifest."""
    for name in missing:
        nbytes, found = published.manifest.files[name].nbytes, published.sizes.get(name)
        if found not in (nbytes, UNKNOWN_NBYTES):
            raise TransferError(
                f"{remote.url}/{name}: expected {nbytes} bytes, found {'no such file' if found is None else found}; "
                "was it pushed to meanwhile? Run again, or push again"
            )


def _fetch_one(remote: Remote, manifest: Manifest, name: str, staging: Path) -> None:
    with whole(staging / name) as temporary:
        remote.fetch(name, temporary)
        if (found := digest_file(temporary)) != (wanted := manifest.files[name]):
            raise TransferError(
                f"{remote.url}/{name}: expected {wanted.nbytes} bytes with SHA-256 {wanted.sha256[:16]}..., found "
                f"{found.nbytes} with {found.sha256[:16]}...; was it pushed to meanwhile? Run again; else remove this "
                "damaged file there, and push again"
            )
        sync_file(temporary)
