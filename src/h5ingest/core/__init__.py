"""Values and arithmetic that everything else rests on: numpy only."""
