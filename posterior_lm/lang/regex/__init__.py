"""Regular expressions that can be run in linear time: Python's `re`, without what is not regular.

`tree.py` reads a pattern, `characters.py` says which characters its parts stand for,
`nfa.py` and `automaton.py` make an automaton over characters of it.
"""

from posterior_lm.lang.regex.automaton import Automaton, CharacterDfa, automaton
from posterior_lm.lang.regex.tree import PatternError, parse

__all__ = ["Automaton", "CharacterDfa", "PatternError", "automaton", "parse"]
