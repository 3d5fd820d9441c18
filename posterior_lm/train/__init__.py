"""Amortised inference: a policy trained once per program, corrected by weights, certified."""
