"""An instruction, and one to three inputs with their outputs.

Inputs are shared between rules (an animal has a plural, a sound and a double;
a number plus two and twice a number agree on 2), so a few examples leave some
rules possible and not others.
"""

from __future__ import annotations

import attrs

from .choice import Table, phrase, uniform, weighted
from .document import Choose, Fields

SOUND = {"dog": "woof", "cat": "meow", "cow": "moo", "duck": "quack", "sheep": "baa", "bird": "tweet"}
PLURAL = {"dog": "dogs", "cat": "cats", "cow": "cows", "duck": "ducks", "sheep": "sheep", "bird": "birds",
          "book": "books", "leaf": "leaves", "child": "children", "foot": "feet", "box": "boxes"}  # fmt: skip
COLOUR = {"grass": "green", "snow": "white", "sky": "blue", "leaf": "green", "coal": "black", "milk": "white",
          "lemon": "yellow", "blood": "red"}  # fmt: skip
OPPOSITE = {"big": "small", "hot": "cold", "wet": "dry", "old": "young", "good": "bad", "happy": "sad",
            "long": "short", "open": "closed"}  # fmt: skip
OPPOSITE = OPPOSITE | {v: k for k, v in OPPOSITE.items()}
PAIRS = [f"{a} {n}" for a in ("red", "big", "old", "small") for n in ("ball", "dog", "book", "box")]
NUMBERS = range(1, 10)


@attrs.frozen
class Rule:
    """A rule: its wordings (each ` ...\\n`), and its function as a table of outputs."""

    weight: float
    wordings: Table
    outputs: dict[str, str]


def _rule(weight: float, wordings: str, outputs: dict[str, str]) -> Rule:
    return Rule(weight, phrase(f" {wordings}\n"), outputs)


RULES: dict[str, Rule] = {
    "opposite": _rule(3, "{Give:2|Say:2|Write:1} the opposite{:2| word:1}.", OPPOSITE),
    "plural": _rule(3, "{Give the plural:2|Make it plural:2|Say more than one:1}.", PLURAL),
    "colour": _rule(2, "{Name:2|Give:1|Say:2} {the:2|its:1} color.", COLOUR),
    "sound": _rule(2, "{What does it say?:1|Make its sound.:2|Give the sound of the animal.:1}", SOUND),
    "twice": _rule(2, "{Say it twice:3|Write it two times:1|Repeat it:1}.",
                   {w: f"{w} {w}" for w in (*SOUND, *list(OPPOSITE)[:4], "1", "2", "5")}),
    "same": _rule(1, "{Copy it:2|Write the same:1|Say it again:1}.",
                  {w: w for w in (*SOUND, *list(OPPOSITE)[:4], "2", "4", "red ball", "old dog")}),
    "first": _rule(2, "{Give:1|Say:2|Keep:1} the first word.", {p: p.split()[0] for p in PAIRS}),
    "last": _rule(2, "{Give:1|Say:2|Keep:1} the last word.", {p: p.split()[1] for p in PAIRS}),
    "swap": _rule(1, "{Swap the words:2|Turn the words around:1}.",
                  {p: " ".join(reversed(p.split())) for p in PAIRS}),
    "next": _rule(2, "{Add one:3|Give the next number:2|Count one more:1}.",
                  {str(n): str(n + 1) for n in NUMBERS}),
    "add two": _rule(1, "{Add two:3|Count two more:1}.", {str(n): str(n + 2) for n in NUMBERS}),
    "double": _rule(1, "{Double it:2|Multiply by two:1}.", {str(n): str(2 * n) for n in NUMBERS}),
}  # fmt: skip
RULE: Table = weighted({name: rule.weight for name, rule in RULES.items()})
INPUTS: dict[str, Table] = {name: uniform(rule.outputs) for name, rule in RULES.items()}
COUNT: Table = weighted({"1": 0.6, "2": 0.25, "3": 0.15})


def rule_posterior(examples: list[tuple[str, str]]) -> dict[str, float]:
    """Exact P(wording | outputs given inputs), the inputs not scored; wordings as in `Rule`."""
    joint = {
        text: RULE.prob(name) * p
        for name, rule in RULES.items()
        if all(rule.outputs.get(x) == y for x, y in examples)
        for text, p in zip(rule.wordings.texts, rule.wordings.probs, strict=True)
    }
    total = sum(joint.values())
    return {text: p / total for text, p in joint.items()}


def write_instruction(choose: Choose) -> tuple[str, Fields]:
    """Write one document."""
    name = choose(RULE)
    wording = choose(RULES[name].wordings)
    inputs = [choose(INPUTS[name]) for _ in range(int(choose(COUNT)))]
    pairs = [(x, RULES[name].outputs[x]) for x in inputs]
    text = f"Instruction:{wording}" + "\n".join(f"Input: {x}\nOutput: {y}" for x, y in pairs)
    return text, {"rule": name, "wording": wording, "pairs": pairs}
