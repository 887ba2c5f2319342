"""Evaluation: a model and held-out questions become accuracy and misalignment with intervals."""
