"""Checkpoints in their authors' own layouts, made into folders that transformers' classes open."""
