"""A run directory and what runs in it: store, stages, plan, placement, rejects."""
