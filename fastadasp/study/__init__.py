"""Ablation studies: a grid over the parts of recipes, run cell by cell, kept, compared."""
