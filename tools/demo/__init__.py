"""How the embedded model was trained, and how its test set was made. Run from a checkout; not installed."""
