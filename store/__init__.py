"""Teacher maps on the disk: a header and HDF5 shards, format version 1 (docs/format.md)."""

from store.checking.repair import drop_extension, repair
from store.checking.verify import VerifyReport, unreadable_rows, verify
from store.errors import ShardError, StoreError, StoreMismatch, TransferError
from store.folder.create import create_store, read_header
from store.folder.writer import ShardWriter
from store.format.header import Header
from store.format.rows import RowBatch
from store.problems import Cause, Problem
from store.reading.map_store import MapStore
from store.spec import FORMAT_NAME
from store.transfer.cache import cache_folder, local_store
from store.transfer.pull import pull
from store.transfer.push import push
from store.transfer.result import Transfer

__all__ = [
    "FORMAT_NAME",
    "Cause",
    "Header",
    "MapStore",
    "Problem",
    "RowBatch",
    "ShardError",
    "ShardWriter",
    "StoreError",
    "StoreMismatch",
    "Transfer",
    "TransferError",
    "VerifyReport",
    "cache_folder",
    "create_store",
    "drop_extension",
    "local_store",
    "pull",
    "push",
    "read_header",
    "repair",
    "unreadable_rows",
    "verify",
]
