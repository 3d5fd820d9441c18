"""Patterns, grammars and schemas from the program to the answer: `plm check`, fingerprints, runs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

import posterior_lm as plm
from posterior_lm.lang.diagnostics import CompileError
from posterior_lm.support.grammar import GrammarSupport
from tests.cli import plm as command

GRAMMAR = 'start: "(" start ")" | " yes" | " no"\n'
SCHEMA = '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}'


def program(options: str, folder: Path, more: str = "") -> Path:
    """A program file with a text latent of these options, and files beside it."""
    (folder / "g.lark").write_text(GRAMMAR)
    (folder / "s.json").write_text(SCHEMA)
    (folder / "endless.lark").write_text('start: "a" start\n')
    (folder / "broken.lark").write_text('start: "a\n')
    (folder / "latin.lark").write_bytes(b"start: \xe9")
    (folder / "large.lark").write_text("//" + "x" * 2**20)
    file = folder / "p.plm"
    file.write_text(
        f'lm base = "tiny"\n\nprogram p(prompt: text, k: int = 5) {{\n'
        f"  latent z: text({options}) ~ base(prompt)\n{more}}}\n"
    )
    return file


@pytest.mark.parametrize(
    ("options", "code", "at"),
    [
        ('tokens=1..6, grammar="g.lark"', None, None),
        ('tokens=1..12, json="s.json"', None, None),
        (r'tokens=4..24, stop=".", pattern=r" [A-Z][a-z ]*\."', None, None),
        (r'tokens=1..k, stop=".", pattern=r" [a-z]+"', "PLM335", 'r" [a-z]+"'),
        (r'tokens=1..2, pattern=r"[a-z]{40}"', "PLM330", 'text(tokens=1..2, pattern=r"[a-z]{40}")'),
        (r'tokens=1..9, pattern=r"[^\s\S]"', "PLM335", r'r"[^\s\S]"'),
        (r'tokens=1..9, chars="ab", pattern=r"c+"', "PLM335", 'r"c+"'),
        ('tokens=1..6, grammar="h.lark"', "PLM336", '"h.lark"'),
        ('tokens=1..6, grammar="latin.lark"', "PLM336", '"latin.lark"'),
        ('tokens=1..6, grammar="large.lark"', "PLM336", '"large.lark"'),
        ('tokens=1..6, grammar="."', "PLM336", '"."'),
        ('tokens=1..6, grammar="endless.lark"', "PLM337", '"endless.lark"'),
        ('tokens=1..6, grammar="broken.lark"', "PLM337", '"broken.lark"'),
        ('tokens=1..6, json="g.lark"', "PLM338", '"g.lark"'),
        ('tokens=1..6, json="s.json", canonical=true', "PLM339", None),
        ('tokens=1..6, stop=".", grammar="g.lark"', "PLM330", None),
    ],
)
def test_check_finds_what_is_wrong_and_where(
    options: str, code: str | None, at: str | None, tmp_path: Path
) -> None:
    file = program(options, tmp_path)
    done = command("check", file, "--format", "json")
    found = json.loads(done.stdout)
    assert [d["code"] for d in found] == ([] if code is None else [code])
    assert done.exit_code == (0 if code is None else 1)
    if at is not None:
        line, column = found[0]["line"], found[0]["column"]
        assert file.read_text().splitlines()[line - 1][column - 1 :].startswith(at)


@pytest.mark.parametrize(
    "options",
    [
        r'tokens=1..9, pattern=r"[^\s\S]"',
        r'tokens=1..2, pattern=r"[a-z]{40}"',
        'tokens=1..6, grammar="broken.lark"',
        'tokens=1..6, json="g.lark"',
        'tokens=1..6, json="s.json", canonical=true',
        'tokens=1..6, stop=".", grammar="g.lark"',
    ],
)
def test_run_points_where_check_does(options: str, tmp_path: Path) -> None:
    file = program(options, tmp_path)
    [checked] = json.loads(command("check", file, "--format", "json").stdout)
    [ran] = json.loads(command("run", file, "-g", "prompt=I", "--format", "json").stderr)
    assert ran == checked and ran["help"]


def test_run_points_at_an_option_that_the_data_make_impossible(tmp_path: Path) -> None:
    file = program(r'tokens=1..k, pattern=r"[a-z]{40}"', tmp_path)
    [ran] = json.loads(command("run", file, "-g", "prompt=I", "-g", "k=2", "--format", "json").stderr)
    assert ran["code"] == "PLM330"
    assert file.read_text().splitlines()[3][ran["column"] - 1 :].startswith("text(tokens=1..k")


def test_files_lie_beside_the_program_and_count_in_the_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = program('tokens=1..6, grammar="g.lark"', tmp_path)
    monkeypatch.chdir("/")
    first = plm.load(file).fingerprint
    assert plm.load(file).fingerprint == first
    (tmp_path / "g.lark").write_text(GRAMMAR.replace("yes", "never"))
    assert plm.load(file).fingerprint != first
    (tmp_path / "g.lark").unlink()
    with pytest.raises(CompileError, match="PLM336"):
        _ = plm.load(file).graph


@pytest.mark.parametrize("end", ["eos", "free"])
def test_a_grammar_is_inferred_exactly(end: str, tmp_path: Path) -> None:
    file = program(f'tokens=1..4, end="{end}", grammar="g.lark"', tmp_path)
    query = plm.load(file).given(prompt="Will he come?")
    target = query.target()
    support = target.latents[0].support
    assert isinstance(support, GrammarSupport)
    exact = query.using("exact", mass=1.0, values=1000).draw()
    open_, values = [((), support.start())], []
    while open_:
        ids, state = open_.pop()
        values += [ids] if support.may_stop(state) else []
        open_ += [
            ((*ids, t), support.advance(state, t)) for t in np.flatnonzero(support.allowed(state)).tolist()
        ]
    texts = {support_text(target, ids) for ids in values}
    assert texts == {" yes", " no", "( yes)", "( no)"}
    scores = target.log_reward({"z": [target.value_of("z", ids) for ids in values]})
    assert exact.log_evidence == pytest.approx(float(np.logaddexp.reduce(scores)), abs=1e-4)


def support_text(target: object, ids: tuple[int, ...]) -> str:
    return target.value_of("z", ids).text  # type: ignore[attr-defined]


@pytest.mark.parametrize("guided", [False, True])
def test_draws_that_end_outside_the_grammar_are_dead(guided: bool, tmp_path: Path) -> None:
    # Some draws begin more than they can end within the cap: they weigh nothing.
    (tmp_path / "deep.lark").write_text('start: " the" start " dog" | " big" start " dog" | " cat"\n')
    file = program(
        'tokens=1..11, grammar="deep.lark"', tmp_path, "  guide z ~ base(prompt)\n" if guided else ""
    )
    query = plm.load(file).given(prompt="Tim saw")
    found = query.using("importance", n=60, proposal="guide" if guided else "prior").draw(seed=3)
    weights = found.weights
    assert math.isfinite(found.log_evidence) and (weights > 0).any()
    support = query.target().latents[0].support
    accepted = [support.accepts(value.ids) for value in found.draws.values["z"]]
    assert [weight > 0 for weight in weights] == accepted and not all(accepted)
