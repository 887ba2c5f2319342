"""Rules by which a ratio becomes a weight other than the paper's, one file each (docs/better-weights.md).

A rule is called with the labelled steps of some trajectories and gives each its weight. What it must know of the whole
corpus (standard errors, counts, held-out gains) it holds; `rule_by_settings.py` gathers that.
"""
