"""What particles are told on the way: which draws a twist is asked for, what becomes of its answer, and the look-ahead."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from posterior_lm.infer.particles import Dice, Swarm
from posterior_lm.infer.steered import Steered
from posterior_lm.infer.twists import LookAhead
from posterior_lm.target.target import LatentInfo, Target
from posterior_lm.target.values import Value, Values
from tests.strategies import compiled, table

MODEL = table(("a", "b", "."), seed=41, order=2, max_tokens=30)


def target_of(body: str) -> Target:
    return compiled(f'lm base = "b"\nprogram p() {{ {body} }}', {}, {"base": MODEL})


def told(
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


def steered() -> Steered:
    swarm = Swarm(5, Dice(np.random.default_rng(0)), 0.5)
    swarm.values = {"x": [Value((k,), str(k), str(k)) for k in (0, 1, 1, 0, 1)]}
    info = target_of('latent z: text(tokens=1..3) ~ base("a")').latent("z")
    return Steered(swarm, info, (told, constant), weighs=True, scores_forced=False)


def test_a_twist_is_asked_for_each_prefix_and_earlier_value() -> None:
    one = steered()
    one.after([(1,), (2,)], [False, True], [np.array([0, 1, 4]), np.array([2, 3])])
    assert one.swarm.twist.tolist() == [1.25, 11.25, 12.75, 2.75, 11.25]


def test_the_last_answer_replaces_the_one_before() -> None:
    one = steered()
    one.after([(1,), (2,)], [False, True], [np.array([0, 1, 4]), np.array([2, 3])])
    one.after([(1, 3), (1, 9)], [True, False], [np.array([0]), np.array([1, 4])])
    assert one.swarm.twist[[0, 2, 3]].tolist() == [4.75, 12.75, 2.75]
    assert one.swarm.alive.tolist() == [True, False, True, True, False]


def test_what_a_choice_was_made_from_is_weighed_for_the_prior_alone() -> None:
    for weighs in (True, False):
        one = steered()
        one.weighs = weighs
        one.before(np.array([2, 0]), np.array([-0.5, -0.1]))
        assert one.swarm.log_ratio.tolist() == ([-0.1, 0, -0.5, 0, 0] if weighs else [0.0] * 5)


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
