"""Comparison: every method on the same worlds, each at its own best setting, chosen on dev."""
