"""The measurements behind `h5ingest bench`: backends that store images, and readers of them."""
