"""The log-reward graph: nodes, lowering, passes, fingerprint, dumps."""

from posterior_lm.graph.graph import RewardGraph
from posterior_lm.graph.ground import ground
from posterior_lm.graph.lower import lower
from posterior_lm.graph.passes import PASSES, optimize
from posterior_lm.graph.spec import verify

__all__ = ["PASSES", "RewardGraph", "ground", "lower", "optimize", "verify"]
