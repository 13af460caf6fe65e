"""The map store: sharded HDF5, format version 1 (docs/format.md). Imports neither torch nor timm."""
