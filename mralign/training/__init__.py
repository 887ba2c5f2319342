"""Training: weighted examples become a policy (KTO, MR-ALIGN, SFT)."""
