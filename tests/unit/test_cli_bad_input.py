"""Bad input as a new user gives it: coded, exit 1, nothing on standard output, no traceback."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from posterior_lm.lm.tiny import WEIGHTS
from tests.cli import FOLDER, plm

LETTERS = FOLDER / "letters.json"
LATENT = '  latent z: text(tokens=1..3, stop=".") ~ base(start)\n'


def program(body: str, lm: object = LETTERS) -> str:
    return f'lm base = "{lm}"\n\nprogram p(start: text) {{\n{body}}}\n'


def refused(folder: Path, text: str | bytes, code: str, *more: object, command: str = "check") -> str:
    """The diagnostics of a program that is refused with this code."""
    path = folder / "p.plm"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    result = plm(command, path, *more)
    assert f"error[{code}" in result.stderr, result.stderr or result.stdout
    assert result.exit_code == 1 and result.stdout == "" and "Traceback" not in result.stderr
    return result.stderr


@pytest.mark.parametrize(("body", "code", "at"), [
    ('  latent z: text(tokens=1..3 ~ base(start)\n', "PLM102", ":4:17"),
    ('  latent z: text(tokens=1..3, stop=".) ~ base(start)\n', "PLM104", ":4:36"),
    ("  latent z: text(tokens=1..3) ~ base(strat)\n", "PLM201", "did you mean 'start'?"),
    ('  observe "a" ~ base(z)\n' + LATENT, "PLM401", "drawn here"),
    (LATENT + LATENT, "PLM404", "first prior"),
    ("  latent a: text(tokens=1..3) ~ base(b)\n  latent b: text(tokens=1..3) ~ base(a)\n", "PLM402", "reads"),
    (LATENT + "  factor z\n", "PLM304", ":5:10"),
    ("  latent z: text(tokens=5..2) ~ base(start)\n", "PLM302", ":4:25"),
    ('  latent z: text(tokens=1..3, stop="!") ~ base(start)\n', "PLM531", ":4:"),
    ('  latent z: text(tokens=1..1, stop="ab") ~ base(start)\n', "PLM330", ":4:"),
    (LATENT + "  factor " + "(" * 3000 + "1" + ")" * 3000 + "\n", "PLM108", "too deep"),
    (LATENT + "temper 1 {\n" * 3000 + "}\n" * 3000, "PLM108", "too deep"),
])  # fmt: skip
def test_wrong_programs(body: str, code: str, at: str, tmp_path: Path) -> None:
    assert at in refused(tmp_path, program(body), code)


@pytest.mark.parametrize(("text", "code"), [
    (program(LATENT) + "# " + "x" * 10_000_000, "PLM109"),
    (program(LATENT).replace("start", "st\0rt", 1), "PLM110"),
    (b"\0" * 50, "PLM110"),
    ("", "PLM115"),
    (b"# caf\xe9\n" + program(LATENT).encode(), "PLM801"),
], ids=["10 MB", "null", "only null", "empty", "latin-1"])  # fmt: skip
def test_wrong_files(text: str | bytes, code: str, tmp_path: Path) -> None:
    for command in ("check", "fmt", "graph"):
        refused(tmp_path, text, code, command=command)
        assert [p.name for p in tmp_path.iterdir()] == ["p.plm"]


@pytest.mark.parametrize(("body", "code", "about"), [
    (LATENT + "  factor log(0) - log(0)\n", "PLM701", "log(0) - log(0)"),
    (LATENT + "  factor exp(1000)\n", "PLM704", "exp(1000)"),
    (LATENT + '  condition contains(z, "bb")\n', "PLM703", 'contains(z, "bb")'),
    (LATENT + "  condition false\n", "PLM703", "condition false"),
    ('  latent z: text(tokens=1..3, pattern=r"aaaa+") ~ base(start)\n', "PLM330", "satisfies pattern"),
])  # fmt: skip
def test_numbers_that_go_wrong_name_their_statement(body: str, code: str, about: str, tmp_path: Path) -> None:
    assert about in refused(tmp_path, program(body), code, "--given", "start=a", command="run")


def test_use_is_off_unless_it_is_allowed(tmp_path: Path) -> None:
    text = program(LATENT + "  factor f(z)\n").replace("\n\n", '\nuse f from "builtins:len"\n\n', 1)
    refused(tmp_path, text, "PLM541", "--given", "start=a", command="run")
    assert plm("run", tmp_path / "p.plm", "--given", "start=a", "--allow-use").exit_code == 0


def test_model_folders_without_weights_or_tokenizer(tmp_path: Path) -> None:
    asked = ("--given", "start=a")
    for missing, code in (("model.safetensors", "PLM511"), ("tokenizer.json", "PLM512")):
        folder = tmp_path / missing / "model"
        shutil.copytree(WEIGHTS, folder)
        (folder / missing).unlink()
        refused(tmp_path / missing, program(LATENT, folder), code, *asked, command="run")
        refused(tmp_path / missing, program(LATENT), code, *asked, "--lm", f"base={folder}", command="run")
    found = refused(tmp_path, program(LATENT, "no-such-model"), "PLM510", *asked, command="run")
    assert "no-such-model" in found and "offline" in found


def test_a_context_longer_than_the_window_says_by_how_much(tmp_path: Path) -> None:
    found = refused(
        tmp_path, program(LATENT, "tiny"), "PLM520", "--given", "start=" + " dog" * 700, command="run"
    )
    many = re.search(r"is (\d+) tokens longer than the model's window of 512", found)
    assert many and 150 < int(many[1]) < 800


HUGE, HUGER = "9" * 390, "9" * 5000


@pytest.mark.parametrize(
    ("type_", "json", "code", "said"),
    [
        ("int", '"{a}"', "PLM603", "not 'aaaaaaaaa"),
        ("real", '"{a}"', "PLM603", "not 'aaaaaaaaa"),
        ("bool", '"{a}"', "PLM603", "not 'aaaaaaaaa"),
        ('one_of("a", "b")', '"{a}"', "PLM608", "is 'aaaaaaaaa"),
        ("text", '["{a}"]', "PLM603", "not ['aaaaaaaa"),
        ("real", HUGE, "PLM608", "must be finite, not 9999"),
        ("real", "-" + HUGE, "PLM608", "must be finite, not -9999"),
        ("int", HUGE, "PLM608", "beyond every number"),
        ("text", HUGE, "PLM603", "not 9999"),
        ("int(0..9)", "1" + "0" * 300, "PLM608", "outside 0..9"),
        ("real", HUGER, "PLM606", "too large"),
        ("int", HUGER, "PLM606", "too large"),
        ("text", r'"\ud800"', "PLM608", "half of a surrogate pair"),
        ('one_of("a", "b")', r'"\ud800"', "PLM608", r"is '\ud800'"),
        ("int", "[" * 900 + "]" * 900, "PLM603", "not "),
        ("int", "[" * 100_000, "PLM606", "nested too deeply"),
    ],
    ids=range(16),
)
def test_values_that_are_odd_long_or_huge(
    type_: str, json: str, code: str, said: str, tmp_path: Path
) -> None:
    """As a value of a row, and as one of a table in a row."""
    json = json.replace("{a}", "a" * 200)
    for declared, row in ((type_, json), (f"table(v: {type_})", f'[{{"v": {json}}}]')):
        (tmp_path / "rows.jsonl").write_text(f'{{"v": {row}}}')
        text = f"program p(v: {declared}) {{\n  latent n: int(0..3) ~ uniform(0, 3)\n}}\n"
        found = refused(tmp_path, text, code, "--data", tmp_path / "rows.jsonl", command="run")
        assert said in found and "a" * 100 not in found and "9" * 100 not in found.splitlines()[0]


@pytest.mark.parametrize("value", ["a" * 200, HUGE, HUGER])
def test_words_that_spell_no_number(value: str, tmp_path: Path) -> None:
    """On the command line and in a field of CSV."""
    (tmp_path / "rows.csv").write_text(f"v\n{value}\n")
    for type_ in ("int", "real"):
        text = f"program p(v: {type_}) {{\n  latent n: int(0..3) ~ uniform(0, 3)\n}}\n"
        for asked in (("--data", tmp_path / "rows.csv"), ("--given", f"v={value}")):
            found = refused(tmp_path, text, "PLM60", *asked, command="run")
            assert re.search(r"PLM60[38]", found) and value not in found.splitlines()[0]


@pytest.mark.parametrize(
    "name", ["a" * 300, "x\0y", "\ud800", ""], ids=["long", "null", "surrogate", "empty"]
)
def test_names_that_no_file_can_have(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "p.plm").write_text(program(LATENT))
    shots = LATENT + f'  infer few_shot(examples="{name}")\n'
    (tmp_path / "shots.plm").write_text(program(shots), errors="replace")
    (tmp_path / "rows.jsonl").write_text('{"start": "a"}')
    rows = ("--data", "rows.jsonl")
    for command, code in (
        (("check", name), "PLM801"),
        (("run", "p.plm", "--data", name), "PLM801|PLM609"),
        (("run", "p.plm", "--given", f"start=@{name}"), "PLM801"),
        (("run", "p.plm", *rows, "--save", name), "PLM612"),
        (("run", "p.plm", *rows, "--policy", name), "PLM622"),
        (("run", "p.plm", *rows, "--em", name), "PLM795"),
        (("run", "p.plm", *rows, "--lm", f"base={name}"), "PLM510"),
        (("run", "p.plm", *rows, "--lm", f"base={name}.json"), "PLM510|PLM514"),
        (("run", "shots.plm", *rows, "--method", "few_shot"), "PLM[1-9]"),
        (("fit", "p.plm", *rows, "--out", name), "PLM612"),
        (("em", "p.plm", *rows, "--out", name), "PLM612"),
        (("report", "p.plm", *rows, "--out", name), "PLM805|--out"),
    ):
        result = plm(*command)
        assert result.exit_code in (1, 2) and re.search(code, result.stderr), (command, result.stderr)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.plm", "rows.jsonl", "shots.plm"]


def test_programs_that_are_not_there(tmp_path: Path) -> None:
    for command in ("check", "graph", "run", "fmt"):
        result = plm(command, tmp_path / "none.plm")
        assert result.exit_code == 1 and "PLM801" in result.stderr
    assert "PLM801" in plm("run", tmp_path).stderr
