"""The benchmarks' own code: distances against sums written out, the recipe's loss, rewards and sampler."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from attrs import evolve

from benchmarks.calls import Recorder, bare_seconds
from benchmarks.gpu import table
from benchmarks.paper_recipe import CAPACITY, Buffer, PlainScorer, edits, prefix_rewards, roll, subtb
from benchmarks.quality import HeldOut, cell_distances, distance, exact_listing
from benchmarks.rloo import OUTSIDE, Reward
from benchmarks.targets import PROGRAMS, KnownTarget, known_target
from posterior_lm.api.query import loads
from posterior_lm.infer.guide import PriorGuide, Proposal
from posterior_lm.lm.hf.transformers import TransformersModel
from posterior_lm.lm.protocol import Branch, Request
from posterior_lm.lm.tiny import WEIGHTS
from posterior_lm.target.target import Target

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def middle() -> KnownTarget:
    return known_target("middle", train=3, held_out=1)


@pytest.fixture(scope="module")
def target(middle: KnownTarget) -> Target:
    return middle.query.given(middle.held_out[0]).target()


@pytest.fixture(scope="module")
def base() -> TransformersModel:
    return TransformersModel.from_folder(WEIGHTS, device="cpu")


def ids_of(model: TransformersModel, text: str) -> tuple[int, ...]:
    return model.tokenizer.encode(text)


# ------------------------------------------------------------------ distances


def test_distances_are_sums_over_the_cells_and_the_rest() -> None:
    p, q = [0.5, 0.3, 0.15], [0.2, 0.35, 0.05]
    tv, kl = cell_distances(np.log(p), np.log(q), 0.05)
    cells = [*zip(p, q, strict=True), (0.05, 0.4)]
    assert tv == pytest.approx(0.5 * sum(abs(a - b) for a, b in cells))
    assert kl == pytest.approx(sum(a * math.log(a / b) for a, b in cells))


def test_a_value_that_the_guide_cannot_draw_has_infinite_kl_and_finite_tv() -> None:
    tv, kl = cell_distances(np.log([0.7, 0.3]), np.array([0.0, -np.inf]), 0.0)
    assert (tv, kl) == (pytest.approx(0.3), math.inf)


def test_equal_distributions_are_at_no_distance() -> None:
    p = np.array([0.6, 0.25, 0.1])
    assert cell_distances(np.log(p), np.log(p), 0.05) == (pytest.approx(0.0), pytest.approx(0.0))


TABULAR = """
lm base = "tiny"
program p(seen: text) {
  latent n: int(0..9, lead=" ") ~ categorical([0.22, 0.04, 0.13, 0.02, 0.16, 0.05, 0.18, 0.03, 0.06, 0.11])
  observe seen ~ base("Seen:", n, " and")
}
"""


def test_a_complete_listing_is_the_posterior() -> None:
    query = loads(TABULAR, "<p>")
    row = {"seen": " one."}
    listing = exact_listing(query, row, 20)
    target = query.given(row).target()
    log_reward = target.log_reward({"n": [target.value_of("n", ids) for ids in listing.values]})
    assert listing.log_evidence == pytest.approx(np.logaddexp.reduce(log_reward), abs=0.01)
    assert listing.log_prob == pytest.approx(log_reward - listing.log_evidence)
    assert listing.rest + np.exp(listing.log_prob).sum() == pytest.approx(1.0)
    assert list(listing.log_prob) == sorted(listing.log_prob, reverse=True)
    assert listing.rest <= 1e-3 and listing.rest_se == 0


def test_a_listing_is_kept_and_found_again_by_program_and_row(tmp_path: Path) -> None:
    query = loads(TABULAR, "<p>")
    first = exact_listing(query, {"seen": " one."}, 20, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    saved = json.loads(file.read_text())
    file.write_text(json.dumps({**saved, "log_evidence": -123.0}))
    again = exact_listing(query, {"seen": " one."}, 20, cache=tmp_path)
    assert again.log_evidence == -123.0 and again.values == first.values
    assert again.log_prob == pytest.approx(first.log_prob)
    other = exact_listing(query, {"seen": " two."}, 20, cache=tmp_path)
    assert other.log_evidence != -123.0 and len(list(tmp_path.iterdir())) == 2
    changed = loads(TABULAR.replace("0.22, 0.04", "0.04, 0.22"), "<p>")
    assert exact_listing(changed, {"seen": " one."}, 20, cache=tmp_path).log_evidence != -123.0


class Posterior:
    """A guide that is the listed posterior itself, but for a share of it moved to its first value."""

    name = "the posterior"

    def __init__(self, target: Target, moved: float) -> None:
        self.target = target
        values = [target.value_of("n", ids) for ids in target.latents[0].support.values()]
        log_reward = target.log_reward({"n": values})
        self.p = np.exp(log_reward - np.logaddexp.reduce(log_reward)) * (1 - moved)
        self.p[0] += moved
        self.values = values

    def log_prob(self, values: dict) -> np.ndarray:
        places = {v.ids: k for k, v in enumerate(self.values)}
        return np.log(self.p[[places[v.ids] for v in values["n"]]])

    def sample(self, rng: np.random.Generator, n: int) -> Proposal:
        picked = rng.choice(len(self.p), n, p=self.p)
        return Proposal({"n": tuple(self.values[k] for k in picked)}, np.log(self.p[picked]))


def test_the_posterior_as_a_guide_is_at_no_distance_and_a_shifted_one_at_the_shift() -> None:
    query = loads(TABULAR, "<p>")
    row = {"seen": " one."}
    target, listing = query.given(row).target(), exact_listing(query, row, 20)
    exact = distance(target, Posterior(target, 0.0), listing)
    assert exact.tv < 1e-3 and abs(exact.forward_kl) < 2e-3
    assert exact.ess_share == pytest.approx(1.0) and abs(exact.reverse_kl) < 2e-3
    guide = Posterior(target, 0.0)
    first = guide.p[0]
    moved = distance(target, Posterior(target, 0.2), listing, draws=20_000)
    assert moved.tv == pytest.approx(0.2 * (1 - first), abs=2e-3)
    q = Posterior(target, 0.2).p
    assert moved.reverse_kl == pytest.approx(float(np.sum(q * np.log(q / guide.p))), abs=0.03)
    assert moved.ess_share == pytest.approx(1 / float(np.sum(guide.p**2 / q)), abs=0.02)


def test_held_out_rows_are_averaged_and_the_worst_is_named() -> None:
    known = KnownTarget("p", loads(TABULAR, "<p>"), (), ({"seen": " one."}, {"seen": " two."}))
    held_out = HeldOut.of(known)
    shift = iter((0.1, 0.4))
    figures = held_out.measure(lambda target: Posterior(target, next(shift))).figures()
    shift = iter((0.1, 0.4))
    rows = [
        distance(t, Posterior(t, next(shift)), listing)
        for t, listing in zip(held_out.targets, held_out.listings, strict=True)
    ]
    assert figures["tv_mean"] == pytest.approx((rows[0].tv + rows[1].tv) / 2)
    assert figures["tv_worst"] == max(rows[0].tv, rows[1].tv) > figures["tv_mean"]
    assert figures["ess_share_worst"] == min(r.ess_share for r in rows) < figures["ess_share_mean"]


# ------------------------------------------------------------------ the recipe


def test_the_recipes_loss_is_the_double_sum_over_prefixes() -> None:
    generator = torch.Generator().manual_seed(3)
    log_prob, stop, reward = (
        torch.randn(3, 5, generator=generator, dtype=torch.float64) * 4 for _ in range(3)
    )
    lengths = [4, 2, 0]
    total, pairs = 0.0, 0
    for b, n in enumerate(lengths):
        u = (log_prob + stop - reward)[b, : n + 1].tolist()
        for i, j in combinations(range(n + 1), 2):
            total += (u[i] - u[j]) ** 2
            pairs += 1
    reward[1, 3:] = -math.inf
    found = subtb(log_prob, stop, reward, torch.tensor(lengths))
    assert float(found) == pytest.approx(total / pairs)


def test_the_loss_has_no_anchor_at_the_cap() -> None:
    # Any constant added to log q(stop) at every prefix costs nothing: what leaks past the cap is free.
    log_prob, reward = torch.zeros(1, 3), torch.zeros(1, 3)
    stop = torch.tensor([[-0.5, -0.5, -0.5]])
    assert float(subtb(log_prob, stop, reward, torch.tensor([2]))) == 0.0


def test_the_plain_scorer_agrees_with_the_model(base: TransformersModel) -> None:
    plain = PlainScorer.like(base)
    plain.copies = 4
    start = base.tokenizer.start_ids
    a, b = (ids_of(base, t) for t in (" One day, Mia walked to the park.", " The dog ran."))
    requests = [Request((*start, *a), 3), Request((*start, *b), 1, 1)]
    for found, expected in zip(plain.score(requests), base.score(requests), strict=True):
        assert found.tokens == pytest.approx(expected.tokens, abs=1e-4)
        assert found.eos == pytest.approx(expected.eos, abs=1e-4)
        assert found.branches == ()
    assert not plain.packed and Branch(1, b)


def test_prefix_rewards_are_those_of_the_target_with_one_pass_for_each_prefix(
    middle: KnownTarget, target: Target, base: TransformersModel
) -> None:
    plain = PlainScorer.like(base)
    mine = middle.query.lm(base=plain).given(middle.held_out[0]).target()
    calls: list[tuple[int, int]] = []
    plain.copies = 5
    handle = base._forward.module.base_model.register_forward_pre_hook(
        lambda _m, _a, options: calls.append(tuple(options["input_ids"].shape)), with_kwargs=True
    )
    ids = [ids_of(base, t) for t in (" She found a coin", " A cat")]
    try:
        found = prefix_rewards(mine, ids)
    finally:
        handle.remove()
    values = [target.value_of("middle", (*i, *target.latents[0].support.stop_ids)) for i in ids]
    expected = target.log_reward_prefixes({"middle": values})
    for b, i in enumerate(ids):
        assert found[b, : len(i) + 1] == pytest.approx(expected[b, : len(i) + 1], abs=1e-3)
        assert np.isneginf(found[b, len(i) + 1 :]).all()
    longest = max(map(len, ids))
    assert len(calls) == longest + 1 and all(rows == 5 for rows, _ in calls)


def test_the_sampler_records_the_log_prob_of_what_it_drew(target: Target, base: TransformersModel) -> None:
    guide = PriorGuide(target)
    support = target.latents[0].support
    row = target.data
    context = (*base.tokenizer.start_ids, *base.tokenizer.encode_start(str(row["opening"])))
    module = base._forward.module
    rolled = roll(module, context, support, 6, torch.Generator().manual_seed(1), temperature=0.8)
    stops = support.stop_ids
    values = [target.value_of("middle", (*i, *stops)) for i in rolled.ids]
    expected = guide.log_prob({"middle": values})
    for b, i in enumerate(rolled.ids):
        n = len(i)
        assert float(rolled.log_prob[b, n] + rolled.stop[b, n]) == pytest.approx(expected[b], abs=1e-3)
        assert float(rolled.log_prob[b, 0]) == 0.0
    followed = roll(module, context, support, 6, torch.Generator(), actions=rolled.ids)
    assert followed.ids == rolled.ids
    assert torch.allclose(followed.log_prob, rolled.log_prob, atol=1e-4)


def test_draws_of_a_low_temperature_are_the_likeliest_tokens(target: Target, base: TransformersModel) -> None:
    context = (*base.tokenizer.start_ids, *base.tokenizer.encode_start(str(target.data["opening"])))
    support, module = target.latents[0].support, base._forward.module
    cold = roll(module, context, support, 4, torch.Generator().manual_seed(1), temperature=1e-3).ids
    warm = roll(module, context, support, 4, torch.Generator().manual_seed(1)).ids
    rollout = base.open([context])
    assert len(set(cold)) == 1 < len(set(warm))
    assert cold[0][0] == int(rollout.log_probs[0].argmax())


def test_at_the_cap_the_stop_is_forced_but_its_probability_is_the_raw_one(base: TransformersModel) -> None:
    query = loads(
        'lm base = "tiny"\nprogram p(opening: text) {\n'
        '  latent z: text(tokens=1..3, stop=".") ~ base(opening)\n}\n',
        "<p>",
    )
    target = query.given(opening="One day, Mia walked to the").target()
    context = (*base.tokenizer.start_ids, *base.tokenizer.encode_start("One day, Mia walked to the"))
    actions = [ids_of(base, " old station")[:2]]
    rolled = roll(
        base._forward.module, context, target.latents[0].support, 1, torch.Generator(), actions=actions
    )
    assert len(rolled.ids[0]) == 2 and rolled.stop.shape == (1, 3)
    (scores,) = base.score(
        [Request((*context, *actions[0], *target.latents[0].support.stop_ids), len(context))]
    )
    # The mask leaves out next to nothing here, so the model's own number is close.
    assert float(rolled.stop[0, 2]) == pytest.approx(scores.tokens[2], abs=0.02) and scores.tokens[2] < -0.001


def test_the_buffer_keeps_the_better_of_two_near_strings() -> None:
    def rewards(*numbers: float) -> np.ndarray:
        return np.stack([np.full(9, n) for n in numbers])

    a, near, far = (1, 2, 3, 4, 5, 6, 7, 8), (1, 2, 3, 4, 5, 6, 7, 9), (20, 21, 22, 23)
    assert edits(a, near) == 1 and edits(a, far) == 8 and edits((), far) == 4
    buffer = Buffer()
    assert buffer.sample(0, 2, np.random.default_rng(0)) is None
    buffer.add(0, [a, near, far, a], rewards(-5.0, -3.0, -4.0, -5.0))
    ids, block = buffer.sample(0, 200, np.random.default_rng(0))
    assert set(ids) == {near, far}
    share = sum(i == near for i in ids) / 200
    assert share == pytest.approx(1 / (1 + math.exp(-1)), abs=0.1)
    assert block[ids.index(far), 4] == -4.0 and np.isneginf(block[ids.index(far), 5:]).all()
    assert buffer.sample(1, 2, np.random.default_rng(0)) is None


def test_the_buffer_forgets_the_worst_beyond_its_capacity() -> None:
    buffer = Buffer()
    many = [tuple(range(100 * k, 100 * k + 4)) for k in range(CAPACITY + 3)]
    buffer.add(0, many, np.stack([np.full(5, float(k)) for k in range(len(many))]))
    kept = {item[1] for item in buffer._heaps[0]}
    assert kept == set(many[3:])


# ------------------------------------------------------------------ reinforcement learning


def test_the_reward_is_the_log_ratio_to_the_reference_and_a_penalty_outside(
    middle: KnownTarget, base: TransformersModel
) -> None:
    query = middle.query.lm(base=base)
    known = evolve(middle, query=query)
    reward = Reward.of(known, query.prepared.models)
    good, other = ids_of(base, " She found a coin."), ids_of(base, " A cat ran.")
    open_end = ids_of(base, " She found a coin")
    found = reward([1, 0, 1], [good, open_end, other])
    target = query.given(middle.train[1]).target()
    log_reward = target.log_reward({"middle": [target.value_of("middle", i) for i in (good, other)]})
    prompt = "Beginning: {opening}\nEnding: {ending}\nMiddle:".format(**middle.train[1])
    context = (*base.tokenizer.start_ids, *base.tokenizer.encode_start(prompt))
    assert reward.contexts[1] == context
    reference = [base.score([Request(context + i, len(context))])[0].tokens.sum() for i in (good, other)]
    assert [found[0], found[2]] == pytest.approx(log_reward - np.array(reference), abs=1e-3)
    assert found[1] == OUTSIDE < min(found[0], found[2])
    assert (reward.evaluations, reward.outside) == (3, 1)


def test_without_trl_the_script_says_so_and_ends() -> None:
    blocked = "import sys; sys.modules['trl'] = None; from benchmarks.rloo import main; sys.exit(main([]))"
    done = subprocess.run(
        [sys.executable, "-c", blocked], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and done.stdout == ""
    assert "skipped, because trl is not installed" in done.stderr


def test_tables_are_markdown_and_leave_out_what_is_unknown() -> None:
    lines = [{"model": "a", "seconds": 0.12345, "draws": 4096, "peak": None}]
    assert table(lines).splitlines() == [
        "| model | seconds | draws | peak |",
        "| --- | --- | --- | --- |",
        "| a | 0.123 | 4,096 | – |",
    ]
    assert table([]) == ""


@pytest.mark.parametrize("name", [n for n in PROGRAMS if n != "tabular"])
def test_every_text_target_has_what_the_recipe_needs(name: str) -> None:
    known = known_target(name, train=1, held_out=1)
    support = known.query.given(known.held_out[0]).target().latents[0].support
    assert len(support.stop_ids) == 1
    stop = support.stop_ids[0]
    allowed = support.allowed(support.start())
    ends = [t for t in np.flatnonzero(allowed) if support.must_stop(support.advance(support.start(), int(t)))]
    assert ends == [stop]


def test_a_call_is_recorded_with_what_is_cached(base: TransformersModel) -> None:
    forward = base._forward
    with Recorder().watching(base) as recorder:
        cache = forward.new_cache()
        forward(forward.tensor([[3, 4, 5]]), cache=cache)
        forward(forward.tensor([[6]]), cache=cache)
    assert [(c.rows, c.columns, c.past, c.cached) for c in recorder.calls] == [
        (1, 3, 0, True),
        (1, 1, 3, True),
    ]
    with Recorder().watching(base) as again:
        assert bare_seconds(base, recorder.calls) > 0
    assert [(c.columns, c.past) for c in again.calls] == [(3, 0), (1, 3)]
