"""`previous(value, first)`: chains over the rows of a plate, against the slow reading and a forward recursion."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import posterior_lm as plm
from posterior_lm.infer.base import run
from posterior_lm.infer.exact import Exact
from posterior_lm.lang.driver import check
from posterior_lm.lang.parser import parse
from posterior_lm.lang.source import Source
from tests.strategies import fingerprint
from tests.unit.test_put_together import ALGORITHMS, MODELS, A, answer, distance, source, target_of

GIVEN = {"rows": [{"t": "a"}, {"t": "b"}, {"t": "a"}]}
STAYS = 'if previous(k, "a") == "a" then categorical([0.8, 0.2]) else categorical([0.3, 0.7])'
HIDDEN = f'plate r in rows {{ latent k: one_of("a", "b") ~ {STAYS} observe r.t ~ a1(k) }}'
TEXTS = """plate r in rows {
             latent z: text(tokens=1..2, stop=".") ~ b1(previous([r.t, z], "b"), r.t)
             factor 0.3 * previous(chars(z), 1)
           }"""
LATER = """plate r in rows {
             latent n: int(0..1) ~ binomial(1, if previous(n, 0) == 1 then 0.8 else 0.4)
             let moved = previous(n, 1) != n
             if moved { latent z: one_of("a", "b") ~ a1(r.t) observe previous(r.t, "ab") ~ b1(z) }
             condition n == 1 or previous(n, 1) == 1
           }"""
RUNS = """plate r in rows {
            latent n: int(0..1) ~ binomial(1, 0.7)
            let left = previous(left, 2) - (if n == 1 then chars(r.t) else 0)
            let said = [previous(said, ["b"]), r.t]
            plate s in rows {
              let twice = 2 * previous(twice, left) - n
              factor 0.05 * twice
            }
            observe r.t ~ a1(said)
            condition left + n > 0
          }"""
BODIES = {"hidden": HIDDEN, "texts": TEXTS, "later": LATER, "runs": RUNS}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("method", ALGORITHMS)
def test_every_method_finds_the_posterior(name: str, method: str) -> None:
    wanted, whole = answer(BODIES[name], **GIVEN)
    target = target_of(BODIES[name], **GIVEN)
    found = run(ALGORITHMS[method], target, n=2000, rng=np.random.default_rng(3))
    assert distance(found, target, wanted) < (1e-12 if method == "exact" else 0.15)
    if method != "mcmc":
        assert found.log_evidence == pytest.approx(whole, abs=1e-9 if method == "exact" else 0.1)


def test_a_hidden_markov_model_has_the_evidence_of_the_forward_recursion() -> None:
    moves = np.array([[0.8, 0.2], [0.3, 0.7]])
    ids = {t: A.tokenizer.encode(t) for t in ("a", "b")}

    def says(state: str, text: str) -> float:
        context = list(ids[state])
        total = 0.0
        for token in ids[text]:
            total += float(A.next_log_probs(context)[token])
            context.append(token)
        return float(np.exp(total))

    forward = np.array([1.0, 0.0])  # before the first row: "a"
    for row in GIVEN["rows"]:
        forward = (forward @ moves) * [says("a", row["t"]), says("b", row["t"])]
    found = run(Exact(10**6, 1.0), target_of(HIDDEN, **GIVEN), n=1, rng=np.random.default_rng(0))
    assert found.log_evidence == pytest.approx(np.log(forward.sum()), abs=1e-12)


def test_it_reads_the_row_before_and_nothing_of_one_row() -> None:
    spelled = f"""latent k: one_of("a", "b") ~ {STAYS.replace('previous(k, "a")', '"a"')} observe "a" ~ a1(k)
                 latent l: one_of("a", "b") ~ {STAYS.replace('previous(k, "a")', "k")} observe "b" ~ a1(l)"""
    two, one = {"rows": GIVEN["rows"][:2]}, {"rows": GIVEN["rows"][:1]}
    assert answer(HIDDEN, **two)[1] == pytest.approx(answer(spelled)[1], abs=1e-12)
    assert answer(HIDDEN, **one)[1] == pytest.approx(answer(spelled.split("latent l")[0])[1], abs=1e-12)
    rows = "rows: table(t: text)"
    assert fingerprint(source(HIDDEN, rows)) == fingerprint(source(HIDDEN.replace("k", "state"), rows))
    assert fingerprint(source(RUNS, rows)) == fingerprint(source(RUNS.replace("left", "rest"), rows))
    assert fingerprint(source(RUNS, rows)) != fingerprint(
        source(RUNS.replace("(left, 2)", "(left, 3)"), rows)
    )
    assert fingerprint(source(HIDDEN, rows)) != fingerprint(
        source(HIDDEN.replace('previous(k, "a")', 'previous(k, "b")'), rows)
    )


def test_a_running_value_is_pooled_behind_its_plate() -> None:
    """A list of all choices, added up by hand; nothing is carried into a first row or out of no rows."""
    text = """program p(rows: table(gain: int)) {
      plate r in rows {
        latent kept: int(0..1) ~ categorical([0.3, 0.7])
        let total = previous(total, 1) + (if kept == 1 then r.gain else 0 - 1)
        condition total >= 0
      }
      factor 0.1 * sum(total) - 0.5 * last(total, 4)
    }"""
    gains = (1, 2, 0)
    found = 0.0
    for kept in itertools.product((0, 1), repeat=3):
        steps = [gain if k else -1 for k, gain in zip(kept, gains, strict=True)]
        totals = list(itertools.accumulate(steps, initial=1))[1:]
        if min(totals) >= 0:
            prior = 0.7 ** sum(kept) * 0.3 ** (3 - sum(kept))
            found += prior * np.exp(0.1 * sum(totals) - 0.5 * totals[-1])
    query = plm.loads(text)
    posterior = query.given(rows=[{"gain": gain} for gain in gains]).draw()
    assert posterior.log_evidence == pytest.approx(np.log(found), abs=1e-12)
    assert query.given(rows=[]).draw().log_evidence == pytest.approx(-2.0)


def test_questions_over_draws_may_read_the_row_before() -> None:
    query = plm.loads(source(HIDDEN, "rows: table(t: text)")).lm(**MODELS).given(GIVEN)
    posterior = query.draw()
    moves = posterior.expect('sum(if previous(k, "a") == k then 0 else 1)').value
    wanted = sum(
        m.weight * sum(a != b for a, b in zip(("a", *m.values.values()), m.values.values(), strict=False))
        for m in posterior.merged()
    )
    assert moves == pytest.approx(wanted, abs=1e-12) and moves > 0.1


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ('latent z: text(tokens=1..2) ~ a1(previous("a", "b"))', "PLM414"),
        ("plate r in rows { latent n: int(0..1) ~ binomial(1, previous(r.t, 0.5)) }", "PLM319"),
        ("plate r in rows { latent n: int(0..1) ~ binomial(1, n / 2) }", "PLM403"),
        ("plate r in rows { latent n: int(0..1) ~ binomial(1, previous(m, 0.5)) latent m: int(0..1) ~ uniform() }", "PLM401"),
        ("plate r in rows { latent n: int(0..1) ~ binomial(1, previous(n)) }", "PLM307"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said(body: str, code: str) -> None:
    module, found = parse(Source("p.plm", source(body, "rows: table(t: text)")))
    assert module is not None and not found
    assert code in [d.code for d in check(module).errors]
