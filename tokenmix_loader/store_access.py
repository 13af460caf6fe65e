"""The one place that imports `store`: the name is short, and somebody else may have a module of that name."""

from __future__ import annotations

import os

import store

if getattr(store, "FORMAT_NAME", None) != "tokenmix-maps":
    _where = getattr(store, "__file__", None) or ", ".join(store.__path__)
    raise ImportError(
        f"tokenmix_loader: expected the package `store` of tokenmix-maps, found another one at {_where}; rename that "
        "one, or take its folder off the front of sys.path (the script's own folder and PYTHONPATH come first)"
    )

from store import MapStore, StoreError, StoreMismatch
from store.format.rows import list_digest
from store.spec import STATUS_OK
from store.table_keys import names_or_numbers

__all__ = ["STATUS_OK", "MapStore", "StoreError", "StoreMismatch", "list_digest", "names_or_numbers", "open_store"]


def open_store(store: MapStore | str | os.PathLike[str]) -> MapStore:
    """The store itself, or the one at a path."""
    return store if isinstance(store, MapStore) else MapStore(store)
