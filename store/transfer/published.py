"""What a place says of the store that it holds: its manifest and its last header."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from store.errors import StoreError
from store.format.header import Header
from store.spec import MANIFEST_FILE, header_name
from store.transfer.manifest import Manifest, header_number, is_torn
from store.transfer.remote import Remote

_MOST_NBYTES = 1 << 28  # what is read into memory: the manifest of a million shards is shorter


class Found(NamedTuple):
    """What is at a place: the lengths of its files, and what its manifest says of them."""

    sizes: Mapping[str, int]
    manifest: Manifest | None


def look_at(remote: Remote) -> Found:
    """As it is now; StoreError for a manifest that cannot be read, as of a newer version."""
    sizes = remote.sizes()
    if MANIFEST_FILE not in sizes:
        return Found(sizes, None)
    text = read_page(remote, MANIFEST_FILE, sizes)
    try:
        return Found(sizes, None if is_torn(text) else Manifest.from_json(text))
    except StoreError as error:
        raise type(error)(f"{remote.url}/{MANIFEST_FILE}: {error}") from error


def latest_header(remote: Remote, sizes: Mapping[str, int]) -> Header | None:
    """The header after the last extension among these files; None without one, StoreError as `look_at`."""
    numbers = [number for number in map(header_number, sizes) if number is not None]
    if not numbers:
        return None
    name = header_name(max(numbers))
    text = read_page(remote, name, sizes)
    try:
        return Header.from_json(text.decode("utf-8"))
    except (StoreError, UnicodeDecodeError) as error:
        raise StoreError(f"{remote.url}/{name}: {error}") from error


def read_page(remote: Remote, name: str, sizes: Mapping[str, int]) -> bytes:
    """A file that is text; StoreError for one that is far too long for that, whoever put it there."""
    if sizes[name] > _MOST_NBYTES:
        raise StoreError(
            f"{remote.url}/{name}: expected at most {_MOST_NBYTES} bytes, found {sizes[name]}; remove that file there"
        )
    return remote.read(name)
