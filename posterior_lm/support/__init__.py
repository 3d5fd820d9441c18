"""Token automata: what a declared type lets a language model write."""

from posterior_lm.lang.values import ChoiceSpec, IntSpec
from posterior_lm.support.base import Ending, Support
from posterior_lm.support.build import build_support
from posterior_lm.support.finite import FiniteSupport
from posterior_lm.support.spec import Spec, TextSpec

__all__ = [
    "ChoiceSpec",
    "Ending",
    "FiniteSupport",
    "IntSpec",
    "Spec",
    "Support",
    "TextSpec",
    "build_support",
]
