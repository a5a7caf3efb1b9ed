"""How fast a model is with a strategy and without, and how fast one reduction is: `fastadasp bench`."""
