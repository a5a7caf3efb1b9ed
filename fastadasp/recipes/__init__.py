"""Recipes as text."""
