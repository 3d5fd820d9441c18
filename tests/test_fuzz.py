"""Mutated files of the repository: what is wrong with them is a diagnostic with a code, soon, and never a traceback.

`make fuzz` changes files of each kind at random for FUZZ_SECONDS (60) and keeps an input that failed in
`tests/golden/fuzzed/KIND`; the suite tries the kept ones, and the first few of each kind.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import pytest

from posterior_lm import Posterior, load, loads
from posterior_lm.lang.diagnostics import PlmError
from posterior_lm.lm.tabular import TabularModel
from posterior_lm.target.rows import read_rows
from tests.cli import ROOT

KEPT = ROOT / "tests" / "golden" / "fuzzed"
SECONDS = 20
"""That one input may take: on a busy machine the largest that is let through takes two."""
FEW = 12
"""Inputs of each kind that the suite tries."""

MODEL = TabularModel.random(
    [chr(k) for k in range(32, 127)], order=0, max_tokens=90, rng=1, concentration=1.0
)
ROWS = """program rows(t: text, n: int(-5..5), k: int, r: real, o: one_of("a", "b"), xs: table(a: text, b: int)) {
  latent z: int(0..3) ~ uniform()
  factor r * z + n + k
}"""
ROW = {"t": "a text", "n": 3, "k": 12, "r": -0.5, "o": "a", "xs": [{"a": "x", "b": 1}, {"a": "", "b": -7}]}
PATTERNS = [
    r" ?[a-e]+(b|cd)*",
    r"\d{3}-\d{4}",
    r"(a|b)?c{2,4}",
    r"[^a]\w+\.",
    r"(?i:ab)|\x41",
    r"(?:a{1,3}b)+",
    r"\p{L}+",
    r"^ab$",
]


def program(text: str, folder: Path) -> None:
    loads(text)


def rows(text: str, folder: Path) -> None:
    checked = loads(ROWS)
    for suffix in ("jsonl", "csv", "json"):
        file = folder / f"rows.{suffix}"
        file.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            found = read_rows(file, checked.graph.params)
        except PlmError:
            continue
        for row in found:
            try:
                checked.prepared.validate(row)
            except PlmError:
                continue


def pattern(text: str, folder: Path) -> None:
    written = json.dumps(text, ensure_ascii=False)
    one = loads(
        f'lm base = "b"\nprogram p() {{ latent z: text(tokens=1..12, pattern={written}) ~ base() }}'
    ).lm(base=MODEL)
    one.target().latents[0].support.allowed(one.target().latents[0].support.start())


def schema(text: str, folder: Path) -> None:
    (folder / "schema.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    file = folder / "schema.plm"
    file.write_text(
        'lm base = "b"\nprogram p() { latent z: text(tokens=1..60, json="schema.json") ~ base() }'
    )
    load(file).lm(base=MODEL).target()


def table(text: str, folder: Path) -> None:
    file = folder / "table.json"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    TabularModel.from_json(file).next_log_probs(())


def saved(text: str, folder: Path) -> None:
    (folder / "posterior.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    found = Posterior.load(folder)
    _ = found.merged(), found.verdict, found.to_json()


TARGETS: dict[str, tuple[Callable[[str, Path], None], tuple[str, ...]]] = {
    "programs": (program, ("programs/*.plm", "posteriors/*/*.plm", "tests/golden/good/*.plm", "tests/golden/bad/*.plm")),
    "rows": (rows, ("programs/data/*.jsonl",)),
    "patterns": (pattern, ()),
    "schemas": (schema, ("posteriors/json/schemas/*.json",)),
    "tables": (table, ("posteriors/tables/*.json",)),
    "saved": (saved, ("tests/golden/stored/posterior/*/posterior.json",)),
}  # fmt: skip


@lru_cache
def sources(kind: str) -> tuple[str, ...]:
    found = [
        file.read_text(encoding="utf-8") for glob in TARGETS[kind][1] for file in sorted(ROOT.glob(glob))
    ]
    own = {"rows": [json.dumps(ROW), "t,n,k,r,o\nx,1,2,0.5,a\n,,,,\n"], "patterns": PATTERNS}.get(kind, [])
    whole = [*own * 4, *(text for text in found if len(text) < 20_000)]
    assert whole, kind
    return tuple(whole)


# ------------------------------------------------------------------------------- mutations

PIECES = ["", " ", "\n", "\t", "\0", "\ufeff", "\ud800", "é", "漢", "😀", "\\", '"', "'", "{", "}", "[", "]", "(", ")", ",", ":", "..", "-",
          "~", "^", "=", "*", "+", "?", "|", ".", "$", "\\d", "\\b", "(?=a)", "{2,}", "{1000000}", "null", "true", "NaN", "Infinity", "1e999",
          "-1", "0", "0.0", "9" * 30, "9" * 400, "1e-400", "$ref", '"#"', "base", "tokens", "a" * 300, "[" * 300, "(" * 300]  # fmt: skip


def mutated(kind: str, number: int) -> str:
    """The input of a kind with this number, always the same."""
    rng = random.Random(f"{kind} {number}")
    text = rng.choice(sources(kind))
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        at = rng.randrange(len(text) + 1)
        to = min(len(text), at + rng.choice((0, 1, 1, 3, 10, 40)))
        match rng.randrange(6):
            case 0:
                text = text[:at] + text[to:]
            case 1:
                text = text[:at] + rng.choice(PIECES) + text[to:]
            case 2:
                text = text[:at] + text[at:to] * rng.choice((2, 3, 30)) + text[to:]
            case 3:
                other = rng.choice(sources(kind))
                begin = rng.randrange(len(other) + 1)
                text = text[:at] + other[begin : begin + rng.choice((5, 20, 80))] + text[to:]
            case 4:
                text = _number(rng, text)
            case _:
                text = _moved(rng, text)
    return text[:50_000]


def _number(rng: random.Random, text: str) -> str:
    """With a digit replaced."""
    places = [k for k, c in enumerate(text) if c.isdigit()]
    if not places:
        return text
    at = rng.choice(places)
    return text[:at] + rng.choice(("-3", "0", "7", "1e9", "99999999", "2.5", "x")) + text[at + 1 :]


def _moved(rng: random.Random, text: str) -> str:
    """With two words changed for one another."""
    words = text.split(" ")
    a, b = rng.randrange(len(words)), rng.randrange(len(words))
    words[a], words[b] = words[b], words[a]
    return " ".join(words)


# ------------------------------------------------------------------------------- trying


@contextmanager
def limited() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"no answer in {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def tried(kind: str, text: str, folder: Path) -> None:
    """Raises whatever is no diagnostic with a code."""
    with limited():
        try:
            TARGETS[kind][0](text, folder)
        except PlmError as problem:
            assert all(d.code.startswith("PLM") for d in problem.diagnostics)
            str(problem)


@pytest.mark.fuzz
@pytest.mark.parametrize("kind", TARGETS)
def test_fuzz(kind: str, tmp_path: Path) -> None:
    seconds = float(os.environ.get("FUZZ_SECONDS", "60"))
    first = int(os.environ.get("FUZZ_FROM", "1000"))
    until, failed, number = time.monotonic() + seconds, {}, first
    while time.monotonic() < until:
        text = mutated(kind, number)
        try:
            tried(kind, text, tmp_path)
        except Exception as problem:
            name = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
            (KEPT / kind).mkdir(parents=True, exist_ok=True)
            (KEPT / kind / name).write_bytes(text.encode("utf-8", "surrogatepass"))
            failed[f"{type(problem).__name__}: {problem}"[:160]] = name
        number += 1
    print(f"{kind}: {number - first} inputs from {first} on")
    assert not failed, failed


@pytest.mark.parametrize("kind", TARGETS)
def test_the_first_inputs(kind: str, tmp_path: Path) -> None:
    for number in range(FEW):
        tried(kind, mutated(kind, number), tmp_path)


@pytest.mark.parametrize(
    "file", sorted(KEPT.glob("*/*")), ids=lambda file: "-".join(Path(str(file)).parts[-2:])
)
def test_an_input_that_failed_once(file: Path, tmp_path: Path) -> None:
    tried(file.parent.name, file.read_bytes().decode("utf-8", "surrogatepass"), tmp_path)


def test_a_traceback_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crashes(text: str, folder: Path) -> None:
        raise KeyError(text)

    monkeypatch.setitem(TARGETS, "rows", (crashes, TARGETS["rows"][1]))
    with pytest.raises(KeyError):
        tried("rows", "x", tmp_path)
    assert mutated("rows", 3) == mutated("rows", 3) != mutated("rows", 4)
