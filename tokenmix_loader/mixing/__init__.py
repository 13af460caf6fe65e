"""From batches to mixed batches."""
