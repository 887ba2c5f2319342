"""The embedded default: an invented world of facts and the tiny reasoning model that half knows it."""
