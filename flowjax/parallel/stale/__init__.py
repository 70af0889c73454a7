"""Stale attention: which rows are synchronous, what is exchanged, and what it becomes."""
