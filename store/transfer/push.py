"""Pushing a store to a URL: what is missing or differs there, and last of all the manifest that makes it visible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from store.checking.verify import require_sound
from store.errors import StoreError, StoreMismatch, TransferError
from store.folder.create import read_header
from store.folder.files import StrPath, require_all_shards
from store.format.checksum import CHECKSUM_NBYTES
from store.format.header import Header
from store.spec import CARD_FILE, MANIFEST_FILE
from store.transfer.card import BEGIN, make_card
from store.transfer.hub import HubRemote
from store.transfer.manifest import (
    Manifest,
    Stamp,
    changed,
    digest_file,
    header_number,
    in_order,
    is_store_file,
    stamps,
    store_files,
)
from store.transfer.places import local_folder, open_remote
from store.transfer.published import Found, latest_header, look_at, read_page
from store.transfer.remote import FolderRemote, Remote, Sent, in_parallel, travel
from store.transfer.result import OnProgress, Progress, Transfer, silent


def push(path: StrPath, url: StrPath, *, on_progress: OnProgress = silent) -> Transfer:
    """Copy a complete store to any URL that fsspec knows, or another folder; called again, it goes on.

    The store is verified first. Only files that are missing there or differ travel; what is there is recognised by
    the manifest of an earlier push, else by length and the checksum at its end. While something is replaced, and
    until everything has arrived, the place says that it holds no complete store. `on_progress` is told how many of
    how many bytes have been sent.

    Raises ShardError for an incomplete store, StoreError for a damaged one, StoreMismatch where the place holds
    another store or a later state of this one, TransferError where the place cannot be reached or written to.
    """
    folder = local_folder(path).absolute()
    header = read_header(folder)
    require_all_shards(folder, header)
    remote = open_remote(url, to_write=True)
    _refuse_itself(folder, remote)
    _require_own(remote, header)  # before everything is read, which may take hours
    names = store_files(header)
    seen = stamps(folder, names)
    require_sound(folder)
    digests = in_parallel(digest_file, [folder / name for name in names])
    manifest = Manifest(header.content_digest, dict(zip(names, digests, strict=True)))
    missing = _Push(folder, header, remote, manifest, seen).run(on_progress)
    moved = sum(manifest.files[name].nbytes for name in missing)
    return Transfer(remote.url, folder, header.content_digest, len(names), manifest.nbytes, len(missing), moved)


@dataclass(frozen=True)
class _Push:
    """A store on its way."""

    folder: Path
    header: Header
    remote: Remote
    manifest: Manifest
    seen: Mapping[str, Stamp | None]  # the files here, before they were read

    def run(self, on_progress: OnProgress) -> list[str]:
        """Make the place what the manifest says; returns the names of the files that had to travel."""
        there = self.require_own()
        missing = self.missing(there)
        progress = Progress(self.manifest, missing, on_progress)
        if missing or there.manifest != self.manifest:
            card = _card(self.folder, self.remote, self.header, self.manifest, there.sizes)
            last = Sent(MANIFEST_FILE, self.manifest.to_json())
            if isinstance(self.remote, HubRemote):
                what = f"{self.header.rows} maps of {self.header.dataset['root_name']}"
                summary = f"{what}, content digest {self.header.content_digest[:16]}"
                files = [*map(self.file, missing), *card, last]
                self.remote.commit(files, summary, progress.moved, self.require_unchanged)
            else:
                self.send(missing, card, there.manifest, progress)
                self.remote.send(last)
        return missing

    def require_own(self) -> Found:
        """What is there now; StoreMismatch where that is another store, or a later state of this one."""
        return _require_own(self.remote, self.header)

    def file(self, name: str) -> Sent:
        """A file of the store, to be sent."""
        return Sent(name, self.folder / name)

    def missing(self, there: Found) -> list[str]:
        """The files that are not there as they are here, in the order in which they may become visible.

        Those that a manifest there names are told by their digests, others by what is at their end.
        """
        old = there.manifest.files if there.manifest else {}

        def differs(name: str) -> bool:
            wanted = self.manifest.files[name]
            if there.sizes.get(name) != wanted.nbytes:
                return True
            if name in old:
                return old[name] != wanted
            start = 0 if header_number(name) is not None else wanted.nbytes - CHECKSUM_NBYTES  # headers carry none
            return self.remote.read(name, start) != _bytes_from(self.folder / name, start)

        names = in_order(self.manifest.files)
        return [name for name, missing in zip(names, in_parallel(differs, names), strict=True) if missing]

    def send(self, missing: Sequence[str], card: Sequence[Sent], old: Manifest | None, progress: Progress) -> None:
        """All but the manifest, which may be sent when this ends well. Others may push to the place meanwhile."""
        begun = Manifest(self.manifest.content_digest, {}, complete=False)
        if old != begun and (old is None or not old.complete or any(name in old.files for name in missing)):
            # else what is pulled meanwhile is the earlier state, of which nothing changes
            self.remote.send(Sent(MANIFEST_FILE, begun.to_json()))
            self.require_own()
        travel(missing, lambda name: self.remote.send(self.file(name)), progress.moved, before_headers=self.require_own)
        for page in card:
            self.remote.send(page)
        self.require_unchanged()
        if torn := self.missing(Found(self.require_own().sizes, None)):
            raise TransferError(
                f"{self.remote.url}/{torn[0]}: expected the file that was sent, found another or none; is another push "
                "at work? Run again"
            )

    def require_unchanged(self) -> None:
        """TransferError where a file here is no longer the one whose digest the manifest has."""
        if names := changed(self.folder, self.seen):
            raise TransferError(
                f"{self.folder / names[0]}: expected the file that was there when the push began, found that it was "
                "changed meanwhile; run again when no other job writes there"
            )


def _bytes_from(file: Path, start: int) -> bytes:
    with open(file, "rb") as stream:
        stream.seek(start)
        return stream.read()


def _card(folder: Path, remote: Remote, header: Header, manifest: Manifest, sizes: Mapping[str, int]) -> list[Sent]:
    """The card as a file to send; none where it stays as it is. One that was pulled with the store goes on with it."""
    here = folder / CARD_FILE
    present: bytes | None = here.read_bytes() if here.is_file() else None
    if present is not None and BEGIN.encode() not in present:  # some other page, which is no part of the store
        present = None
    if CARD_FILE in sizes:
        present = read_page(remote, CARD_FILE, sizes)
    try:
        text = None if present is None else present.decode("utf-8")
    except UnicodeDecodeError:  # a person's, whatever it is
        return []
    made = make_card(folder, header, manifest, remote.url, text).encode("utf-8")
    return [] if CARD_FILE in sizes and made == present else [Sent(CARD_FILE, made)]


def _refuse_itself(folder: Path, remote: Remote) -> None:
    if isinstance(remote, FolderRemote):
        there, here = remote.folder.resolve(), folder.resolve()
        if there.is_relative_to(here):
            raise StoreError(
                f"{remote.url}: expected another folder, found the store itself; give a place outside of it"
            )


def _require_own(remote: Remote, header: Header) -> Found:
    """What is there now; StoreMismatch unless that is this very store, as it is or was before an extension, or none."""
    there = look_at(remote)
    found = _header_there(remote, header, there)
    digest = found.content_digest if found else there.manifest.content_digest if there.manifest else None
    if digest in header.lineage:
        return there
    if found is not None and header.content_digest in found.lineage:
        raise StoreMismatch(
            f"{remote.url}: expected an earlier state of the store or none, found one with {len(found.earlier)} "
            f"extensions, and here are {len(header.earlier)}; pull it first"
        )
    parts = sorted(filter(is_store_file, there.sizes))
    if digest is not None or parts:
        what = f"content digest {digest[:16]}..." if digest else f"{parts[0]} without a manifest"
        raise StoreMismatch(
            f"{remote.url}: expected this store, of content digest {header.content_digest[:16]}..., or none, found "
            f"{what}; give another URL, or remove what is there"
        )
    return there


def _header_there(remote: Remote, header: Header, there: Found) -> Header | None:
    """The last header; None also for one that a push of this very store left torn, where files do not appear whole."""
    try:
        return latest_header(remote, there.sizes)
    except TransferError:
        raise
    except StoreError:
        begun = there.manifest
        if begun is None or begun.complete or begun.content_digest != header.content_digest:
            raise
        return None
