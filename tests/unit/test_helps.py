"""What a diagnostic proposes where a pattern, a grammar, a schema, a value or a file is wrong."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import pytest

from posterior_lm import DataError, InferenceError, load, loads
from posterior_lm.lang import regex as mending
from posterior_lm.lang.diagnostics import CompileError, readable
from posterior_lm.lang.regex import mend
from posterior_lm.support import grammar_parser
from posterior_lm.support.grammar_parser import check_grammar
from posterior_lm.support.spec import TextSpec
from tests.cli import plm

# ------------------------------------------------------------------------- patterns

PATTERNS = {
    "(": "`)`", "(?#": "`)`", "(?P<n": "`>`", "[a": "`]`", "a)": r"`\)`", "*a": "before it", "a**": "(?:",
    "a{3,1}": "{1,3}", "\\": r"`\\`", r"\q": r"`\\`", r"\x1": r"`\x41`", "[b-a]": "`a-z`", "(?<=a+)b": "listing",
    "(?P<n>a)(?P<n>b)": "another name", "(?z)": "(?:", "a(?i)b": "start", r"\N{foo}": "itself", r"\2": r"`\(`",
    r"\N{foo": "`}`",
}  # fmt: skip


@pytest.mark.parametrize(("pattern", "said"), PATTERNS.items())
def test_a_wrong_pattern(pattern: str, said: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(re.error) as caught:
            re.compile(pattern)
    assert said in mend(caught.value.msg), caught.value.msg


def test_every_mend_is_for_something_that_re_says() -> None:
    said = set()
    for pattern in PATTERNS:
        try:
            re.compile(pattern)
        except re.error as problem:
            said |= {start for start, _ in mending._MENDS if problem.msg.startswith(start)}
    assert said == {start for start, _ in mending._MENDS}


def test_a_pattern_that_came_with_the_data() -> None:
    query = loads(
        "program p(r: text) {\n  latent n: int(0..3) ~ uniform(0, 3)\n  condition matches(r, r)\n}\n"
    )
    with pytest.raises(InferenceError, match="PLM317") as caught:
        query.given(r="(a").draw(4)
    assert "close it with `)`" in str(caught.value.diagnostics[0].help)


# ------------------------------------------------------------------------- grammars and schemas


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"grammar": 'start: "a'}, "double quotes"),
        ({"grammar": "start: a"}, "define it"),
        ({"grammar": 'begin: "a"'}, "`start`"),
        ({"grammar": "start: /(?=a)a/"}, "look-ahead"),
        ({"grammar": "start: /a(/"}, "regular expression"),
        ({"grammar": 'start: "a"\nstart: "b"'}, "another name"),
        ({"grammar": 'start: "a"~3..1'}, "~1..3"),
        ({"grammar": 'start "a"'}, "name: this"),
        ({"grammar": "start: %json {"}, "json="),
        ({"grammar": "%import x\nstart: X"}, "%import common.WORD"),
        ({"json": '{"type": "obj"}'}, '"object"'),
        ({"json": '{"type": "string", "pattern": "(a"}'}, "backslashes"),
        ({"json": '{"enum": []}'}, "loosen"),
        ({"json": '{"not": {"type": "string"}}'}, "condition"),
        ({"json": '{"$ref": "#/x"}'}, "$defs"),
        ({"json": '{"type": "string", "format": "nope"}'}, "format"),
        ({"json": '{"properties": 3, "type": "object"}'}, '{"type": "string"}'),
        ({"json": '{"type": '}, "json.tool"),
    ],
)
def test_a_wrong_grammar_or_schema(options: Mapping[str, str], said: str) -> None:
    with pytest.raises(CompileError) as caught:
        check_grammar(TextSpec(1, 9, **options), None)
    assert said in str(caught.value.diagnostics[0].help)


def test_what_nobody_foresaw_has_a_help_too() -> None:
    assert "`start`" in grammar_parser.grammar_help("something new")
    assert "condition" in grammar_parser.schema_help("something new")


def test_files_of_a_grammar(tmp_path: Path) -> None:
    (tmp_path / "latin.lark").write_bytes(b"start: \xe9")
    (tmp_path / "large.lark").write_text("//" + "x" * 2**20)
    for name, said in (
        ("latin.lark", "save it as UTF-8"),
        ("large.lark", "smaller"),
        ("none.lark", "looked for"),
    ):
        file = tmp_path / "p.plm"
        file.write_text(
            'lm base = "tiny"\nprogram p(x: text) {\n'
            f'  latent z: text(tokens=1..6, grammar="{name}") ~ base(x)\n}}\n'
        )
        with pytest.raises(CompileError, match="PLM336") as caught:
            _ = load(file).graph
        assert said in str(caught.value.diagnostics[0].help)


# ------------------------------------------------------------------------- values

TYPES = """program p(i: int(0..9) = 0, r: real = 0.0, b: bool = true, c: one_of("red", "blue") = "red",
  t: text(chars="ab") = "a", s: table(n: int(0..3))) {
  latent n: int(0..3) ~ uniform(0, 3)
}
"""


@pytest.mark.parametrize(
    ("name", "value", "code", "said"),
    [
        ("i", "7", "PLM603", "without quotes"),
        ("i", 70, "PLM608", "in that range"),
        ("r", "x", "PLM603", "such as 0.5"),
        ("r", float("inf"), "PLM608", "finite"),
        ("b", 1, "PLM603", "true or false"),
        ("c", 3, "PLM603", "choose from 'red', 'blue'"),
        ("c", "read", "PLM608", "did you mean 'red'"),
        ("t", 3, "PLM603", "in quotes"),
        ("t", "abc", "PLM608", "`chars`"),
        ("t", "\ud800", "PLM608", "take it out"),
        ("s", 3, "PLM603", "list of objects"),
        ("s", [3], "PLM603", "a row is an object with `n`"),
        ("s", [{"n": 9}], "PLM608", "in that range"),
        ("s", [{}], "PLM601", "add `n`"),
    ],
)
def test_a_value_of_the_wrong_kind(name: str, value: object, code: str, said: str) -> None:

    with pytest.raises(DataError) as caught:
        loads(TYPES).given(**{"s": [], name: value}).draw(2)
    found = caught.value.diagnostics[0]
    assert found.code == code and said in str(found.help)


def test_half_a_character() -> None:
    with pytest.raises(DataError) as caught:
        loads(TYPES.replace('(chars="ab")', "")).given(s=[], t="\ud800").draw(2)
    assert "U+FFFD" in str(caught.value.diagnostics[0].help)


# ------------------------------------------------------------------------- files


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "number.plm").write_text("program p() {\n  latent n: int(0..3) ~ uniform(0, 3)\n}\n")
    (tmp_path / "latin.plm").write_bytes(b"# caf\xe9\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "rows.jsonl").write_text("{}\n")
    for arguments, said in (
        (("run", "nubmer.plm"), "did you mean `number.plm`?"),
        (("run", "other/nubmer.plm"), "the folder that the command runs in"),
        (("run", "."), "not a folder"),
        (("run", "latin.plm"), "save it as UTF-8"),
        (("check", "empty"), "name a program"),
        (("run", "number.plm", "--data", "row.jsonl"), "did you mean `rows.jsonl`?"),
        (("run", "number.plm", "--data", "empty"), "rows.jsonl in it"),
    ):
        shown = plm(*arguments)
        assert shown.exit_code == 1 and "PLM801" in shown.stderr, arguments
        assert f"= help: {said}" in shown.stderr or said in shown.stderr.split("= help: ")[1], shown.stderr
    assert "send it as UTF-8" in plm("check", "-", input=b"\xff").stderr


def test_a_file_that_may_not_be_read() -> None:
    assert readable("p.plm", "permission denied") == "allow reading it: chmod +r p.plm"
