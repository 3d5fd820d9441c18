"""`plm check`, `plm fmt`, `plm graph` and `plm explain`."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from posterior_lm.cli import check
from posterior_lm.cli.main import COMMANDS, cli
from posterior_lm.lang.codes import CODES
from posterior_lm.lang.driver import compile_source, load_module
from posterior_lm.lang.parser import parse
from posterior_lm.lang.source import Source
from posterior_lm.lm.resolve import peek_tokenizer
from posterior_lm.support.build import build_support
from tests.cli import ROOT, WALK, plm

PROGRAMS = ROOT / "programs"
TYPES = [
    'text(tokens=1..1, chars="\u65e5")',
    "text(tokens=1..5)", 'text(tokens=0..1, end="free")', 'text(tokens=3..5, stop="the end")',
    'text(tokens=1..3, stop=".", chars="ab")', 'text(tokens=2..2, chars="ab")',
    "text(tokens=1..4, canonical=true)",
    'text(tokens=1..2, stop="incomprehensible")', "int(0..9)", 'int(-3..70, lead=" ")', "int(0..2000000)",
    'one_of("yes", "no")', 'one_of(" yes, sir", " yes")',
]  # fmt: skip


def program(latent: str, lm: str = "tiny") -> str:
    return f'lm base = "{lm}"\n\nprogram p(prompt: text) {{\n  latent z: {latent} ~ base(prompt)\n}}\n'


def written(folder: Path, text: str, name: str = "p.plm") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


# ------------------------------------------------------------- check


def test_check_takes_files_and_folders(tmp_path: Path) -> None:
    result = plm("check", PROGRAMS)
    assert (
        result.exit_code == 0
        and result.stdout == f"{len(list(PROGRAMS.glob('*.plm')))} programs checked: no errors\n"
    )
    assert json.loads(plm("check", PROGRAMS, "--format", "json").stdout) == []
    empty = plm("check", tmp_path)
    assert empty.exit_code == 1 and "PLM801" in empty.stderr


def test_check_goes_on_after_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    bad = written(tmp_path, program("text(tokens=5..2)"))
    result = plm("check", tmp_path / "none.plm", bad, "--format", "json")
    found = json.loads(result.stdout)
    assert [d["code"] for d in found] == ["PLM801", "PLM302"] and result.exit_code == 1
    assert set(found[1]) == {
        "code",
        "severity",
        "message",
        "file",
        "line",
        "column",
        "end_line",
        "end_column",
        "help",
    }
    assert (found[1]["file"], found[1]["line"], found[1]["column"], found[1]["end_column"]) == (
        str(bad),
        4,
        25,
        29,
    )
    assert result.stderr == ""


def test_check_reads_standard_input() -> None:
    assert plm("check", "-", input=program("text(tokens=1..5)")).exit_code == 0
    assert "<stdin>:4:" in plm("check", "-", input=program("text(tokens=5..1)")).stderr
    assert "PLM801" in plm("check", "-", input=b"\xff").stderr


def test_lint_warns_and_does_not_fail(tmp_path: Path) -> None:
    text = 'lm base = "tiny"\nlm other = "tiny"\n\nprogram p() {\n  latent z: text(tokens=1..5) ~ base()\n}\n'
    path = written(tmp_path, text)
    assert plm("check", path).stderr == ""
    result = plm("check", path, "--lint", "--format", "concise")
    assert "warning[PLM9" in result.stderr and result.exit_code == 0


@pytest.mark.parametrize("type_", TYPES)
def test_check_finds_empty_supports_exactly_where_binding_would(type_: str) -> None:
    """The shortcut for `tiny` and the check itself, against the supports that binding builds."""
    checked = compile_source(Source("p", program(type_)))
    assert not checked.diagnostics
    declared = checked.type(checked.module.program.body[0].type)
    try:
        build_support(check._spec(declared), peek_tokenizer("tiny"))
        empty = False
    except Exception:
        empty = True
    assert bool(check.check_supports(checked, "-")) == empty
    assert not (empty and check.never_empty(declared))


def test_tiny_has_every_byte() -> None:
    """What `never_empty` rests on."""
    pieces = peek_tokenizer("tiny").token_bytes
    assert {bytes([b]) for b in range(256)} <= set(pieces)


def test_check_uses_the_tokenizer_beside_the_program_and_forgives_a_missing_one(tmp_path: Path) -> None:
    table = {"tokens": ["a", "b"], "max_tokens": 9, "rows": {"": {"a": 0.5, "b": 0.25, "<eos>": 0.25}}}
    written(tmp_path, json.dumps(table), "ab.json")
    path = written(tmp_path, program('text(tokens=1..5, stop=".")', "ab.json"))
    result = plm("check", path)
    assert result.exit_code == 1 and "PLM531" in result.stderr and "p.plm:4:" in result.stderr
    assert plm("check", written(tmp_path, program('text(tokens=1..5, stop=".")', "none.json"))).exit_code == 0


# ------------------------------------------------------------- fmt

UGLY = 'lm base="tiny"\nprogram p( prompt:text ){ # why\nlatent z:text(tokens=1..5)~base(prompt)}\n'


def test_fmt_writes_in_place_and_keeps_permissions(tmp_path: Path) -> None:
    path = written(tmp_path, UGLY)
    path.chmod(0o640)
    link = tmp_path / "link.plm"
    link.symlink_to(path)
    checked = plm("fmt", "--check", path)
    assert (
        checked.exit_code == 1 and path.read_text() == UGLY and checked.stdout == f"would reformat {path}\n"
    )
    assert plm("fmt", link).exit_code == 0 and link.is_symlink()
    text = path.read_text()
    assert text != UGLY and "# why" in text and load_module(path).module == parse(Source("p", UGLY))[0]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    again = plm("fmt", "--check", path)
    assert (
        again.exit_code == 0 and again.stdout == "" and sorted(os.listdir(tmp_path)) == ["link.plm", "p.plm"]
    )


def test_fmt_reads_standard_input() -> None:
    for option in ("-", "--stdin"):
        result = plm("fmt", option, input=UGLY)
        assert result.exit_code == 0 and result.stdout.startswith(
            'lm base = "tiny"\n\nprogram p(prompt: text) {'
        )


def test_fmt_leaves_what_does_not_parse_alone_and_does_the_rest(tmp_path: Path) -> None:
    broken = written(tmp_path, UGLY.replace("~", ""), "a.plm")
    before = broken.read_bytes()
    fine = written(tmp_path, UGLY, "b.plm")
    result = plm("fmt", tmp_path)
    assert result.exit_code == 1 and "PLM101" in result.stderr and result.stdout == f"reformatted {fine}\n"
    assert broken.read_bytes() == before


def test_fmt_formats_what_parses_though_it_does_not_check(tmp_path: Path) -> None:
    path = written(tmp_path, UGLY.replace("base(prompt)", "base(promt)"))
    assert plm("fmt", path).exit_code == 0 and "base(promt)" in path.read_text()


def test_fmt_that_cannot_write_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, UGLY)

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    result = plm("fmt", path)
    assert result.exit_code == 1 and "PLM805" in result.stderr and path.read_text() == UGLY
    assert os.listdir(tmp_path) == ["p.plm"]


def test_fmt_needs_a_file() -> None:
    assert plm("fmt").exit_code == 2


# ------------------------------------------------------------- graph and explain


def test_graph_formats_and_stages() -> None:
    assert json.loads(plm("graph", WALK, "--format", "json").stdout)["name"] == "walk"
    assert plm("graph", WALK, "--format", "dot").stdout.startswith('digraph "walk" {')
    assert (
        "rides" in plm("graph", WALK).stdout and "rides" not in plm("graph", WALK, "--after", "prune").stdout
    )
    result = plm("graph", WALK, "--after", "shar")
    assert result.exit_code == 2 and "PLM802" in result.stderr and "did you mean `share`?" in result.stderr


def test_explain_knows_every_code_in_any_spelling() -> None:
    listed = plm("explain").stdout
    for code, entry in CODES.items():
        assert f"{code}  {entry.title}" in listed
        assert entry.title in plm("explain", code[3:]).stdout
    result = plm("explain", "PLM4O1")
    assert result.exit_code == 2 and "did you mean PLM401?" in result.stderr


# ------------------------------------------------------------- the group


def test_the_table_of_commands_is_that_of_the_commands() -> None:
    for name, line in COMMANDS.items():
        command = cli.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None and (command.help or "").startswith(line)
        help_ = plm(name, "-h")
        assert help_.exit_code == 0 and f"plm {name} " in help_.stdout and "Example:" in help_.stdout


def test_an_unknown_command_names_the_nearest() -> None:
    result = plm("chek")
    assert result.exit_code == 2 and "did you mean 'check'?" in result.stderr
