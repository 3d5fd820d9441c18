"""Files that a program names stay in its folder, are regular and small, and are not shown where they are foreign."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

import posterior_lm as plm
from posterior_lm.lang.diagnostics import CompileError, ModelError
from tests.cli import plm as command

SECRET = "hunter2-and-more"


def program(option: str) -> str:
    return f'lm base = "tiny"\n\nprogram p() {{\n  latent z: text(tokens=1..4, {option}) ~ base()\n}}\n'


def written(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def codes(result) -> set[str]:
    return {d["code"] for d in json.loads(result.stdout)}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder for programs, beside files that are none of its business."""
    written(tmp_path, "secret.lark", f"{SECRET} ((\n")
    written(tmp_path, "fine.lark", 'start: "a" | "b"\n')
    written(tmp_path, "secret.json", json.dumps({SECRET: [SECRET]}))
    written(tmp_path, "pairs.csv", f"key,text\n{SECRET},\n")
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.mark.parametrize("option", ["grammar", "json"])
@pytest.mark.parametrize("verb", ["check", "run", "graph"])
def test_a_foreign_file_is_neither_read_nor_shown(home: Path, option: str, verb: str) -> None:
    for name in (f"../secret.{'lark' if option == 'grammar' else 'json'}", "/etc/passwd"):
        file = written(home, "p.plm", program(f'{option}="{name}"'))
        result = command(verb, file)
        assert result.exit_code == 1 and "PLM347" in result.stderr and "--allow-path" in result.stderr
        assert SECRET not in result.output and "root:" not in result.output


def test_a_link_is_followed_before_it_is_judged(home: Path) -> None:
    (home / "near.lark").symlink_to(home.parent / "secret.lark")
    (home / "folder").symlink_to(home.parent)
    for name in ("near.lark", "folder/secret.lark", "folder/../home/../secret.lark"):
        result = command("check", written(home, "p.plm", program(f'grammar="{name}"')))
        assert "PLM347" in result.stderr and SECRET not in result.output, name


def test_what_is_allowed_is_read(home: Path) -> None:
    file = written(home, "p.plm", program('grammar="../fine.lark"'))
    for verb in ("check", "graph", "run"):
        more = ("-n", 5) if verb == "run" else ()
        assert command(verb, file, "--allow-path", home.parent, *more).exit_code == 0, verb
        # A folder that does not hold the file allows nothing; one whose name begins alike neither.
        for other in (home, str(home.parent) + "x", "/etc"):
            assert command(verb, file, "--allow-path", other, *more).exit_code == 1, (verb, other)
    query = plm.load(file)
    with pytest.raises(CompileError, match="outside the program's folder"):
        query.draw(5)
    assert query.allow_path(home.parent).draw(5).n == 2
    assert query.allow_path("/etc", home).allow_path(str(home.parent)).draw(5).n == 2


def test_a_program_without_a_file_starts_where_it_is_run(home: Path, monkeypatch) -> None:
    monkeypatch.chdir(home)
    text = program('grammar="../fine.lark"')
    assert "PLM347" in command("check", "-", input=text).stderr
    assert command("check", "-", "--allow-path", "..", input=text).exit_code == 0
    with pytest.raises(CompileError) as caught:
        plm.loads(text).draw(5)
    assert caught.value.diagnostics[0].code == "PLM347"


def test_tables_of_tools_and_examples_stay_too(home: Path) -> None:
    tool = 'lm base = "tiny"\ntool t = lookup("../pairs.csv", trigger="=")\n'
    file = written(
        home, "t.plm", tool + "program p() {\n  latent z: text(tokens=1..4, tools=t) ~ base()\n}\n"
    )
    for verb in ("check", "run"):
        result = command(verb, file)
        assert "PLM347" in result.stderr and SECRET not in result.output
    assert "PLM344" in command("check", file, "--allow-path", home.parent).stderr
    shots = 'program p() {\n  latent z: text(tokens=1..4) ~ base()\n  infer few_shot(examples="../secret.json")\n}\n'
    result = command("run", written(home, "s.plm", 'lm base = "tiny"\n' + shots))
    assert "PLM347" in result.stderr and SECRET not in result.output


