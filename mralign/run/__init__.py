"""A run directory and what runs in it: store, lease, stages, their stream, placement, rejects."""
