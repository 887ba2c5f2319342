"""A labeller of one's own: what a panel has annotated becomes a labeller, and a report of how far it can be trusted."""
