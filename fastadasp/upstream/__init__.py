"""The names of transformers that this project relies on beyond its public classes, and checks that they still hold."""
