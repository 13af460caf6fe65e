"""The bytes of a store: header, shards, rows, checksums."""
