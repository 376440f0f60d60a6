"""Looking at a finished file: checking it, showing it, describing it."""
