"""Hypothetical indexes: made, shown to the planner, hidden, dropped."""
