"""What ranks need of each other, and everything that waits."""
