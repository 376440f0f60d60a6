"""What this program stands on here, what of it is known to go wrong, and the remedy."""
