"""What particles are told on the way: which draws a twist is asked for, what becomes of its answer, and the look-ahead."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from posterior_lm.infer.rollout import Point
from posterior_lm.infer.twists import LookAhead, told
from posterior_lm.target.target import LatentInfo, Target
from posterior_lm.target.values import Value, Values
from tests.strategies import compiled, table

MODEL = table(("a", "b", "."), seed=41, order=2, max_tokens=30)


def target_of(body: str) -> Target:
    return compiled(f'lm base = "b"\nprogram p() {{ {body} }}', {}, {"base": MODEL})


def varied(
    info: LatentInfo, prefixes: Sequence[tuple[int, ...]], ended: np.ndarray, earlier: Values
) -> np.ndarray:
    """Other numbers for other prefixes, ends and earlier values; −∞ for the prefix 9."""
    return np.array([
        -np.inf if p[-1] == 9 else sum(p) + 0.5 * done + 10.0 * v.ids[0]
        for p, done, v in zip(prefixes, ended, earlier["x"], strict=True)
    ])  # fmt: skip


def constant(
    info: LatentInfo, prefixes: Sequence[tuple[int, ...]], ended: np.ndarray, earlier: Values
) -> np.ndarray:
    return np.full(len(prefixes), 0.25)


def asked(twist: Sequence[float], *stand: tuple[tuple[int, ...], bool, list[int]]) -> np.ndarray:
    """What five particles with earlier values are told by both twists where they stand."""
    values = {"x": [Value((k,), str(k), str(k)) for k in (0, 1, 1, 0, 1)]}
    info = target_of('latent z: text(tokens=1..3) ~ base("a")').latent("z")
    points = [Point(None, ids, np.array(draws), ended) for ids, ended, draws in stand]
    return told((varied, constant), info, points, values, np.array(twist))


FIRST = (((1,), False, [0, 1, 4]), ((2,), True, [2, 3]))


def test_a_twist_is_asked_for_each_prefix_and_earlier_value() -> None:
    assert asked([0.0] * 5, *FIRST).tolist() == [1.25, 11.25, 12.75, 2.75, 11.25]


def test_the_last_answer_replaces_the_one_before() -> None:
    found = asked(asked([0.0] * 5, *FIRST).tolist(), ((1, 3), True, [0]), ((1, 9), False, [1, 4]))
    assert found.tolist() == [4.75, -np.inf, 12.75, 2.75, -np.inf]
    assert asked(found.tolist()).tolist() == found.tolist()


def test_a_look_ahead_grows_and_never_kills() -> None:
    """The part of the whole that is drawn is the power, and 1 at the end; a false condition says nothing yet."""
    target = target_of("""latent z: text(tokens=1..4, stop=".") ~ base("a") condition chars(z) >= 3
                          observe ["a", "b"] ~ base(z)""")
    info, ids = target.latent("z"), [MODEL.tokenizer.encode(s) for s in ("a", "ab", "ab.", "a.")]
    found = LookAhead(target, 0.8)(info, ids, np.array([False, False, True, True]), {})
    whole = target.value_of("z", MODEL.tokenizer.encode("ab."))
    observed = float(target.terms({"z": [whole]})[0, -1])
    assert observed < -0.1
    np.testing.assert_allclose(found, [0.0, 0.8 * 2 / 4 * observed, 0.8 * observed, 0.0])
