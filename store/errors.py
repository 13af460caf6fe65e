"""What the store refuses. Every message says where, what was expected, what was found and what to do."""


class StoreError(Exception):
    """A store, its header or a row is not what format version 1 asks for."""


class StoreMismatch(StoreError):  # noqa: N818 - the name is public
    """The store exists and was made with another configuration; names each field that differs."""


class ShardError(StoreError):
    """A shard or `head.h5` is missing, torn, corrupt or belongs to another store."""


class TransferError(StoreError):
    """A store could not be pushed or pulled: no such place, no permission, no network, files that were changed."""
