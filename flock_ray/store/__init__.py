"""Content-addressed blobs on whatever fsspec reaches."""
