"""Experiments: recipes, budgets, seeds and tasks as axes; their cells run, kept, compared. `compare` and `ablate`."""
