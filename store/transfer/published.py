"""What a place says of the store that it holds: its manifest and its last header."""

from __future__ import annotations

from collections.abc import Mapping

from store.errors import StoreError
from store.format.header import Header
from store.spec import MANIFEST_FILE, header_name
from store.transfer.manifest import Manifest, header_number
from store.transfer.remote import Remote


def read_manifest(remote: Remote, sizes: Mapping[str, int]) -> Manifest | None:
    """The manifest; None where there is none, StoreError for one that cannot be read, as of a newer version."""
    if MANIFEST_FILE not in sizes:
        return None
    try:
        return Manifest.from_json(remote.read(MANIFEST_FILE))
    except StoreError as error:
        raise type(error)(f"{remote.url}/{MANIFEST_FILE}: {error}") from error


def latest_header(remote: Remote, names: Mapping[str, object]) -> Header | None:
    """The header after the last extension among these files; None without one, StoreError as `read_manifest`."""
    numbers = [number for number in map(header_number, names) if number is not None]
    if not numbers:
        return None
    name = header_name(max(numbers))
    text = remote.read(name)
    try:
        return Header.from_json(text.decode("utf-8"))
    except (StoreError, UnicodeDecodeError) as error:
        raise StoreError(f"{remote.url}/{name}: {error}") from error
