"""The built-in methods, one module a method, each with an entry point of its own, like a stranger's package."""
