"""Pushing a store to a URL: what is missing or differs there, and last of all the manifest that makes it visible."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    missing = _missing(folder, remote, manifest, sizes, old)
    files = [Sent(name, folder / name) for name in missing]
    total, done = sum(manifest.files[name].nbytes for name in missing), 0

    def count(sent: Sent) -> None:
        nonlocal done
        done += manifest.files[sent.name].nbytes if sent.name in manifest.files else 0
        on_progress(done, total)

    on_progress(0, total)
    if files or old != manifest:
        card = _card(folder, remote, header, manifest, sizes)
        if isinstance(remote, HubRemote):
            summary = (
                f"{header.rows} maps of {header.dataset['root_name']}, content digest {header.content_digest[:16]}"
            )
            remote.commit([*files, *card, Sent(MANIFEST_FILE, manifest.to_json())], summary, count)
        else:
            keep = old is not None and old.complete and not any(name in old.files for name in missing)
            _send(remote, files, card, manifest, count, keep=keep)
    return Transfer(remote.url, folder, header.content_digest, len(names), manifest.nbytes, len(files), total)


def _send(
    remote: Remote,
    files: Sequence[Sent],
    card: Sequence[Sent],
    manifest: Manifest,
    count: Callable[[Sent], object],
    *,
    keep: bool,
) -> None:
    """Send in an order in which nothing unfinished is a store; `keep`: what the old manifest lists stays as it is."""

    def send(sent: Sent) -> Sent:
        remote.send(sent)
        return sent

    if not keep:
        remote.send(Sent(MANIFEST_FILE, Manifest(manifest.content_digest, {}, complete=False).to_json()))
    for sent in in_parallel(send, [file for file in files if header_number(file.name) is None]):
        count(sent)
    for sent in (file for file in files if header_number(file.name) is not None):
        count(send(sent))
    for sent in card:
        remote.send(sent)
    sizes = remote.sizes()
    torn = [name for name, digest in manifest.files.items() if sizes.get(name) != digest.nbytes]
    if torn:
        raise TransferError(
            f"{remote.url}/{torn[0]}: expected {manifest.files[torn[0]].nbytes} bytes after the push, found "
            f"{sizes.get(torn[0], 'no such file')}; is another push at work? Run again"
        )
    remote.send(Sent(MANIFEST_FILE, manifest.to_json()))


def _missing(
    folder: Path, remote: Remote, manifest: Manifest, sizes: Mapping[str, int], old: Manifest | None
) -> list[str]:
    """The files that have to travel, in the order in which they may become visible."""

    def differs(name: str) -> bool:
        wanted = manifest.files[name]
        if sizes.get(name) != wanted.nbytes:
            return True
        if old is not None and name in old.files:
            return old.files[name] != wanted
        last = None if header_number(name) is not None else CHECKSUM_NBYTES  # headers carry none at their end
        here = (folder / name).read_bytes() if last is None else _last_bytes(folder / name, last)
        return remote.read(name, last) != here

    names = in_order(manifest.files)
    return [name for name, missing in zip(names, in_parallel(differs, names), strict=True) if missing]


def _last_bytes(file: Path, count: int) -> bytes:
    with open(file, "rb") as stream:
        stream.seek(-count, 2)
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
