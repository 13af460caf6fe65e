"""The job: which shard next, decoded, computed, published."""
