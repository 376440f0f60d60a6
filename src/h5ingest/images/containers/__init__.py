"""Files in which many images lie with their labels, and that are no archives of files."""
