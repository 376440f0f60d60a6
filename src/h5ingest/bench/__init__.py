"""The measurements behind `h5ingest bench`: ways to store images, and ways to read them back."""
