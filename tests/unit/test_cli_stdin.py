"""Programs from standard input."""

from __future__ import annotations

import json

from tests.cli import plm

PROGRAM = "program p() { latent n: int(0..3) ~ uniform(0, 3) condition n > 1 }"


def test_a_program_may_come_from_standard_input() -> None:
    result = plm("run", "-", "--format", "json", input=PROGRAM)
    assert result.exit_code == 0, result.stderr
    assert [d["values"] for d in json.loads(result.stdout)["draws"]] == [{"n": "2"}, {"n": "3"}]
    assert plm("score", "-", "--value", "n=2", input=PROGRAM).exit_code == 0
    assert plm("predict", "-", "n", input=PROGRAM).exit_code == 0


def test_a_wrong_program_from_standard_input_says_so() -> None:
    result = plm("run", "-", input="program p() { latent n: int(0..3) ~ unifrom(0, 3) }")
    assert result.exit_code == 1 and "<stdin>:1" in result.stderr