def test_a_table_elsewhere_serves_and_a_wrong_one_is_not_shown(home: Path) -> None:
    rows = {"tokens": ["a"], "order": 0, "max_tokens": 2, "rows": {"": {"a": 0.5, "<eos>": 0.5}}}
    written(home.parent, "t.json", json.dumps(rows))
    body = "program p() {\n  latent z: text(tokens=1..2) ~ base()\n}\n"
    assert plm.load(written(home, "t.plm", f'lm base = "../t.json"\n{body}')).draw(4).n == 2
    wrong = plm.load(written(home, "w.plm", f'lm base = "../secret.json"\n{body}'))
    with pytest.raises(ModelError) as caught:
        wrong.draw(4)
    assert SECRET not in str(caught.value)
    with pytest.raises(ModelError, match=SECRET):
        wrong.allow_path(home.parent).draw(4)


def test_neither_devices_nor_pipes_nor_large_files_are_read(home: Path) -> None:
    os.mkfifo(home / "pipe")
    os.mkfifo(home / "pipe.csv")
    with open(home / "large", "wb") as file:
        file.truncate(2**20 + 1)
    began = time.monotonic()
    for option in ("grammar", "json"):
        for name, why in (("pipe", "no regular file"), ("large", "more than 1,048,576 bytes")):
            result = command("check", written(home, "p.plm", program(f'{option}="{name}"')))
            assert "PLM336" in result.stderr and why in result.stderr
        zero = written(home, "p.plm", program(f'{option}="/dev/zero"'))
        assert "PLM347" in command("check", zero).stderr
        assert "no regular file" in command("check", zero, "--allow-path", "/dev").stderr
    tool = 'lm base = "tiny"\ntool t = lookup("pipe.csv", trigger="=")\n'
    file = written(
        home, "t.plm", tool + "program p() {\n  latent z: text(tokens=1..4, tools=t) ~ base()\n}\n"
    )
    assert "no regular file" in command("check", file).stderr
    (home / "t.json").symlink_to("/dev/zero")
    body = "program p() {\n  latent z: text(tokens=1..2) ~ base()\n}\n"
    assert "cannot be used" in command("run", written(home, "z.plm", f'lm base = "t.json"\n{body}')).stderr
    assert "PLM109" in command("check", "/dev/zero").stderr
    assert time.monotonic() - began < 20


def test_a_byte_order_mark_is_dropped_wherever_a_program_reads(home: Path) -> None:
    written(home, "g.lark", '\ufeffstart: "a"\n')
    written(home, "s.json", '\ufeff{"enum": [1]}')
    written(home, "t.csv", "\ufeffkey,text\na,b\n")
    written(home, "t.json", '\ufeff{"a": "b"}')
    for option in ('grammar="g.lark"', 'json="s.json"'):
        assert command("check", written(home, "p.plm", program(option))).exit_code == 0
    for name in ("t.csv", "t.json"):
        tool = f'lm base = "tiny"\ntool t = lookup("{name}", trigger="=")\n'
        text = tool + "program p() {\n  latent z: text(tokens=1..4, tools=t) ~ base()\n}\n"
        assert command("check", written(home, "p.plm", text)).exit_code == 0
    rows = {"tokens": ["a"], "order": 0, "max_tokens": 2, "rows": {"": {"a": 0.5, "<eos>": 0.5}}}
    written(home, "m.json", "\ufeff" + json.dumps(rows))
    query = plm.load(
        written(
            home, "m.plm", 'lm base = "m.json"\nprogram p() {\n  latent z: text(tokens=1..2) ~ base()\n}\n'
        )
    )
    assert query.draw(3).n == 2


def test_examples_lie_beside_the_program_for_every_command(home: Path) -> None:
    """`compare` resolved its options by a copy of what `run` does, and lost the folder."""
    rows = {"tokens": ["a", "b", "\n"], "order": 0, "max_tokens": 30}
    rows["rows"] = {"": {"a": 0.3, "b": 0.5, "\n": 0.1, "<eos>": 0.1}}
    written(home, "t.json", json.dumps(rows))
    written(home, "shots.jsonl", '{"z": "ab"}\n')
    body = 'program p() {\n  latent z: text(tokens=2..2, end="free") ~ base()\n  guide z ~ base()\n'
    infer = '  infer few_shot(examples="shots.jsonl", shots=1)\n}\n'
    file = written(home, "p.plm", f'lm base = tabular("t.json")\n\n{body}{infer}')
    query = plm.load(file)
    assert query.draw(3).n == 3 and query.using("few_shot").draw(3).method == "few_shot"
    compared = query.using("few_shot").compare(draws=20)
    assert "few_shot" in {one.method for one in compared.methods if not one.failed}
