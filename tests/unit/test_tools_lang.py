"""Tools in the language: what is checked, what a graph says of them, and what a fingerprint holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posterior_lm.api.query import Query, load, loads
from posterior_lm.graph import lower, optimize
from posterior_lm.lang.diagnostics import CompileError
from posterior_lm.lang.driver import compile_source
from posterior_lm.lang.source import Source
from tests.cli import plm, process
from tests.conftest import ROOT
from tests.strategies import table

HEAD = """lm base = "tiny"
use mine from "package.module:f"
tool calc = calculator()
tool arrow = calculator(trigger="->", operands=3, output="intervene")
tool used = mine(trigger="?", seconds=0.5)
"""


def codes(option: str, head: str = HEAD, params: str = "q: text") -> list[str]:
    source = f"{head}program p({params}) {{\n latent z: text(tokens=1..9{option}) ~ base(q) }}\n"
    return [d.code for d in compile_source(Source("t.plm", source)).diagnostics if d.severity == "error"]


@pytest.mark.parametrize(
    "option",
    [
        ", tools=calc",
        ", tools=[calc, arrow, used]",
        ', tools=arrow, stop="=", chars="0123456789->"',
        ', tools=calc, chars="0123=", stop="."',
        ', tools=calc, stop="=.", end="stop"'.replace(', end="stop"', ""),
        ', tools=calc, pattern="[0-9=]*", canonical=false',
    ],
)
def test_right_tools(option: str) -> None:
    assert codes(option) == []


@pytest.mark.parametrize(
    ("option", "code"),
    [
        (", tools=mine", "PLM309"),
        (", tools=base", "PLM309"),
        (", tools=nothing", "PLM201"),
        (", tools=[calc, calc]", "PLM342"),
        (", tools=calc, canonical=true", "PLM343"),
        (', tools=calc, grammar="g.lark"', "PLM343"),
        (', tools=calc, json="s.json"', "PLM343"),
        (', tools=calc, stop="="', "PLM345"),
        (', tools=arrow, stop="-"', "PLM345"),
        (', tools=[calc, arrow], chars="0123456789=- "', "PLM345"),
    ],
)
def test_tools_that_do_not_fit(option: str, code: str) -> None:
    assert codes(option) == [code]


@pytest.mark.parametrize(
    ("declared", "code"),
    [
        ("mine()", "PLM341"),
        ('lookup("t.csv")', "PLM341"),
        ('lookup(trigger=":")', "PLM307"),
        ('mine(trigger="")', "PLM309"),
        ('mine(trigger="=", seconds=0)', "PLM309"),
        ('mine(trigger="=", operands=2)', "PLM206"),
        ("calculator(operands=0)", "PLM309"),
        ('calculator(output="replace")', "PLM309"),
        ("calculater()", "PLM211"),
    ],
)
def test_declarations_that_are_wrong(declared: str, code: str) -> None:
    assert codes("", head=f"{HEAD}tool t = {declared}\n") == [code]


def test_two_triggers_of_which_one_ends_in_the_other() -> None:
    head = HEAD + 'tool long = calculator(trigger="x=")\n'
    assert codes(", tools=[long, calc]", head) == ["PLM342"]
    assert codes(", tools=[long, arrow]", head) == []


def test_a_parameter_has_no_tools() -> None:
    assert codes("", params="q: text(tools=calc)") == ["PLM343"]


# ------------------------------------------------------------------- graphs and fingerprints


def query(declared: str, tools: str = "t", folder: Path | None = None, uses: str = "") -> Query:
    source = f"""lm base = "b"
    {uses}
    {declared}
    program p() {{ latent z: text(tokens=1..3, stop=".", tools={tools}) ~ base() }}"""
    found = loads(source)
    return found if folder is None else Query(found.module, base_dir=folder)


def test_a_fingerprint_holds_what_a_tool_does_and_not_its_name(tmp_path: Path) -> None:
    first = query("tool t = calculator()").fingerprint
    assert query('tool t = calculator(operands=2, output="observe", trigger="=")').fingerprint == first
    assert query("tool other = calculator()", "other").fingerprint == first
    others = [
        query("tool t = calculator(operands=3)"),
        query('tool t = calculator(output="intervene")'),
        query('tool t = calculator(trigger="->")'),
        query('tool t = calculator() tool u = calculator(trigger="->")', "[t, u]"),
        query('tool t = f(trigger="=")', uses='use f from "m:f"'),
        query('tool t = f(trigger="=")', uses='use f from "m:g"'),
        loads('lm base = "b" program p() { latent z: text(tokens=1..3, stop=".") ~ base() }'),
    ]
    found = [one.fingerprint for one in others]
    assert len({first, *found}) == len(others) + 1
    both = query('tool t = calculator() tool u = calculator(trigger="->")', "[u, t]")
    assert both.fingerprint == found[3], "the order of the list says nothing"
    slow = query('tool t = f(trigger="=", seconds=9)', uses='use f from "m:f"')
    assert slow.fingerprint == found[4], "a time limit changes no value"


def test_a_table_counts_by_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"x": "1", "y": "2"}')
    (tmp_path / "b.csv").write_text("key,text\ny,2\nx,1\n")
    (tmp_path / "c.json").write_text('{"x": "1", "y": "3"}')
    a, b, c = (
        query(f'tool t = lookup("{n}", trigger=":")', folder=tmp_path) for n in ("a.json", "b.csv", "c.json")
    )
    assert a.fingerprint == b.fingerprint != c.fingerprint


def test_a_graph_shows_its_tools() -> None:
    from posterior_lm.graph.dump import text

    (latent,) = (n for _, n in query("tool t = calculator()").graph.latents())
    assert "tools=[calculator('=', observe)]" in latent.detail
    assert latent.detail in text(query("tool t = calculator()").graph)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [("no.csv", None, "no such file"), ("t.txt", "a,b", "is no table"), ("t.json", "[]", "no JSON object")],
)
def test_a_file_that_is_no_table_is_an_error_of_the_program(
    tmp_path: Path, name: str, content: str | None, says: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(CompileError) as caught:
        query(f'tool t = lookup("{name}", trigger=":")', folder=tmp_path).graph  # noqa: B018
    (found,) = caught.value.diagnostics
    assert found.code == "PLM344" and says in found.message
    program = tmp_path / "p.plm"
    program.write_text(
        f'lm base = "tiny"\ntool t = lookup("{name}", trigger=":")\n'
        "program p() { latent z: text(tokens=1..3, tools=t) ~ base() }\n"
    )
    checked = plm("check", str(program), "--format", "json")
    assert [d["code"] for d in json.loads(checked.output)] == ["PLM344"]


def test_tools_are_formatted_and_composed() -> None:
    found = load(ROOT / "programs" / "arithmetic_with_tool.plm")
    assert 'tool calc = calculator(trigger="=", operands=2, output="observe")' in str(found)
    assert loads(str(found)).fingerprint == found.fingerprint
    twice = found * found
    assert str(twice).count("tool calc") == 1
    assert len([n for _, n in optimize(lower(twice.checked)).latents() if n.tools]) == 1


def test_a_used_tool_needs_consent() -> None:
    found = query('tool t = f(trigger="=")', uses='use f from "tests.unit.test_tools_process:behave"')
    found = found.lm(base=table(("1", "=", "."), seed=1))
    with pytest.raises(CompileError) as caught:
        found.target()
    assert [d.code for d in caught.value.diagnostics] == ["PLM541"]
    assert found.allow_use().target().latent("z").support.max_tokens > 3


def test_checking_a_program_with_tools_loads_no_model() -> None:
    code = (
        "import atexit, sys; from posterior_lm.cli.main import cli\n"
        "heavy = ('torch', 'transformers', 'subprocess')\n"
        "atexit.register(lambda: print([m for m in heavy if m in sys.modules]))\n"
        "cli(['check', '-v', 'programs/arithmetic_with_tool.plm'])\n"
    )
    done = process(code=code)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "[]", done.stderr
