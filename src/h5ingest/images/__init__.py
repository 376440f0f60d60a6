"""Image files: reading, decoding and converting them."""
