"""Where comments, blank lines and line breaks go."""

from __future__ import annotations

from pathlib import Path

import pytest

from posterior_lm.lang import ast
from posterior_lm.lang.driver import compile_source
from posterior_lm.lang.format import format_module, format_statement
from posterior_lm.lang.parser import parse, parse_fragment
from posterior_lm.lang.source import Source

GOOD = sorted((Path(__file__).parents[1] / "golden" / "good").glob("*.plm"))


def formatted(text: str) -> str:
    module, found = parse(Source("t.plm", text))
    assert module is not None and not found
    return format_module(module)


@pytest.mark.parametrize("path", GOOD, ids=lambda p: p.stem)
def test_good_programs_are_right_and_formatted(path: Path) -> None:
    source = Source(path.name, path.read_text(encoding="utf-8"))
    assert format_module(compile_source(source).without_errors().module) == source.text


def test_comments_stay_where_they_stood() -> None:
    text = """\
# top

# second
lm base = "tiny" # the model
# about use
use f from "a:b"
# about p
program p( # after paren
  a: text, # the text
  # own
  b: text

  # last
) { # body
  # lead

  latent z: text(tokens=1..3, # few
     stop=".") # and stop
     ~ base(a
       # why
     )


  # before temper
  temper 2 # hm
  { # inside
    factor 1 # one
    # end inside
  } # after temper
  # tail

  # tail 2
} # closing
# eof
"""
    assert (
        formatted(text)
        == """\
# top

# second
lm base = "tiny"  # the model
# about use
use f from "a:b"

# about p
program p(
  # after paren
  a: text,  # the text
  # own
  b: text,

  # last
) {  # body
  # lead

  # few
  # and stop
  # why
  latent z: text(tokens=1..3, stop=".") ~ base(a)

  # before temper
  # hm
  temper 2 {  # inside
    factor 1  # one
    # end inside
  }  # after temper
  # tail

  # tail 2
}  # closing
# eof
"""
    )


def test_blank_lines() -> None:
    text = (
        'lm b = "x"\n\n\n\nlm c = "y"\nprogram p() {\n\n\n  factor 1\n  factor 2\n\n\n\n  factor 3\n\n\n}\n'
    )
    assert formatted(text) == (
        'lm b = "x"\n\nlm c = "y"\n\nprogram p() {\n  factor 1\n  factor 2\n\n  factor 3\n}\n'
    )


def test_long_calls_are_spread_one_item_a_line() -> None:
    long = ", ".join(f'"{"w" * 20}{i}"' for i in range(5))
    text = formatted(f"program p() {{ let a = [{long}] }}")
    assert text.split("\n")[1] == "  let a = ["
    assert text.split("\n")[2] == f'    "{"w" * 20}0",'
    assert max(map(len, text.split("\n"))) <= 88


def test_a_distribution_moves_to_the_next_line_first() -> None:
    text = formatted(f'program p(a: text) {{ observe [" ", a] ~ base("{"w" * 60}", a) }}')
    assert text.split("\n")[1:3] == ['  observe [" ", a]', f'      ~ base("{"w" * 60}", a)']


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("((a))", "a"),
        ("(a * b) + c", "a * b + c"),
        ("a * (b + c)", "a * (b + c)"),
        ("a - (b - c)", "a - (b - c)"),
        ("-(a + b)", "-(a + b)"),
        ("(-a) * b", "-a * b"),
        ("(a or b) and not (c and d)", "(a or b) and not (c and d)"),
        ("(a < b) == (c < d)", "(a < b) == (c < d)"),
        ("(if a then b else c) + 1", "(if a then b else c) + 1"),
        ("d(x) ^ (a * b)", "d(x) ^ (a * b)"),
        ("d(x) ^ (-2)", "d(x) ^ -2"),
        ("(d(x) ^ 2) ^ 3", "d(x) ^ 2 ^ 3"),
        ("d(x) ^ (b ^ 3)", "d(x) ^ (b ^ 3)"),
        ("(a or d(x)) ^ 2", "(a or d(x)) ^ 2"),
        ("(-d(x)) ^ 2", "(-d(x)) ^ 2"),
        ('"\\\\ \\""', '"\\\\ \\""'),
        ("1e21", "1.0e+21"),
        ("1.50", "1.5"),
        ('r"a\\b"', 'r"a\\b"'),
        ('"\\u{1F600}\\u{7}\\t"', '"😀\\u{7}\\t"'),
        ("[a, (b), ]", "[a, b]"),
    ],
)
def test_fewest_parentheses(text: str, plain: str) -> None:
    statement = ast.Factor(parse_fragment(text, "expression"))
    spelled = format_statement(statement)
    assert parse_fragment(spelled, "statement") == statement
    assert spelled == f"factor {plain}"


def test_bare_infer_stays_bare() -> None:
    assert formatted("program p() { infer exact infer smc() infer mcmc(steps=3) }").split("\n")[1:4] == [
        "  infer exact", "  infer exact".replace("exact", "smc"), "  infer mcmc(steps=3)",
    ]  # fmt: skip


def test_a_number_without_a_spelling() -> None:
    with pytest.raises(ValueError, match="inf"):
        format_statement(ast.Factor(ast.Literal(float("inf"))))
