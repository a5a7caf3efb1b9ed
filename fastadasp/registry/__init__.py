"""Finds plugins and names what they bring."""

from fastadasp.registry.registry import Registry, get_registry

__all__ = ["Registry", "get_registry"]
