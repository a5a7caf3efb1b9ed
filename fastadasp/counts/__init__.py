"""Budgets, schedules and token counts: whole numbers only."""
