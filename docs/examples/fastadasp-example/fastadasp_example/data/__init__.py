"""Recordings of the task, with their manifest."""
