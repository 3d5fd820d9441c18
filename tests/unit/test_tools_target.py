"""Tools in the log reward, against sums that are written out: every string, both outputs, every method.

The second reading below shares nothing with `support` and `tools`: it draws every sequence
of tokens, splices with a function of three lines, and adds up rows of the table.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping

import numpy as np
import pytest

from posterior_lm.graph import optimize
from posterior_lm.infer.base import run
from posterior_lm.infer.choosers import Follow, Sample
from posterior_lm.infer.exact import Exact
from posterior_lm.infer.guide import PriorGuide
from posterior_lm.infer.importance import Importance
from posterior_lm.infer.moves import Site, accept, pick_cuts, suffix
from posterior_lm.infer.rollout import roll_out
from posterior_lm.infer.smc import Smc
from posterior_lm.lang.diagnostics import CompileError, DataError
from posterior_lm.lm.tabular import TabularModel
from posterior_lm.target.prepared import PreparedProgram
from posterior_lm.target.target import Target
from posterior_lm.train.simulate import Simulator
from tests.strategies import compiled, graph_of, table

TOKENS = ("1", "2", "3", "+", "=", "=1", "2=", ".")
OUTPUTS = ("observe", "intervene")
MOST = 4


def model(seed: int = 3) -> TabularModel:
    return table(TOKENS, seed=seed, order=2, max_tokens=30)


def target_of(
    output: str, base: TabularModel, *, extra: str = "", least: int = 1, most: int = MOST, options: str = ""
) -> Target:
    source = f"""lm base = "b"
    tool last = calculator(operands=1, output="{output}")
    program p(q: text, y: text) {{
      latent z: text(tokens={least}..{most}, stop=".", tools=last{options}) ~ base(q)
      observe y ~ base(z)
      {extra}
    }}"""
    return compiled(source, {"q": "3", "y": "12"}, {"base": base})


def spliced(drawn: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[bool, ...]] | None:
    """All tokens of a drawn sequence and which of them the tool wrote; None where it is no value."""
    ids: list[int] = []
    marks: list[bool] = []
    text = ""
    for token in drawn:
        if "." in text or "=" in TOKENS[token][:-1]:
            return None
        text += TOKENS[token]
        ids.append(token)
        marks.append(False)
        if text.endswith("="):
            whole = re.search(r"[0-9+]*=$", text)[0][:-1]  # type: ignore[index]
            if re.fullmatch(r"[0-9]+(\+[0-9]+)*", whole):
                digits = whole.split("+")[-1]
                for digit in digits:
                    ids.append(TOKENS.index(digit))
                    marks.append(True)
                text += digits
    return (tuple(ids), tuple(marks)) if text.endswith(".") and text.count(".") == 1 else None


def written_out(
    base: TabularModel, output: str, least: int = 1, most: int = MOST
) -> dict[tuple[int, ...], float]:
    """The log reward of every value, by its tokens."""
    found: dict[tuple[int, ...], float] = {}
    for n in range(least, most + 1):
        for drawn in itertools.product(range(len(TOKENS)), repeat=n):
            value = spliced(drawn)
            if value is not None:
                found[value[0]] = log_reward(base, *value, output)
    return found


def log_reward(base: TabularModel, ids: tuple[int, ...], marks: tuple[bool, ...], output: str) -> float:
    total, context = 0.0, (TOKENS.index("3"),)
    for token, wrote in zip(ids, marks, strict=True):
        if not (wrote and output == "intervene"):
            total += float(base.next_log_probs(context)[token])
        context = (*context, token)
    context = ids
    for token in (TOKENS.index("1"), TOKENS.index("2")):
        total += float(base.next_log_probs(context)[token])
        context = (*context, token)
    return total


def log_sum(numbers: Mapping[object, float]) -> float:
    return float(np.logaddexp.reduce(np.array(list(numbers.values()))))


@pytest.mark.parametrize("output", OUTPUTS)
def test_exact_enumeration_is_the_written_out_sum(output: str) -> None:
    base = model()
    target, truth = target_of(output, base), written_out(base, output)
    draws = run(Exact(values=10**6, mass=1.0), target, n=1, rng=np.random.default_rng(0))
    found = {v.ids: r for v, r in zip(draws.values["z"], draws.log_reward, strict=True)}
    assert draws.certificate is not None and draws.certificate.complete
    assert found == pytest.approx(truth, abs=1e-9)
    assert any(len(ids) > MOST for ids in found), "outputs are longer than what may be drawn"
    assert draws.certificate.covered == pytest.approx(log_sum(truth), abs=1e-9)


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_certificate_bounds_what_it_has_not_listed(output: str) -> None:
    base = model()
    target, truth = target_of(output, base), written_out(base, output)
    rng, algorithm = np.random.default_rng(0), Exact(values=10**6, mass=1.0)
    state = algorithm.init(rng, target, None)
    certificate = algorithm.certificate(state)
    while state.frontier.heap:
        covered = certificate.covered if math.isfinite(certificate.covered) else -math.inf
        rest = math.log(max(1e-300, math.exp(log_sum(truth)) - math.exp(covered)))
        assert rest <= certificate.rest + 1e-9
        families, finished = state.branching.open(list(state.frontier.pop(1)))
        state = algorithm._take(state, families, finished)
        certificate = algorithm.certificate(state)
    assert certificate.covered == pytest.approx(log_sum(truth))


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_guide_gives_what_is_spliced_probability_one(output: str) -> None:
    base = model()
    target = target_of(output, base)
    truth = written_out(base, output)
    guide = PriorGuide(target)
    values = {"z": [target.value_of("z", ids) for ids in truth]}
    log_q = guide.log_prob(values)
    assert float(np.exp(log_q).sum()) == pytest.approx(1.0, abs=1e-9)
    follow, context = Follow(list(truth)), (TOKENS.index("3"),)
    walk = roll_out(base, [context] * len(truth), target.latents[0].support, follow, late=True)
    again, mass = walk.log_q, walk.log_mass
    assert again == pytest.approx(log_q, abs=1e-9)
    assert again + mass == pytest.approx(target.terms(values)[:, 0], abs=1e-9), "the latent's own term"
    proposal = guide.sample(np.random.default_rng(1), 300)
    assert {v.ids for v in proposal.values["z"]} <= set(truth)
    assert guide.log_prob(proposal.values) == pytest.approx(proposal.log_prob, abs=1e-9)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("algorithm", [Importance(draws=1500), Smc(threshold=1.0)], ids=["importance", "smc"])
def test_the_evidence_is_unbiased(output: str, algorithm: object) -> None:
    base = model()
    target, truth = target_of(output, base), math.exp(log_sum(written_out(base, output)))
    runs = []
    for seed in range(24):
        draws = run(algorithm, target, n=100, rng=np.random.default_rng(seed))  # type: ignore[arg-type]
        runs.append(float(np.exp(draws.log_weights).mean()))
    error = np.std(runs, ddof=1) / math.sqrt(len(runs))
    assert abs(np.mean(runs) - truth) < 4 * error < 0.3 * truth, "seeds 0 to 23"


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_suffix_move_keeps_the_posterior(output: str) -> None:
    base, size = model(), 6000
    target, truth = target_of(output, base, most=3), written_out(base, output, most=3)
    names, rewards = list(truth), np.array(list(truth.values()))
    shares = np.exp(rewards - log_sum(truth))
    rng = np.random.default_rng(2)
    held = rng.choice(len(names), size=size, p=shares)
    values = {"z": [target.value_of("z", names[k]) for k in held]}
    prior, moved = PriorGuide(target), 0
    for _ in range(3):
        cuts = pick_cuts(rng, target.latent("z"), values["z"])
        found = suffix(prior, Sample(rng), Site("z"), cuts, values, target.log_reward(values))
        taken = accept(rng, found.log_ratio)
        moved += int(
            sum(a.ids != b.ids for a, b, t in zip(values["z"], found.values["z"], taken, strict=True) if t)
        )
        values = {"z": [b if t else a for a, b, t in zip(values["z"], found.values["z"], taken, strict=True)]}
    counts = np.array([sum(v.ids == ids for v in values["z"]) for ids in names])
    assert counts.sum() == size and moved > size / 6
    errors = np.sqrt(shares * (1 - shares) / size)
    assert np.abs(counts / size - shares).max() < 0.02
    assert (np.abs(counts / size - shares) < 5 * errors + 1 / size).all(), "seed 2"


@pytest.mark.parametrize("output", OUTPUTS)
def test_the_reward_of_stopping_early_is_that_of_the_cut_value(output: str) -> None:
    base = model()
    target, truth = target_of(output, base), written_out(base, output)
    longest = sorted(truth, key=lambda ids: (-len(ids), ids))[:5]
    values = {"z": [target.value_of("z", ids) for ids in longest]}
    packed = target.log_reward_prefixes(values)
    assert target.log_reward_prefixes(values, packed=False) == pytest.approx(packed, abs=1e-9)
    stop = TOKENS.index(".")
    for ids, row in zip(longest, packed, strict=True):
        for t in range(len(ids)):
            assert row[t] == pytest.approx(truth.get((*ids[:t], stop), -math.inf), abs=1e-9)
        assert row[len(ids)] == pytest.approx(truth[ids], abs=1e-9)


def test_a_bare_latent_leaves_out_what_was_set_and_a_list_does_not() -> None:
    base, other = model(), model(seed=9)
    source = """lm base = "b"
    lm other = "o"
    tool last = calculator(operands=1, output="intervene")
    program p() {
      latent z: text(tokens=1..4, stop=".", tools=last) ~ base("3")
      observe z ~ other("1")
      factor log_prob(z, other("1"))
      observe [z] ~ other("1")
      observe ["", z, "2"] ~ other("1")
    }"""
    target = compiled(source, {}, {"base": base, "other": other})
    ids = tuple(TOKENS.index(t) for t in ("2", "=", "2", "."))
    terms = target.terms({"z": [target.value_of("z", ids)]})[0]

    def scored(
        model: TabularModel, context: str, tokens: tuple[str, ...], skip: tuple[int, ...] = ()
    ) -> float:
        total, before = 0.0, (TOKENS.index(context),)
        for place, token in enumerate(tokens):
            if place not in skip:
                total += float(model.next_log_probs(before)[TOKENS.index(token)])
            before = (*before, TOKENS.index(token))
        return total

    text = ("2", "=", "2", ".")
    want = [scored(base, "3", text, (2,)), scored(other, "1", text, (2,)), scored(other, "1", text, (2,))]
    want += [scored(other, "1", text), scored(other, "1", (*text, "2"))]
    assert terms == pytest.approx(want, abs=1e-9)


def test_an_output_that_is_impossible_to_the_model_counts_only_where_it_is_observed() -> None:
    never = TabularModel.from_dict(
        {
            "tokens": list(TOKENS),
            "order": 1,
            "max_tokens": 30,
            "bos": False,
            "contexts": [
                {"after": [], "next": dict.fromkeys([*TOKENS, "<eos>"], 1 / 9)},
                {"after": ["="], "next": {".": 1.0}},
                *(
                    {"after": [t], "next": dict.fromkeys([*TOKENS, "<eos>"], 1 / 9)}
                    for t in TOKENS
                    if t != "="
                ),
            ],
        }
    )
    ids = tuple(TOKENS.index(t) for t in ("2", "=", "2", "."))
    for output, dead in zip(OUTPUTS, (True, False), strict=True):
        target = target_of(output, never)
        found = target.log_reward({"z": [target.value_of("z", ids)]})[0]
        assert np.isneginf(found) == dead, output
        draws = run(Exact(values=10**6, mass=1.0), target, n=1, rng=np.random.default_rng(0))
        assert (ids in {v.ids for v in draws.values["z"]}) != dead


def test_conditions_see_what_tools_wrote() -> None:
    base = model()
    target = target_of("observe", base, extra='condition contains(z, "=2")')
    truth = {
        ids: r for ids, r in written_out(base, "observe").items() if "=2" in "".join(TOKENS[i] for i in ids)
    }
    draws = run(Exact(values=10**6, mass=1.0), target, n=1, rng=np.random.default_rng(0))
    found = {v.ids: r for v, r in zip(draws.values["z"], draws.log_reward, strict=True)}
    assert found == pytest.approx(truth, abs=1e-9) and truth
    least = min(sum(not w for w in spliced_marks(ids)) for ids in found)
    assert least == 2, "'2=' and the stop: the 2 behind it is written by the tool, not drawn"


def spliced_marks(ids: tuple[int, ...]) -> tuple[bool, ...]:
    base = model()
    support = target_of("observe", base).latent("z").support
    return support.spliced(ids)  # type: ignore[attr-defined, no-any-return]


def test_limits_count_drawn_tokens() -> None:
    base = model()
    for least in (1, 3):
        truth = written_out(base, "observe", least)
        target = target_of("observe", base, least=least)
        draws = run(Exact(values=10**6, mass=1.0), target, n=1, rng=np.random.default_rng(0))
        assert {v.ids for v in draws.values["z"]} == set(truth)


def test_what_a_tool_writes_outside_the_type_makes_the_draw_dead() -> None:
    base = model()
    target = target_of("observe", base, options=', chars="1+=23", pattern=r"[^3]*"')
    truth = {
        ids: r
        for ids, r in written_out(base, "observe").items()
        if "3" not in "".join(TOKENS[i] for i in ids)
    }
    draws = run(Exact(values=10**6, mass=1.0), target, n=1, rng=np.random.default_rng(0))
    assert {v.ids for v in draws.values["z"]} == set(truth)
    source = """lm base = "b"
    tool t = calculator(operands=2)
    program p() { latent z: text(tokens=1..5, stop=".", chars="1+=", tools=t) ~ base() }"""
    target = compiled(source, {}, {"base": model(seed=0)})
    support = target.latent("z").support
    state = support.after([TOKENS.index(t) for t in "1+1="])  # type: ignore[attr-defined]
    assert support.must_stop(state) and not support.may_stop(state) and not support.allowed(state).any()
    proposal = PriorGuide(target).sample(np.random.default_rng(0), 2000)
    rewards = target.log_reward(proposal.values)
    dead = np.isneginf(rewards)
    texts = {v.text for v, d in zip(proposal.values["z"], dead, strict=True) if d}
    assert "1+1=" in texts and all(re.search(r"1\+1+=$", text) for text in texts), (
        "2 is none of its characters"
    )
    draws = run(Importance(draws=4000), target, n=4000, rng=np.random.default_rng(1))
    exact = run(Exact(values=10**6, mass=1.0), target, n=1, rng=np.random.default_rng(0))
    assert exact.certificate is not None and exact.certificate.complete
    estimate = np.exp(draws.log_weights)
    error = float(estimate.std(ddof=1)) / math.sqrt(len(estimate))
    assert abs(estimate.mean() - math.exp(exact.certificate.covered)) < 4 * error + 1e-12


# ------------------------------------------------------------------- given texts


@pytest.mark.parametrize("text", ["2=2.", "3=3=3.", "1+2=2.", "+=1.", "=.", "12."])
def test_a_given_text_has_the_tokens_that_drawing_gives_it(text: str) -> None:
    target = target_of("observe", model())
    value = target.value("z", text)
    assert value.text == text
    assert value.ids in written_out(model(), "observe")


def test_a_text_that_the_tool_would_have_written_otherwise_is_outside() -> None:
    target = target_of("observe", model())
    with pytest.raises(DataError) as caught:
        target.value("z", "2=3.")
    (found,) = caught.value.diagnostics
    assert found.code == "PLM766" and "`last` writes '2' after '2='" in found.message
    with pytest.raises(DataError) as caught:
        target.value("z", "2=2")
    assert [d.code for d in caught.value.diagnostics] == ["PLM610"]


def test_an_intervened_output_is_not_read_by_other_tokens() -> None:
    other = table(("1", "2", "3", "+", "=", "."), seed=4, max_tokens=30)
    source = """lm base = "b"
    lm other = "o"
    tool last = calculator(operands=1, output="{}")
    program p() {{
      latent z: text(tokens=1..4, stop=".", tools=last) ~ base("3")
      observe z ~ other("1")
    }}"""
    models = {"base": model(), "other": other}
    compiled(source.format("observe"), {}, models).terms({"z": []})
    target = compiled(source.format("intervene"), {}, models)
    with pytest.raises(CompileError) as caught:
        target.terms({"z": [target.value("z", "2=2.")]})
    assert [d.code for d in caught.value.diagnostics] == ["PLM346"]


@pytest.mark.parametrize("output", OUTPUTS)
def test_simulated_pairs_follow_the_program(output: str) -> None:
    base, size = model(), 3000
    source = f"""lm base = "b"
    tool last = calculator(operands=1, output="{output}")
    program p(label: one_of("1", "2", "3")) {{
      latent z: text(tokens=1..3, stop=".", tools=last) ~ base("3")
      observe label ~ choice(base(z))
    }}"""
    graph = optimize(graph_of(source))
    simulator = Simulator(PreparedProgram.of(graph, {"base": base}), [{"label": "1"}])
    assert simulator.exact
    pairs = simulator.draw(np.random.default_rng(6).spawn(size), [0] * size)
    found: dict[tuple[tuple[int, ...], object], float] = {}
    for pair in pairs:
        key = (pair.values["z"].ids, pair.data["label"])
        found[key] = found.get(key, 0.0) + math.exp(pair.log_weight)
    truth: dict[tuple[tuple[int, ...], object], float] = {}
    for n in range(1, 4):
        for drawn in itertools.product(range(len(TOKENS)), repeat=n):
            value = spliced(drawn)
            if value is None:
                continue
            ids, marks = value
            own = log_reward(base, ids, marks, output) - log_reward(
                base, ids, (True,) * len(ids), "intervene"
            )
            labels = np.array([base.next_log_probs(ids)[TOKENS.index(t)] for t in "123"])
            for label, p in zip("123", np.exp(labels - np.logaddexp.reduce(labels)), strict=True):
                truth[ids, label] = math.exp(own) * float(p)
    masses = [sum(one.values()) for one in (found, truth)]
    assert masses[0] / size == pytest.approx(masses[1], rel=0.05), "weights are masses: seed 6"
    distance = 0.5 * sum(abs(found.get(k, 0.0) / masses[0] - p / masses[1]) for k, p in truth.items())
    assert set(found) <= set(truth) and distance < 0.05
