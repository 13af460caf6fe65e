"""Pushing a store to a URL: what is missing or differs there, and last of all the manifest that makes it visible."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
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
from store.transfer.manifest import Manifest, digest_file, header_number, in_order, is_store_file, store_files
from store.transfer.places import open_remote
from store.transfer.published import latest_header, read_manifest
from store.transfer.remote import FolderRemote, Remote, Sent, in_parallel
from store.transfer.result import OnProgress, Transfer, silent


def push(path: StrPath, url: StrPath, *, on_progress: OnProgress = silent) -> Transfer:
    """Copy a complete store to any URL that fsspec knows, or another folder; called again, it goes on.

    The store is verified first. Only files that are missing there or differ travel; what is there is recognised by
    the manifest of an earlier push, else by length and the checksum at its end. While something is replaced, and
    until everything has arrived, the place says that it holds no complete store. `on_progress` is told how many of
    how many bytes have been sent.

    Raises ShardError for an incomplete store, StoreError for a damaged one, StoreMismatch where the place holds
    another store or a later state of this one, TransferError where the place cannot be reached or written to.
    """
    folder = Path(path).absolute()
    header = read_header(folder)
    require_all_shards(folder, header)
    remote = open_remote(url, to_write=True)
    _refuse_itself(folder, remote)
    sizes = remote.sizes()
    old = read_manifest(remote, sizes)
    _refuse_other(remote, header, sizes, old)
    require_sound(folder)
    names = store_files(header)
    digests = in_parallel(digest_file, [folder / name for name in names])
    manifest = Manifest(header.content_digest, dict(zip(names, digests, strict=True)))
    job = _Push(folder, header, remote, manifest)
    missing = job.missing(sizes, old)
    total, done = sum(manifest.files[name].nbytes for name in missing), 0

    def count(sent: Sent) -> None:
        nonlocal done
        done += manifest.files[sent.name].nbytes if sent.name in manifest.files else 0
        on_progress(done, total)

    on_progress(0, total)
    if missing or old != manifest:
        job.send(missing, _card(folder, remote, header, manifest, sizes), old, count)
    return Transfer(remote.url, folder, header.content_digest, len(names), manifest.nbytes, len(missing), total)


@dataclass(frozen=True)
class _Push:
    """A store on its way."""

    folder: Path
    header: Header
    remote: Remote
    manifest: Manifest

    def missing(self, sizes: Mapping[str, int], old: Manifest | None) -> list[str]:
        """The files that are not there as they are here, in the order in which they may become visible.

        `sizes`: what is there; `old`: which digests it has, None: to be told by the checksums.
        """

        def differs(name: str) -> bool:
            wanted = self.manifest.files[name]
            if sizes.get(name) != wanted.nbytes:
                return True
            if old is not None and name in old.files:
                return old.files[name] != wanted
            last = None if header_number(name) is not None else CHECKSUM_NBYTES  # headers carry none at their end
            return self.remote.read(name, last) != _last_bytes(self.folder / name, last)

        names = in_order(self.manifest.files)
        return [name for name, missing in zip(names, in_parallel(differs, names), strict=True) if missing]

    def send(
        self, missing: Sequence[str], card: Sequence[Sent], old: Manifest | None, count: Callable[[Sent], object]
    ) -> None:
        """Make the place what the manifest says; `count` is called with each file that has arrived."""
        files = [Sent(name, self.folder / name) for name in missing]
        last = Sent(MANIFEST_FILE, self.manifest.to_json())
        if isinstance(self.remote, HubRemote):
            what = f"{self.header.rows} maps of {self.header.dataset['root_name']}"
            summary = f"{what}, content digest {self.header.content_digest[:16]}"
            self.remote.commit([*files, *card, last], summary, count)
            return
        if old is None or not old.complete or any(name in old.files for name in missing):
            # else what is pulled meanwhile is the earlier state, of which nothing changes
            begun = Manifest(self.manifest.content_digest, {}, complete=False)
            self.remote.send(Sent(MANIFEST_FILE, begun.to_json()))
        self._send_in_order(files, count)
        for page in card:
            self.remote.send(page)
        if torn := self.missing(self.remote.sizes(), None):
            raise TransferError(
                f"{self.remote.url}/{torn[0]}: expected the file that was sent, found another or none; is another push "
                "at work? Run again"
            )
        self.remote.send(last)

    def _send_in_order(self, files: Sequence[Sent], count: Callable[[Sent], object]) -> None:
        """Headers last, and only where nobody else has begun to push another store meanwhile."""

        def send(sent: Sent) -> Sent:
            self.remote.send(sent)
            return sent

        for sent in in_parallel(send, [file for file in files if header_number(file.name) is None]):
            count(sent)
        sizes = self.remote.sizes()
        _refuse_other(self.remote, self.header, sizes, read_manifest(self.remote, sizes))
        for sent in (file for file in files if header_number(file.name) is not None):
            count(send(sent))


def _last_bytes(file: Path, count: int | None) -> bytes:
    """All bytes where `count` is None."""
    with open(file, "rb") as stream:
        if count is not None:
            stream.seek(-count, os.SEEK_END)
        return stream.read()


def _card(folder: Path, remote: Remote, header: Header, manifest: Manifest, sizes: Mapping[str, int]) -> list[Sent]:
    """The card as a file to send; none where it stays as it is. One that was pulled with the store goes on with it."""
    here = folder / CARD_FILE
    present: bytes | None = here.read_bytes() if here.is_file() else None
    if present is not None and BEGIN.encode() not in present:  # some other page, which is no part of the store
        present = None
    if CARD_FILE in sizes:
        present = remote.read(CARD_FILE)
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


def _refuse_other(remote: Remote, header: Header, sizes: Mapping[str, int], old: Manifest | None) -> None:
    """Only this very store, as it is or was before an extension, may be there already."""
    found = latest_header(remote, sizes)
    lineage = header.lineage
    digest = found.content_digest if found else old.content_digest if old else None
    if digest in lineage:
        return
    if found is not None and header.content_digest in found.lineage:
        raise StoreMismatch(
            f"{remote.url}: expected an earlier state of the store or none, found one with {len(found.earlier)} "
            f"extensions, and here are {len(header.earlier)}; pull it first"
        )
    parts = sorted(filter(is_store_file, sizes))
    if digest is not None or parts:
        what = f"content digest {digest[:16]}..." if digest else f"{parts[0]} without a manifest"
        raise StoreMismatch(
            f"{remote.url}: expected this store, of content digest {header.content_digest[:16]}..., or none, found "
            f"{what}; give another URL, or remove what is there"
        )
