"""Which kind of place a URL names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from store.errors import StoreError
from store.folder.files import StrPath, discard_leftovers
from store.folder.urls import path_of, url_of, without_secrets
from store.transfer.hub import HubRemote
from store.transfer.remote import FolderRemote, Remote, remote_errors

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


def open_remote(place: StrPath, *, to_write: bool = False) -> Remote:
    """The place of a URL or path; StoreError for a protocol that fsspec does not know or that lacks its package.

    One at the Hugging Face hub is read as it is now, whatever is pushed meanwhile.
    """
    import fsspec

    if (path := path_of(place)) is not None:  # fsspec would take "::" in it for a chain of protocols
        root = os.path.abspath(path)
        return _folder(f"file://{root}", fsspec.filesystem("file"), root, to_write)
    full = str(url_of(place))
    url = without_secrets(full)
    with remote_errors(url):
        try:
            fs, root = fsspec.url_to_fs(full)
        except ValueError as error:
            raise StoreError(
                f"{url}: expected a folder, hf://datasets/USER/NAME, s3://BUCKET/PATH or another URL of fsspec's "
                f"protocols, found {without_secrets(str(error))}"
            ) from error
        protocols = fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,)
        if "file" in protocols:
            return _folder(url, fs, root, to_write)
        if "hf" in protocols and not root.startswith("buckets/"):
            return HubRemote(url, fs, root, to_write=to_write)
        return Remote(url, fs, root)


def local_folder(place: StrPath) -> Path:
    """The path of a path or of a URL `file://`; StoreError for other URLs."""
    path = path_of(place)
    if path is None:
        url = without_secrets(str(url_of(place)))
        raise StoreError(f"{url}: expected a folder, found a URL; `push` copies a folder to a URL, `pull` a URL to one")
    return path


def _folder(url: str, fs: AbstractFileSystem, root: str, to_write: bool) -> FolderRemote:
    remote = FolderRemote(url, fs, root)
    if to_write and remote.folder.is_dir():
        discard_leftovers(remote.folder)
    return remote
