"""h5ingest: millions of small image files into one HDF5 file, in parallel, exactly."""

__version__ = "0.1.0"
