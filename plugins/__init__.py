"""The built-in methods, one module a method. The package is one plugin: its modules are searched for components."""
