"""The built-in methods, one module a method. Each enters through an entry point of its own, like a stranger's package."""
