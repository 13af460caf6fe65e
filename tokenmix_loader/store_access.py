"""The one place that imports `store`: the name is short, and another project may have a module of that name."""

from __future__ import annotations

import os

import store

if getattr(store, "FORMAT_NAME", None) != "tokenmix-maps":
    _where = getattr(store, "__file__", None) or ", ".join(store.__path__)
    raise ImportError(
        f"tokenmix_loader: expected the package `store` of tokenmix-maps, found another one at {_where}; rename that "
        "one, or take its folder off the front of sys.path (the script's own folder and PYTHONPATH come first)"
    )

from store import Header, MapStore, StoreError, StoreMismatch, unreadable_rows
from store.checking.predictions import Confusion, StoredPredictions, exchanged, is_untrained
from store.fingerprint import difference_of, report_of, spread
from store.folder.claims import list_shards
from store.folder.files import write_whole
from store.folder.urls import without_secrets
from store.format.rows import list_digest
from store.spec import HEADER_FILE, MAX_ORIENTATION, STATUS_OK, UNKNOWN, UPRIGHT
from store.table_keys import names_or_numbers

__all__ = [
    "HEADER_FILE",
    "MAX_ORIENTATION",
    "STATUS_OK",
    "UNKNOWN",
    "UPRIGHT",
    "Confusion",
    "Header",
    "MapStore",
    "StoreError",
    "StoreMismatch",
    "StoredPredictions",
    "difference_of",
    "exchanged",
    "is_untrained",
    "list_digest",
    "list_shards",
    "name_of",
    "names_or_numbers",
    "open_store",
    "report_of",
    "spread",
    "unreadable_rows",
    "without_secrets",
    "write_whole",
]

_opened: dict[int, str] = {}  # identity -> what to call the store in a message; workers inherit it when they are forked


def open_store(store: MapStore | str | os.PathLike[str]) -> MapStore:
    """The store itself, or the one at a path."""
    maps = store if isinstance(store, MapStore) else MapStore(store)
    parts = [0, *(rows for rows, _ in maps.header.earlier)]  # the first row of the store, and of each extension
    _opened.update(dict.fromkeys(maps.header.identities(parts).tolist(), str(maps)))
    return maps


def name_of(identity: int) -> str:
    """The store with rows of this `Header.identities`, or its digest where it was not opened by this process."""
    digest = f"{identity & 0xFFFFFFFFFFFFFFFF:016x}"  # as in the store's own `content_digest`
    return _opened.get(identity, f"a store of content_digest {digest}...")
