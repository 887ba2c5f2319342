"""Engines: what writes text or labels for the other rooms (vLLM actors, chat formats, cue phrases)."""
