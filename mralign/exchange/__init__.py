"""Exchange: what a run has made, in forms that other tools read."""
