"""What checks accept, and rules that the golden folder of wrong programs does not pin down."""

from __future__ import annotations

import pytest

from posterior_lm.infer.methods import METHODS
from posterior_lm.lang import ast
from posterior_lm.lang.diagnostics import nearest
from posterior_lm.lang.driver import check, compile_source
from posterior_lm.lang.signatures import BUILT_IN, DISTRIBUTIONS, FUNCTIONS, LMS, TOOLS
from posterior_lm.lang.source import Source
from posterior_lm.lang.value_types import VALUE_TYPES

PARAMS = (
    'a: text, k: int, x: real, ok: bool, l: one_of("yes", "no"), m: int(0..9), '
    'rows: table(input: text, n: int(0..9), l: one_of("p", "q"))'
)
HEAD = """lm base = "tiny"
tool calc = calculator(trigger="=")
use score from "package.module:score"
tool used = score(trigger="?")
"""


def codes(body: str, params: str = PARAMS) -> list[str]:
    return [
        d.code
        for d in compile_source(Source("t.plm", f"{HEAD}program p({params}) {{\n{body}\n}}\n")).diagnostics
    ]


Z = "latent z: text(tokens=1..9) ~ base(a)\n"


@pytest.mark.parametrize(
    "body",
    [
        'latent z: text(tokens=0..9, stop=".", chars="abc=", tools=calc) ~ base()',
        'latent z: text(tokens=1..9, pattern=r"a*\\.", json="s.json") ~ base()',
        'latent z: text(tokens=1..k, end="free", tools=[calc, used]) ~ base()',
        "latent n: int(k..k + 9) ~ base(a)",
        "latent n: int(0..9) ~ uniform()",
        "latent n: int(-9..0) ~ uniform(-9, 0)",
        "latent n: int(0..9) ~ uniform(k, k + 1)",
        "latent n: int(0..9) ~ poisson(x)",
        "latent n: int(0..9) ~ geometric(0.5)",
        "latent n: int(0..9) ~ binomial(9, x)",
        "latent n: int(0..1) ~ categorical([0.25, 0.75])",
        "latent n: int(0..1) ~ categorical([x, 1 - x])",
        "let w = [0.5, 0.5]\nlatent n: int(0..1) ~ categorical(w)",
        'latent n: one_of("u", "v") ~ choice(base(a))',
        'latent n: one_of("u", "v") ~ uniform() ^ 2',
        "observe l ~ choice(base(a))",
        "observe m ~ choice(base(a) ^ 2)",
        "observe l ~ categorical([0.5, 0.5])",
        "observe k ~ poisson(3)",
        "observe k + 1 ~ poisson(3)",
        "observe [a, k, x, [l, bos], eos] ~ base(bos, a, if ok then a else l)",
        "observe k ~ base()",
        "plate r in rows { observe r.l ~ uniform() observe r.n ~ binomial(9, 0.5) }",
        "plate r in rows { plate s in rows { observe r.input ~ base(s.input) } }",
        "plate r in rows { latent u: int(0..9) ~ base(r.input) observe r.l ~ base(u) guide u ~ base(r.l) }",
        "plate r in rows { let c = [r.input] observe a ~ base(c) } plate r in rows { observe a ~ base(r.l) }",
        Z + "factor log_prob([a, z], base(z)) * 2 - x / 3",
        Z + "factor log_prob(z, base() ^ 2)",
        Z + "factor if contains(z, a) and not ok then count(z, a) else -similarity(z, a)",
        Z + 'condition words(z) + chars(z) - tokens(z) <= 16 or matches(z, r"[a-z]+") or z == l',
        Z + 'condition starts_with(z, "a") == ends_with(z, "b") and l != "yes"',
        Z + "factor min(abs(x), max(exp(x), log(k)))",
        Z + "factor score(z, 3)",
        Z + "observe a ~ score(z)",
        Z + "temper x * 2 { observe a ~ base(z) temper -1 { factor 1 } }",
        Z + "guide z ~ base(a, l)\ninfer smc(particles=8, threshold=0.5)\ninfer exact",
        "guide z ~ base(a)\n" + Z,
    ],
)
def test_right_statements(body: str) -> None:
    assert codes(body) == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        # which latents a value depends on goes through lets, lists, calls and branches
        (Z + "let c = [a, [z]]\nlet d = words(c)\nobserve a ~ base() ^ d", ["PLM314"]),
        (Z + "observe a ~ base() ^ (if ok then log_prob(a, base(z)) else 1)", ["PLM314"]),
        (Z + "observe a ~ base() ^ (if words(z) > 1 then 2 else 1)", ["PLM314"]),
        (Z + "observe a ~ base() ^ (1 + words(z))", ["PLM314"]),
        (Z + "observe a ~ base() ^ (words(z) + 1)", ["PLM314"]),
        (Z + "observe a ~ base() ^ -words(z)", ["PLM314"]),
        (Z + "latent y: text(tokens=1..words(z)) ~ base()", ["PLM322"]),
        (Z + "let c = [z]\nlatent y: text(tokens=1..9) ~ base(c)\nlet e = y\nguide z ~ base(e)", ["PLM407"]),
        # a plate's rows do not leak, in any form
        ("plate r in rows { let c = r.input }\nobserve c ~ base()", ["PLM405"]),
        ("plate r in rows { observe a ~ base() }\nplate s in rows { observe r.input ~ base() }", ["PLM405"]),
        # a latent inside temper is the program's own
        ("temper 2 { " + Z + "}\nobserve a ~ base(z)", []),
        # kinds
        ("factor k + true", ["PLM318"]),
        ("factor a", ["PLM304"]),
        ("condition x", ["PLM303"]),
        ("let c = if ok then 1 else 2.5\nfactor c", []),
        ("let c = if ok then a else 2", ["PLM319"]),
        ("observe l ~ uniform(1, 2)", ["PLM311"]),
        ("observe l ~ poisson(1)", ["PLM311"]),
        ("observe a ~ uniform()", ["PLM311"]),
        ("observe [l] ~ choice(base())", ["PLM311"]),
        ("observe k ~ uniform()", ["PLM311"]),
        ("observe k ~ uniform(0.5, 2)", ["PLM301"]),
        ("observe k ~ binomial(9)", ["PLM307"]),
        ("observe a ~ base()\nfactor log_prob(a, uniform())", ["PLM311"]),
        ("latent n: int(0..2) ~ categorical([0.5, 0.5])", ["PLM307"]),
        ("observe m ~ categorical([1])", ["PLM307"]),
        # near the limits
        ("latent z: text(tokens=1..1) ~ base()", []),
        ("latent z: text(tokens=2..1) ~ base()", ["PLM302"]),
        ("latent n: int(3..3) ~ base()", []),
        ("latent n: int(4..3) ~ base()", ["PLM302"]),
        ("latent n: int(0..9) ~ geometric(0)", []),
        ("latent n: int(0..9) ~ geometric(1.01)", ["PLM313"]),
        ("infer exact(mass=1.5)", ["PLM309"]),
        ("infer importance(n=0)", ["PLM309"]),
        ("infer importance(n=1.5)", ["PLM309"]),
        ("factor nothing\nfactor nothing + nothing", ["PLM201"]),
    ],
)
def test_rules(body: str, expected: list[str]) -> None:
    assert codes(body) == expected


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_built_in_names_are_taken(name: str) -> None:
    assert codes(f"let {name} = 1\nfactor 1") == ["PLM203"]
    assert codes("factor 1", f"{name}: text") == ["PLM203"]


