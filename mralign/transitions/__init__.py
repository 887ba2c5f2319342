"""Transitions: step labels become counts, matrices P, P+ and P-, and step weights.

These functions work on plain lists, in a notebook, without Ray. The modules below them (counts, em, weights, ...) work
on Arrow tables of any size and are what the stages are made of.
"""

from mralign.transitions.lists import CountedTransitions, TransitionMatrices, count, estimate, weights

__all__ = ["CountedTransitions", "TransitionMatrices", "count", "estimate", "weights"]
