"""Transitions: step labels become counts, matrices P, P+ and P-, and step weights."""