def test_other_names_are_free() -> None:
    """Names of types, options, methods and columns mean something only in their places."""
    names = (
        {*VALUE_TYPES, *METHODS, *LMS, *TOOLS, "stop", "end", "lead"} - set(FUNCTIONS) - set(DISTRIBUTIONS)
    )
    for name in names:
        assert codes(f"observe {name} ~ base()", f"{name}: text") == []
    assert (
        codes("plate r in t { observe r.words ~ base(r.count) }", "t: table(words: text, count: text)") == []
    )


def test_help_names_what_was_meant() -> None:
    text = f"{HEAD}program p(opening: text, t: table(input: text)) {{\nplate r in t {{\n{{}}\n}}\n}}\n"
    for line, meant in [
        ("observe openign ~ base()", "'opening'"),
        ("observe a ~ bas()", "'base'"),
        ('condition contain(opening, "a")', "'contains'"),
        ("observe input ~ base()", "'r.input'"),
        ("observe r.inptu ~ base()", "'input'"),
        ("latent z: text(tokns=1..2, tokens=1..2) ~ base()", "'tokens'"),
    ]:
        found = compile_source(Source("t.plm", text.replace("{}", line))).diagnostics
        assert any(d.help and meant in d.help for d in found), (line, found)


@pytest.mark.parametrize(
    ("word", "known", "found"),
    [
        ("opening", ["openings"], "openings"),
        ("openign", ["opening"], "opening"),
        ("teh", ["the", "ten"], "the"),
        ("abc", ["xyz"], None),
        ("a", ["b"], None),
        ("completely", ["different"], None),
        ("PROMPT", ["prompt"], "prompt"),
        ("instrction_indction", ["instruction_induction"], "instruction_induction"),
        ("abcdefghijkl", ["efghijkl"], None),
    ],
)
def test_nearest(word: str, known: list[str], found: str | None) -> None:
    assert nearest(word, known) == found


def test_modules_built_in_python_check_too() -> None:
    z = ast.Name("z")
    base = ast.Call(ast.Name("base"))
    limit = ast.Option("tokens", ast.Range(ast.Literal(1), ast.Literal(9)))
    latent = ast.Latent(z, ast.TypeExpr("text", options=(limit,)), base)
    program = ast.Program(ast.Name("p"), (), (latent,))
    assert [d.code for d in check(ast.Module((), program)).errors] == ["PLM201"]
    declared = (ast.LmDecl(ast.Name("base"), ast.Literal("tiny")),)
    assert not check(ast.Module(declared, program)).diagnostics
    twice = ast.Module(declared, ast.Program(ast.Name("p"), (), (latent, latent)))
    assert [d.code for d in check(twice).errors] == ["PLM404"]
