"""Which kind of place a URL names."""

from __future__ import annotations

import os

from store.errors import StoreError
from store.folder.files import StrPath, discard_leftovers
from store.folder.urls import url_of, without_secrets
from store.transfer.hub import HubRemote
from store.transfer.remote import FolderRemote, Remote, remote_errors


def open_remote(place: StrPath, *, to_write: bool = False) -> Remote:
    """The place of a URL or path; StoreError for a protocol that fsspec does not know or that lacks its package.

    One at the Hugging Face hub is read as it is now, whatever is pushed meanwhile.
    """
    import fsspec

    full = url_of(place) or f"file://{os.path.abspath(place)}"
    url = without_secrets(full)
    with remote_errors(url):
        try:
            fs, root = fsspec.url_to_fs(full)
        except ValueError as error:
            raise StoreError(
                f"{url}: expected a folder, hf://datasets/USER/NAME, s3://BUCKET/PATH or another URL of fsspec's "
                f"protocols, found {error}"
            ) from error
        protocols = fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,)
        if "file" in protocols:
            folder = FolderRemote(url, fs, root)
            if to_write and folder.folder.is_dir():
                discard_leftovers(folder.folder)
            return folder
        if "hf" in protocols and not root.startswith("buckets/"):
            return HubRemote(url, fs, root, to_write=to_write)
        return Remote(url, fs, root)
