"""The command line: what can be typed, what is printed, what the exit code is."""
