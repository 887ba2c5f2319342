"""Annotation: candidates' thoughts become steps with one or two meta-reasoning strategies each."""
