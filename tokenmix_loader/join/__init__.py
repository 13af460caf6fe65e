"""Images of a dataset joined to rows of a store."""
