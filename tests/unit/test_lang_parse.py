"""Reading: the grammar, literals, spans, precedence, recovery and limits."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from posterior_lm.lang import ast, lexer
from posterior_lm.lang.diagnostics import CompileError
from posterior_lm.lang.driver import compile_source, load_module
from posterior_lm.lang.parser import parse, parse_fragment, read_source
from posterior_lm.lang.source import Source

HEAD = 'lm base = "tiny"\n\nprogram p(a: text) {\n'


def expr(text: str) -> ast.Expr:
    return parse_fragment(text, "expression")


def codes(text: str) -> list[str]:
    return [d.code for d in parse(Source("test.plm", text))[1]]


def places(text: str) -> list[tuple[str, int, int]]:
    source = Source("test.plm", text)
    found = compile_source(source).diagnostics
    return [(d.code, *source.position(d.primary.span.start)) for d in found if d.primary]


def test_the_grammar_is_strict() -> None:
    """No conflict between rules, no collision between terminals."""
    lexer.build_parser(strict=True)


def test_the_stored_tables_are_those_of_the_grammar() -> None:
    import json

    stored = json.loads(lexer.TABLES.read_text(encoding="utf-8"))
    assert stored["digest"] == lexer.tables_digest(), "run: python -m posterior_lm.lang.lexer"


def test_built_and_stored_tables_read_alike(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    text = HEAD + '  factor if not a == "x" then -1 ^ 2 else [1, 2,]\n}\n'
    stored = parse(Source("test.plm", text))[0]
    lexer.lark_parser.cache_clear()
    monkeypatch.setattr(lexer, "TABLES", tmp_path / "absent.json")
    try:
        built = parse(Source("test.plm", text))[0]
    finally:
        lexer.lark_parser.cache_clear()
    assert stored is not None and built == stored


def test_checking_is_light() -> None:
    """Neither torch nor numpy nor networkx is imported on the way to a diagnostic."""
    script = (
        "import sys\n"
        "from posterior_lm.lang.driver import compile_source\n"
        "from posterior_lm.lang.source import Source\n"
        "from posterior_lm.lang.format import format_module\n"
        "from posterior_lm.lang.codes import CODES\n"
        "checked = compile_source(Source('t', 'program p() { factor 1 }'), lint=True)\n"
        "format_module(checked.module)\n"
        "heavy = {'torch', 'transformers', 'numpy', 'networkx', 'pandas', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("a or b and c", "a or (b and c)"),
        ("not a == b", "not (a == b)"),
        ("not a and b", "(not a) and b"),
        ("a < b + c", "a < (b + c)"),
        ("a - b - c", "(a - b) - c"),
        ("a / b / c", "(a / b) / c"),
        ("a + b * c", "a + (b * c)"),
        ("-a * b", "(-a) * b"),
        ("-d(x) ^ b", "-(d(x) ^ b)"),
        ("d(x) ^ a ^ b", "(d(x) ^ a) ^ b"),
        ("d(x) ^ -b", "d(x) ^ (-b)"),
        ("a * d(x) ^ b", "a * (d(x) ^ b)"),
        ("if a then b else c or d", "if a then b else (c or d)"),
        ("if a then b else if c then d else e", "if a then b else (if c then d else e)"),
        ("f(a,)", "f(a)"),
        ("[a, b,]", "[a, b]"),
    ],
)
def test_precedence(text: str, same: str) -> None:
    assert expr(text) == expr(same)


@pytest.mark.parametrize(
    ("left", "right"), [("(a or b) and c", "a or b and c"), ("a - (b - c)", "a - b - c")]
)
def test_parentheses_matter(left: str, right: str) -> None:
    assert expr(left) != expr(right)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('"a\\n\\t\\"\\\\"', 'a\n\t"\\'),
        ('"\\u{1F600}\\u{41}"', "😀A"),
        ('r"\\d+\\."', "\\d+\\."),
        ('""', ""),
        ("12", 12),
        ("1.5", 1.5),
        ("2e3", 2000.0),
        ("1.5e-3", 0.0015),
        ("true", True),
        ("false", False),
        ("9007199254740992", 2**53),
    ],
)
def test_literals(text: str, value: object) -> None:
    found = expr(text)
    assert isinstance(found, ast.Literal)
    assert found.value == value and type(found.value) is type(value)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('"\\x"', "PLM111"),
        ('"\\u{D800}"', "PLM111"),
        ('"\\u{110000}"', "PLM111"),
        ('"\\u{0}"', "PLM111"),
        ("9007199254740993", "PLM113"),
        ("1e400", "PLM113"),
        ("1" * 5000, "PLM113"),
        ("2x", "PLM113"),
        ('"open', "PLM104"),
        ("", "PLM107"),
        ("a b", "PLM101"),
        ("a +", "PLM107"),
        ("latent", "PLM101"),
        ("base(latent)", "PLM106"),
        ("$", "PLM105"),
    ],
)
def test_wrong_fragments(text: str, code: str) -> None:
    with pytest.raises(CompileError) as caught:
        expr(text)
    assert [d.code for d in caught.value.diagnostics] == [code]
    assert "<expression>" in str(caught.value)


def test_a_range_is_not_a_real() -> None:
    found = parse_fragment("text(tokens=1..25)", "type")
    assert found.options[0].value == ast.Range(ast.Literal(1), ast.Literal(25))


@pytest.mark.parametrize(
    ("text", "kind", "node"),
    [
        ("latent z: int(0..9) ~ uniform()", "statement", ast.Latent),
        ("temper 2 { factor 1 }", "statement", ast.Temper),
        ("base(a) ^ 2", "distribution", ast.PowerExpr),
        ('table(x: text, y: one_of("a"))', "type", ast.TypeExpr),
        ("k: int(0..9) = 3", "parameter", ast.Param),
    ],
)
def test_fragments(text: str, kind: str, node: type) -> None:
    assert isinstance(parse_fragment(text, kind), node)  # type: ignore[arg-type]
    assert parse_fragment(Source("<latent>", text), kind).span.text == text  # type: ignore[arg-type]


def test_two_statements_are_no_fragment() -> None:
    with pytest.raises(CompileError):
        parse_fragment("factor 1 factor 2", "statement")


def test_spans_are_exact() -> None:
    text = HEAD + '  latent z: text(tokens=1..9) ~ base(a, [" "]) ^ (1 + 2)\n}\n'
    module, found = parse(Source("test.plm", text))
    assert module is not None and not found
    latent = module.program.body[0]
    assert isinstance(latent, ast.Latent) and isinstance(latent.dist, ast.PowerExpr)
    assert latent.span.text.startswith("latent z") and latent.span.text.endswith("(1 + 2)")
    assert latent.type.span.text == "text(tokens=1..9)"
    assert latent.type.options[0].span.text == "tokens=1..9"
    assert latent.dist.base.span.text == 'base(a, [" "])'
    assert latent.dist.exponent.span.text == "(1 + 2)"
    assert latent.name.span.text == "z"


def test_four_mistakes_give_four_errors_and_a_tree() -> None:
    text = (
        HEAD + "  latent z text(tokens=1..9) ~ base(a)\n  observe a base(z)\n  let b = 1 + * 2\n"
        "  plate r of a {\n    factor 1\n    factor 2 3\n  }\n  observe a ~ base(z, b)\n}\n"
    )
    source = Source("test.plm", text)
    module, found = parse(source)
    assert [(d.code, d.primary.span.line) for d in found if d.primary] == [
        ("PLM101", 4), ("PLM101", 5), ("PLM101", 6), ("PLM101", 7), ("PLM101", 9),
    ]  # fmt: skip
    assert module is not None
    assert isinstance(module.program.body[-1], ast.Observe)
    assert {"z", "b", "r"} <= module.broken
    assert len(compile_source(source).diagnostics) == 5, "what was skipped is not unknown as well"


def test_later_checks_see_what_could_be_read() -> None:
    assert places(HEAD + "  factor 1 2\n  factor missing\n}\n") == [("PLM101", 4, 12), ("PLM201", 5, 10)]


def test_an_open_bracket_is_reported_where_it_was_opened() -> None:
    text = HEAD + "  observe a ~ base(a\n  factor 1\n}\n"
    (found,) = parse(Source("test.plm", text))[1]
    assert found.code == "PLM102" and found.primary is not None
    assert found.primary.span.line == 4 and found.primary.span.text == "("
    assert found.secondary[0].span.line == 5 and found.secondary[0].span.text == "factor"


def test_reading_goes_on_behind_a_block() -> None:
    text = HEAD + "  temper 2 {\n    factor 1\n  }\n  junk\n  factor missing\n}\n"
    assert places(text) == [("PLM101", 7, 3), ("PLM201", 8, 10)]
    module, _ = parse(Source("test.plm", text))
    assert module is not None
    temper, factor = module.program.body
    assert isinstance(temper, ast.Temper) and len(temper.body) == 1
    assert isinstance(factor, ast.Factor)


def test_long_is_not_deep() -> None:
    items = ", ".join(["a + a"] * 200)
    text = HEAD + f"  let b = [{items}]\n" + "  factor 1 + 1\n" * 200 + "}\n"
    assert codes(text) == []


def test_one_wrong_parameter_leaves_the_others() -> None:
    text = "program p(a: text, b text, c: int) {\n  factor c + b\n  observe a ~ d()\n}\n"
    assert places(text) == [("PLM101", 1, 22), ("PLM201", 3, 15)]


def test_the_end_of_the_file_is_at_its_end() -> None:
    text = 'lm base = "tiny"\nlm other =\n\n\n'
    assert places(text) == [("PLM107", 2, 11)]


def test_errors_are_cut_off_with_a_note() -> None:
    found = parse(Source("test.plm", HEAD + "  factor 1 2\n" * 200 + "}\n"))[1]
    assert len(found) == 50
    assert found[-1].notes and not found[-2].notes


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("x" * 1_000_001, "PLM109"),
        ("factor 1\n" * 1_200_000, "PLM109"),
        (HEAD + "\0", "PLM110"),
        (HEAD + "\ud800", "PLM110"),
        ("(" * 150, "PLM108"),
        (HEAD + "factor " + "(" * 101 + "1" + ")" * 101 + "}", "PLM108"),
        (HEAD + "factor " + "-" * 5000 + "1 }", "PLM108"),
        (HEAD + "factor " + "1 + " * 5000 + "1 }", "PLM108"),
        (HEAD + "factor " + "if true then 1 else " * 5000 + "1 }", "PLM108"),
        (HEAD + "temper 2 {" * 5000, "PLM108"),
    ],
)
def test_too_much_is_refused_quickly(text: str, code: str) -> None:
    started = time.process_time()
    assert code in codes(text)
    assert time.process_time() - started < 3


def test_as_deep_as_allowed() -> None:
    for text in ("(" * 98 + "1" + ")" * 98, "abs(" * 98 + "1" + ")" * 98, "-" * 99 + "1", "1 + " * 99 + "1"):
        source = Source("test.plm", HEAD + f"  observe a ~ base(a)\n  factor {text}\n}}\n")
        assert [d.code for d in compile_source(source, lint=True).diagnostics] == ["PLM907"]


def test_load_module(tmp_path) -> None:
    path = tmp_path / "p.plm"
    path.write_bytes(b"\xef\xbb\xbf" + (HEAD + "  factor 1\n}\n").replace("\n", "\r\n").encode())
    assert load_module(path).module.program.name.id == "p"
    path.write_text(HEAD + "  factor nothing\n}\n")
    with pytest.raises(CompileError, match="PLM201"):
        load_module(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(CompileError, match="PLM801"):
        read_source(path)
    with pytest.raises(CompileError, match="PLM801"):
        read_source(tmp_path / "absent.plm")
