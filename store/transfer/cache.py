"""The one place where what names a store, a path or a URL, becomes a folder on this machine."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from store.errors import ShardError
from store.folder.files import StrPath, present_shards
from store.folder.urls import path_of, url_of, without_secrets
from store.spec import HEADER_FILE
from store.transfer.pull import pull
from store.transfer.result import OnProgress, Say, silent
from store.transfer.target import header_of_copy

_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")


def cache_folder(url: StrPath) -> Path:
    """Where the store at a URL is kept: in $TOKENMIX_CACHE, else $XDG_CACHE_HOME/tokenmix, else ~/.cache/tokenmix."""
    root = os.environ.get("TOKENMIX_CACHE")
    if not root:
        root = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "tokenmix")
    text = url_of(url) or os.path.abspath(url)
    name = _UNFIT.sub("-", without_secrets(text).rpartition("/")[2])[:64].strip(".-")
    return Path(root).absolute() / f"{name or 'store'}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def local_store(place: StrPath, *, on_progress: OnProgress = silent, say: Say = silent) -> Path:
    """The folder of a store: the path itself, or the cache's copy of a URL, pulled if there is none yet.

    A copy that is there is used as it is, without network; `pull(url, cache_folder(url))` brings it up to date.
    Raises as `pull`.
    """
    path = path_of(place)
    if path is not None:
        return path
    folder = cache_folder(place)
    if not (folder / HEADER_FILE).exists():  # it appears as a whole
        pull(url_of(place) or place, folder, on_progress=on_progress, say=say)
    _require_copy(folder, without_secrets(str(url_of(place))))
    return folder


def _require_copy(folder: Path, url: str) -> None:
    """Say how a copy is mended, which is not how a store is that `extract` makes."""
    header = header_of_copy(folder, url)
    missing = header.sharding.shards - len(present_shards(folder, header))
    if missing:
        raise ShardError(
            f"{folder}: expected a copy of {url}, of {header.sharding.shards} shards, found {missing} of them missing; "
            f"run `tokenmix pull {url}`, which brings them"
        )
