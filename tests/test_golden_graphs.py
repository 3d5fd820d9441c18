"""The graphs of the packaged programs and of those in `golden/good`, as text, before and after the passes.

`pytest tests/test_golden_graphs.py --update-goldens` writes the files anew; read the diff.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from posterior_lm.graph import lower, optimize
from posterior_lm.graph.dump import text
from posterior_lm.lang.driver import compile_source
from posterior_lm.lang.source import Source

ROOT = Path(__file__).parents[1]
GOOD = Path(__file__).parent / "golden" / "good"
PROGRAMS = sorted([*(ROOT / "programs").glob("*.plm"), *GOOD.glob("*.plm")])


def dumped(path: Path) -> str:
    checked = compile_source(Source(path.name, path.read_text(encoding="utf-8"))).without_errors()
    graph = lower(checked, path.parent)
    done = optimize(graph)
    return f"{text(graph)}\nafter the passes:\n{text(done)}\nfingerprint {done.fingerprint}\n"


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda p: p.stem)
def test_graphs(path: Path, update_goldens: bool) -> None:
    golden = GOOD / f"{path.stem}.graph"
    found = dumped(path)
    if update_goldens:
        golden.write_text(found, encoding="utf-8")
    assert golden.exists(), f"{golden} is not there; run with --update-goldens"
    assert found == golden.read_text(encoding="utf-8")


def test_no_golden_is_left_over() -> None:
    assert {p.stem for p in GOOD.glob("*.graph")} == {p.stem for p in PROGRAMS}
    assert len({p.stem for p in PROGRAMS}) == len(PROGRAMS)
