"""Teacher maps on the disk: a header and HDF5 shards, format version 1 (docs/format.md)."""

from store.check import Problem, VerifyReport, unreadable_rows, verify
from store.claims import Claim, Listing, list_shards
from store.create import create_store, read_header
from store.errors import ShardError, StoreError, StoreMismatch
from store.folder import discard_leftovers, present_shards
from store.growth import read_keys, require_own_shards, stored_labels
from store.head import Head, write_head
from store.header import Header, Json
from store.index import write_index
from store.layout import Layout, header_name, shard_name
from store.reader import Keys, MapStore
from store.repair import drop_extension, repair
from store.rows import RowBatch, list_digest, row_nbytes
from store.spec import FORMAT_NAME, FORMAT_VERSION, HEADER_FILE, STATUS_OK, STATUS_UNREADABLE
from store.torch_file import parse_tensor, read_tensor, tensor_bytes
from store.trees import export_tokenlabeling, map_paths
from store.writer import ShardWriter

__all__ = [
    "FORMAT_NAME",
    "FORMAT_VERSION",
    "HEADER_FILE",
    "STATUS_OK",
    "STATUS_UNREADABLE",
    "Claim",
    "Head",
    "Header",
    "Json",
    "Keys",
    "Layout",
    "Listing",
    "MapStore",
    "Problem",
    "RowBatch",
    "ShardError",
    "ShardWriter",
    "StoreError",
    "StoreMismatch",
    "VerifyReport",
    "create_store",
    "discard_leftovers",
    "drop_extension",
    "export_tokenlabeling",
    "header_name",
    "list_digest",
    "list_shards",
    "map_paths",
    "parse_tensor",
    "present_shards",
    "read_header",
    "read_keys",
    "read_tensor",
    "repair",
    "require_own_shards",
    "row_nbytes",
    "shard_name",
    "stored_labels",
    "tensor_bytes",
    "unreadable_rows",
    "verify",
    "write_head",
    "write_index",
]
