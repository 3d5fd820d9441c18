"""The log-reward graph: nodes, lowering, passes, fingerprint, dumps."""

from posterior_lm.graph.graph import RewardGraph, verify
from posterior_lm.graph.ground import ground
from posterior_lm.graph.lower import lower
from posterior_lm.graph.passes import PASSES, optimize

__all__ = ["PASSES", "RewardGraph", "ground", "lower", "optimize", "verify"]
