"""What the author of a method reads: components, hooks and token plans."""
