"""`previous(value, first)`: chains over the rows of a plate, against the slow reading and a forward recursion."""

from __future__ import annotations

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
BODIES = {"hidden": HIDDEN, "texts": TEXTS, "later": LATER}


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
    assert fingerprint(source(HIDDEN, rows)) != fingerprint(
        source(HIDDEN.replace('previous(k, "a")', 'previous(k, "b")'), rows)
    )


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
