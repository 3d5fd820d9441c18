"""The latents of a plate, put together outside it: each function against the program that spells it out."""

from __future__ import annotations

import math

import numpy as np
import pytest

import posterior_lm as plm
from posterior_lm.graph.conditions import conjuncts

MODEL = plm.TabularModel.random(["a", "b", "ab", "."], order=1, max_tokens=8, rng=5, concentration=0.4)
ROWS = [{"y": "a"}, {"y": "b"}]

PLATE = """lm m = "table"
program p(rows: table(y: text)) {
  plate r in rows {
    latent z: text(tokens=1..1) ~ m(r.y)
    latent k: int(0..2) ~ categorical([0.7, 0.2, 0.1])
    let far = count(z, "a") > k
  }
  %s
}"""
SPELLED = """lm m = "table"
program p(x: text, y: text) {
  latent z0: text(tokens=1..1) ~ m(x)
  latent k0: int(0..2) ~ categorical([0.7, 0.2, 0.1])
  latent z1: text(tokens=1..1) ~ m(y)
  latent k1: int(0..2) ~ categorical([0.7, 0.2, 0.1])
  let far0 = count(z0, "a") > k0
  let far1 = count(z1, "a") > k1
  %s
}"""

SAME = [
    ("factor sum(k * chars(z)) - 0.3 * k0", "factor k0 * chars(z0) + k1 * chars(z1) - 0.3 * k0"),
    ("factor 2 * mean(k)", "factor k0 + k1"),
    ('factor sum(if r.y == "a" then k else 0)', "factor k0"),
    ("factor sum(log_prob(z, m()))", "factor log_prob(z0, m()) + log_prob(z1, m())"),
    ("condition any(far)", "condition far0 or far1"),
    ("condition all(far or k > 0)", "condition (far0 or k0 > 0) and (far1 or k1 > 0)"),
    ("condition not any(contains(z, \"b\"))", 'condition not contains(z0, "b") and not contains(z1, "b")'),
    ("condition max(sum(k), 3) == sum(k)", "condition k0 + k1 >= 3"),
    ("factor if any(far) and not all(far) then 1 else sum(1.5, k, 2)",
     "factor if far0 != far1 then 1 else k0 + k1 + 7"),
    ('observe join(["b", z], "a") ~ m()', 'observe ["b", z0, "ab", z1] ~ m()'),
    ('condition contains(join(z, "-"), "a-a")', 'condition contains([z0, "-", z1], "a-a")'),
]  # fmt: skip


def posterior(text: str, method: str = "exact", n: int = 1, **given: object) -> plm.Posterior:
    return plm.loads(text).lm(m=MODEL).given(**given).using(method).draw(n, seed=1)


def shares(found: plm.Posterior) -> dict[tuple[object, ...], float]:
    out: dict[tuple[object, ...], float] = {}
    for row in found:
        key = tuple(
            sorted((name.replace("[", "").replace("]", ""), value) for name, value in row.values.items())
        )
        out[key] = out.get(key, 0.0) + row.weight
    return out


@pytest.mark.parametrize(("pooled", "spelled"), [pair for pair in SAME if pair[1]])
def test_pooled_is_what_is_spelled_out(pooled: str, spelled: str) -> None:
    pooled = pooled.replace(" - 0.3 * k0", ' - 0.3 * sum(if r.y == "a" then k else 0)')
    one = posterior(PLATE % pooled, rows=ROWS)
    two = posterior(SPELLED % spelled, x="a", y="b")
    assert one.log_evidence == pytest.approx(two.log_evidence, abs=1e-9)
    other = shares(two)
    assert len(other) > 1 and shares(one) == pytest.approx(other, abs=1e-9)
    for method in ("importance", "smc"):
        drawn = posterior(PLATE % pooled, method, 1000, rows=ROWS)
        assert drawn.log_evidence == pytest.approx(two.log_evidence, abs=0.35)


def test_a_context_reads_the_tokens_of_every_row() -> None:
    """What follows the plate is drawn behind the rows, each as its own tokens: "a", "b" is not "ab"."""
    read = 'latent s: text(tokens=1..1) ~ m(join(z, ""), ".")'
    one = posterior(PLATE % read, rows=ROWS)
    two = posterior(SPELLED % read.replace('join(z, "")', "z0, z1"), x="a", y="b")
    assert one.log_evidence == pytest.approx(two.log_evidence, abs=1e-9)
    assert shares(one) == pytest.approx(shares(two), abs=1e-9)


def test_all_is_built_into_what_each_row_draws() -> None:
    program = plm.loads(PLATE % 'condition all(contains(z, "b"))').lm(m=MODEL).given(rows=ROWS)
    kinds = {part.kind(name) for part in conjuncts(program.target().graph) for name in ("z[0]", "z[1]")}
    assert kinds == {"mask", None}
    drawn = program.using("importance").draw(200, seed=0)
    assert np.isfinite(drawn.draws.log_weights).all()


@pytest.mark.parametrize(
    ("statement", "log_evidence"),
    [("factor sum(k)", 0.0), ("condition all(far)", 0.0), ("factor chars(join(z, \"-\"))", 0.0),
     ("factor if any(far) then 1 else 2", 2.0)],
)  # fmt: skip
def test_no_rows_are_nothing(statement: str, log_evidence: float) -> None:
    assert posterior(PLATE % statement, rows=[]).log_evidence == pytest.approx(log_evidence)


