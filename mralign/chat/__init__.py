"""How a model is spoken to: families, templates, thought and answer, the seam between a prompt and a text."""
