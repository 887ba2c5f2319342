"""Rollouts: questions become thinking-on and thinking-off samples, then labelled candidates."""
