"""Strategies inside engines that people deploy on; nothing here imports such an engine until it runs there."""
