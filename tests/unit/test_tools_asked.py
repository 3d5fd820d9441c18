"""Tools that are asked in an expression, and the tool for functions of lists."""

from __future__ import annotations

import math

import pytest

import posterior_lm as plm
from posterior_lm.lang.driver import check
from posterior_lm.lang.parser import parse
from posterior_lm.lang.source import Source
from posterior_lm.tools.calculator import Calculator
from posterior_lm.tools.list_functions import ListFunctions
from tests.strategies import table

LM = table(("1", "2", "+", "=", "."), seed=3, order=1, max_tokens=6)
HEAD = 'lm m = "table"\ntool calc = calculator(trigger="=")\n'


def program(body: str, head: str = HEAD) -> plm.Query:
    return plm.loads(f"{head}program p() {{ {body} }}").lm(m=LM)


SUM = 'latent z: text(tokens=3..4, pattern=r"[12]\\+[12].*") ~ m()'


def evidence(body: str) -> float:
    return program(f"{SUM} {body}").using("exact", mass=1.0, values=10_000).draw().log_evidence


def test_what_a_tool_says_is_a_text_and_empty_where_it_declines() -> None:
    """By the calculator itself, for every value of the latent."""
    plain = program(SUM).using("exact", mass=1.0, values=10_000).draw()
    calc, said = Calculator("="), dict[str, float]()
    for draw in plain:
        text = str(draw["z"])
        answer = calc(text if text.endswith("=") else f"{text}=") or ""
        said[answer] = said.get(answer, 0.0) + draw.weight
    assert {"", "3", "4"} <= said.keys()
    for answer, share in said.items():
        wanted = plain.log_evidence + math.log(share)
        assert evidence(f'condition calc(z) == "{answer}"') == pytest.approx(wanted, abs=1e-9)
    three = 'factor if calc(replace(z, "1", "2")) == "4" and number(calc(z)) < 4 then 1 else 0'
    assert evidence(f'condition calc(z) != "" {three}') > evidence('condition calc(z) != ""')
    with pytest.raises(plm.InferenceError, match="PLM701"):  # of what it declines there is no number
        evidence("condition number(calc(z)) == 3")


def test_the_trigger_may_stand_there_and_names_do_not_count() -> None:
    one, other = (program(f"{SUM} factor chars(calc({arg}))") for arg in ("z", '[z, "="]'))
    assert one.score({"z": "1+2."}).log_reward == other.score({"z": "1+2."}).log_reward
    renamed = program(f"{SUM} factor chars(sums(z))", HEAD.replace("calc =", "sums ="))
    assert one.fingerprint == renamed.fingerprint
    for head in (HEAD.replace('"="', '"+"'), HEAD.replace(")\n", ", operands=3)\n")):
        assert program(f"{SUM} factor chars(calc(z))", head).fingerprint != one.fingerprint
    assert plm.loads(str(one)).fingerprint == one.fingerprint


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("factor calc(1)", "PLM301"),
        ('factor words(calc("1", "2"))', "PLM307"),
        ('factor words(calc("1", operands=2))', "PLM206"),
        ('latent z: text(tokens=1..2) ~ calc("1")', "PLM305"),
    ],
)
def test_what_is_wrong_is_said(body: str, code: str) -> None:
    module, _ = parse(Source("p.plm", f"{HEAD}program p() {{ {body} }}"))
    assert module is not None and code in [d.code for d in check(module).errors]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("[3, 1, 2] sort, take 2 ->", " [1, 2]"),
        ("so [1, 2, 2] unique reverse->", "[2, 1]"),
        ("[] max ->", " []"),
        ("[5, -4] add 3, times -2, above -10 ->", " [2]"),
        ("[1, 2, 3] odds sum ->", " [4]"),
        ("[1, 2] ->", " [1, 2]"),
        ("[1, 2] drop 1, evens, length ->", " [1]"),
        ("[1, 2] add ->", None),
        ("[1, 2] sort 3 ->", None),
        ("[1, 2] eval ->", None),
        ("[1, x] sort ->", None),
        ("[1,, 2] sort ->", None),
        ("1, 2 sort ->", None),
        ("[9] times 999999999, times 9 ->", None),
    ],
)
def test_functions_of_lists(text: str, written: str | None) -> None:
    assert ListFunctions("->")(text) == written


@pytest.mark.parametrize(
    "text", ["[1] " + "a" * 300 + "! ->", "[1]" + " a" * 300 + "! ->", "[1]" + " ," * 300 + "! ->"]
)
def test_what_is_no_call_is_declined_at_once(text: str) -> None:
    """A pattern that reads it in many ways would not end."""
    assert ListFunctions(" ->")(text) is None
