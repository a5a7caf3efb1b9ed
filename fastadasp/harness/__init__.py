"""Models under strategies inside other people's evaluation harnesses: a module for each, imported where it is used."""
