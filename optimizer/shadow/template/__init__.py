"""Template databases: made of what was read of a source or of files, made again, refreshed."""
