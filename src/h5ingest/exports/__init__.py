"""Image files, archives and tables made of a finished file: the way out."""
