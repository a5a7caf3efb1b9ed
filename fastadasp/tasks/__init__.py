"""Tasks: clips, prompts and metrics."""