def test_no_rows_have_no_mean() -> None:
    with pytest.raises(plm.PlmError) as caught:
        posterior(PLATE % "factor mean(k)", rows=[])
    assert caught.value.diagnostics[0].code == "PLM701"


NESTED = """lm m = "table"
program p(rows: table(y: text), more: table(w: real)) {
  plate r in rows {
    latent n: int(0..1) ~ categorical([0.6, 0.4])
    plate s in more {
      latent k: int(0..1) ~ categorical([0.7, 0.3])
      factor s.w * k
    }
    let inside = sum(k)
    factor 0.5 * n * inside
  }
  factor 0.25 * sum(k * s.w * n)
  condition sum(inside) >= mean(k)
}"""


def test_rows_in_rows_are_pooled_one_after_the_other_or_together() -> None:
    weights, total = [0.3, -0.2], 0.0
    for code in range(2**6):
        bits = [code >> place & 1 for place in range(6)]
        log_w = 0.0
        for r in range(2):
            n, ks = bits[3 * r], bits[3 * r + 1 : 3 * r + 3]
            log_w += math.log(0.4 if n else 0.6) + 0.5 * n * sum(ks)
            for k, w in zip(ks, weights, strict=True):
                log_w += math.log(0.3 if k else 0.7) + w * k + 0.25 * k * w * n
        total += math.exp(log_w)
    found = posterior(NESTED, rows=ROWS, more=[{"w": w} for w in weights])
    assert found.log_evidence == pytest.approx(math.log(total), abs=1e-9)
    assert found.expect("sum(k)").value == pytest.approx(
        sum(row.weight * sum(v for name, v in row.values.items() if name.startswith("k")) for row in found)
    )


# ------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("statement", "code", "words"),
    [
        ("factor chars(z)", "PLM405", "pool its rows behind it: mean(…), sum(…), any(…), all(…), join(…)"),
        ("factor sum(r)", "PLM301", "sum needs a number or a list of numbers here"),
        ("factor any(far)", "PLM304", "this is a truth value"),
        ("condition any(k)", "PLM301", "any needs a truth value here"),
        ('observe join("a", "b") ~ m()', "PLM329", "write a list: [a, separator, b]"),
        ('factor join(z, ".")', "PLM304", "this is a list"),
        ("factor sum(zz)", "PLM201", "unknown name 'zz'"),
        ("factor sum()", "PLM307", "sum"),
        (
            "plate r in rows {\n    let far = true\n  }\n  condition any(far)",
            "PLM405",
            "stands in two plates",
        ),
        (
            "plate s in rows {\n    let b = s.y\n  }\n  factor sum(chars(b) * k)",
            "PLM405",
            "belongs to a plate",
        ),
    ],
)
def test_what_cannot_be_pooled(statement: str, code: str, words: str) -> None:
    with pytest.raises(plm.CompileError) as caught:
        plm.loads(PLATE % statement)
    assert caught.value.diagnostics[0].code == code and words in str(caught.value)


def test_rows_are_pooled_behind_their_plate() -> None:
    early = PLATE.replace("  plate r", "  factor sum(k)\n  plate r", 1)
    with pytest.raises(plm.CompileError, match="pool its rows behind it"):
        plm.loads(early % "factor 1")


def test_names_of_functions_may_be_taken() -> None:
    text = "program p(any: int, all: int) {\n  latent sum: int(0..3) ~ uniform()\n  factor sum * any - all\n}"
    assert len(plm.loads(text).given(any=1, all=0).using("exact").draw()) == 4


def test_the_fingerprint_knows_the_function_and_not_the_names() -> None:
    any_, all_, sum_, renamed = (
        plm.loads(text).fingerprint
        for text in (PLATE % "condition any(far)", PLATE % "condition all(far)", PLATE % "factor sum(k)",
                     PLATE.replace("far", "near").replace(" r in", " e in").replace("r.y", "e.y") % "condition any(near)")
    )  # fmt: skip
    assert len({any_, all_, sum_}) == 3 and renamed == any_


# ------------------------------------------------------------------------------- answers


def test_draws_are_asked_over_the_rows() -> None:
    found = posterior(PLATE % "factor 0.2 * sum(k)", rows=ROWS)
    rows = list(found)
    p = sum(row.weight for row in rows if row["k[0]"] == 2 or row["k[1]"] == 2)
    assert found.prob("any(k == 2)").value == pytest.approx(p) and 0 < p < 1
    both = sum(row.weight * sum(len(str(row[f"z[{i}]"])) * row[f"k[{i}]"] for i in range(2)) for row in rows)  # type: ignore[misc]
    assert found.expect("sum(chars(z) * k)").value == pytest.approx(both)
    assert found.prob('contains(join(z, "-"), "a-")').value == pytest.approx(
        sum(row.weight for row in rows if "a-" in f"{row['z[0]']}-{row['z[1]']}")
    )
    with pytest.raises(plm.CompileError, match="pool the rows"):
        found.expect("k")
