"""The folder of a store: files that appear whole, claims, extensions."""
