"""`list(T, a..b, end="…")`: what it is worth and how it is drawn, against sequences of tokens written out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

import posterior_lm as plm
from posterior_lm.infer.base import run
from posterior_lm.infer.draws import Draws
from posterior_lm.infer.exact import Exact
from posterior_lm.infer.guide import PriorGuide
from posterior_lm.infer.importance import Importance
from posterior_lm.infer.mcmc import Mcmc
from posterior_lm.infer.smc import Smc
from posterior_lm.lang.diagnostics import CompileError, DataError, InferenceError
from posterior_lm.lang.driver import check
from posterior_lm.lang.parser import parse
from posterior_lm.lang.source import Source
from posterior_lm.train.rows import known_draw
from tests.brute import Brute, log_sum
from tests.strategies import compiled, fingerprint, table
from tests.unit.test_put_together import MODELS, A, B, answer, source, target_of

Ids = tuple[int, ...]
ITEM = 'text(tokens=1..2, stop=".")'
END = "ab"
LIST = f'latent z: list({ITEM}, 1..3, end="{END}") ~ a1("b")'
PLAIN = "latent n: int(0..1) ~ binomial(1, 0.3)"
ALGORITHMS = {
    "exact": Exact(10**6, 1.0),
    "importance": Importance(2000),
    "smc": Smc(2000),
    "mcmc": Mcmc(steps=2000),
}


def text(ids: Ids) -> str:
    return "".join(A.tokenizer.tokens[i] for i in ids)


def log_prob(model: plm.TabularModel, context: Ids, ids: Ids) -> float:
    total = 0.0
    for k, token in enumerate(ids):
        total += float(model.next_log_probs((*context, *ids[:k]))[token])
    return total


def spellings(what: str, most: int = 2) -> list[Ids]:
    tokens = range(len(A.tokenizer.tokens))
    every = [ids for n in range(1, most + 1) for ids in itertools.product(tokens, repeat=n)]
    return [ids for ids in every if text(ids) == what]


def items() -> list[Ids]:
    tokens = range(len(A.tokenizer.tokens))
    every = [ids for n in (1, 2) for ids in itertools.product(tokens, repeat=n)]
    return [
        ids for ids in every if text(ids).find(".") == len(text(ids)) - 1 and not text(ids).startswith(END)
    ]


def lists(low: int = 1, high: int = 3) -> Iterator[tuple[tuple[Ids, ...], Ids]]:
    """Items and the tokens of the end, which behind the last item that there may be are the tokenizer's own."""
    for n in range(low, high + 1):
        ends = [A.tokenizer.encode(END)] if n == high else spellings(END)
        yield from itertools.product(itertools.product(items(), repeat=n), ends)


def posterior(reward) -> tuple[dict[tuple[Ids | None, ...], float], float]:
    """The posterior over the tokens at each place, and the log evidence."""
    start = A.tokenizer.encode("b")
    logs: dict[tuple[Ids | None, ...], float] = {}
    for found, end in lists():
        score = log_prob(A, start, tuple(itertools.chain(*found)) + end)
        places = (*found, end, None, None)[:3] if len(found) < 3 else found
        logs[places] = score + reward(found)
    whole = log_sum(logs.values())
    return {k: float(np.exp(v - whole)) for k, v in logs.items()}, whole


def distance(draws: Draws, wanted: dict[tuple[Ids | None, ...], float]) -> float:
    weights = np.exp(draws.log_weights - np.logaddexp.reduce(draws.log_weights))
    found: dict[tuple[Ids | None, ...], float] = {}
    for d, w in enumerate(weights):
        values = [column[d] for column in draws.values.values()]
        key = tuple(None if v.ids == () else v.ids for v in values)
        found[key] = found.get(key, 0.0) + float(w)
    return 0.5 * sum(abs(found.get(k, 0.0) - wanted.get(k, 0.0)) for k in {*found, *wanted})


def agrees(body: str, reward, method: str) -> None:
    wanted, whole = posterior(reward)
    found = run(
        ALGORITHMS[method],
        target_of(body),
        n=12000 if method == "mcmc" else 2000,
        rng=np.random.default_rng(3),
    )
    assert distance(found, wanted) < (1e-12 if method == "exact" else 0.15)
    if method != "mcmc":
        assert found.log_evidence == pytest.approx(whole, abs=1e-9 if method == "exact" else 0.2)


@pytest.mark.parametrize("method", ALGORITHMS)
def test_the_score_of_a_list_is_that_of_its_tokens(method: str) -> None:
    agrees(LIST, lambda found: 0.0, method)


@pytest.mark.parametrize("method", ALGORITHMS)
def test_a_plate_over_a_list_is_its_statements_for_each_item(method: str) -> None:
    def reward(found: Sequence[Ids]) -> float:
        if any(text(item) == "." for item in found):
            return -np.inf
        asked = sum(log_prob(B, item, B.tokenizer.encode("b")) for item in found)
        return asked - 0.4 * len(found) + (0.7 if len(found) > 1 and text(found[1]) == "a." else 0.0)

    body = f"""{LIST}
        plate s in z {{ observe "b" ~ b1(s) condition chars(s) > 1 }}
        factor -0.4 * len(z) + (if item(z, 1) == "a." then 0.7 else 0)"""
    agrees(body, reward, method)


def guided(found: Sequence[Ids], last: Ids) -> float:
    """log q of items and the end where a guide reads b1 after "a": of the tokens that go on at each place, renormalised."""
    total, before = 0.0, B.tokenizer.encode("a")
    for k in range(min(3, len(found) + 1)):
        ids = found[k] if k < len(found) else last
        every = [*items(), *(spellings(END) if k else ())]
        for t, token in enumerate(ids):
            goes_on = {one[t] for one in every if one[:t] == ids[:t] and len(one) > t}
            scores = B.next_log_probs((*before, *ids[:t]))
            total += float(scores[token]) - log_sum([float(scores[v]) for v in goes_on])
        before = (*before, *ids)
    return total


GUIDED = 'guide z ~ b1("a")'


@pytest.mark.parametrize("body", [f"{LIST} {GUIDED}", f"{GUIDED} {LIST}"])
def test_a_guide_of_a_list_is_read_before_what_stands_before_each_item(body: str) -> None:
    target, reward = target_of(f"{body} factor 0.6 * len(z)"), {}
    for found, end in lists():
        score = log_prob(A, A.tokenizer.encode("b"), tuple(itertools.chain(*found)) + end)
        places = (*found, end, None, None)[:3] if len(found) < 3 else found
        reward[places] = score + 0.6 * len(found), guided(found, end)
    proposal = PriorGuide(target, reads="guide")
    drawn = run(Importance(20000), target, n=20000, rng=np.random.default_rng(4), guide=proposal)
    keys = list(zip(*([v.ids or None for v in column] for column in drawn.values.values()), strict=True))
    assert len(set(keys)) > 30
    for key, weight in zip(keys, drawn.log_weights.tolist(), strict=True):
        assert weight == pytest.approx(reward[key][0] - reward[key][1], abs=1e-9)
    whole = log_sum(score for score, _ in reward.values())
    assert log_sum(q for _, q in reward.values()) == pytest.approx(0.0, abs=1e-9)
    assert drawn.log_evidence == pytest.approx(whole, abs=0.03)
    assert distance(drawn, {key: float(np.exp(r - whole)) for key, (r, _) in reward.items()}) < 0.05


def test_a_list_of_one_length_is_the_program_that_spells_it_out() -> None:
    body = f'latent z: list({ITEM}, 2..2, end="{END}") ~ a1("b") ^ 1.5 observe "a" ~ b1(z)'
    plain = f"""latent x: {ITEM} ~ a1("b") ^ 1.5 latent y: {ITEM} ~ a1("b", x) ^ 1.5
                condition not starts_with(x, "{END}") and not starts_with(y, "{END}")
                observe "{END}" ~ a1("b", x, y) ^ 1.5 observe "a" ~ b1(x, y, "{END}")"""
    found = run(Exact(10**6, 1.0), target_of(body), n=1, rng=np.random.default_rng(0))
    assert found.log_evidence == pytest.approx(answer(plain)[1], abs=1e-12)
    assert found.distinct == len(items()) ** 2


def test_a_list_in_a_plate_in_a_branch_and_what_nothing_reads() -> None:
    rows = "rows: table(t: text)"
    body = f'plate r in rows {{ latent z: list({ITEM}, 0..1, end="b") ~ a1(r.t) plate s in z {{ latent k: int(0..1) ~ binomial(1, 0.3) }} }}'
    target = compiled(source(body, rows), {"rows": [{"t": "a"}, {"t": "b"}]}, MODELS)
    assert target.names == ("z[0][0]", "z[1][0]", "k[0][0]", "k[1][0]")
    alone = [
        run(Exact(10**6, 1.0), target_of(f'latent z: list({ITEM}, 0..1, end="b") ~ a1("{t}")'), n=1,
            rng=np.random.default_rng(0)).log_evidence
        for t in "ab"
    ]  # fmt: skip
    both = run(Exact(10**6, 1.0), target, n=1, rng=np.random.default_rng(0))
    assert both.log_evidence == pytest.approx(sum(alone), abs=1e-12)
    branch = f"latent b: int(0..1) ~ binomial(1, 0.4) if b == 1 {{ {LIST} }}"
    whole = run(Exact(10**6, 1.0), target_of(branch), n=1, rng=np.random.default_rng(0)).log_evidence
    assert whole == pytest.approx(
        np.logaddexp(np.log(0.6), np.log(0.4) + posterior(lambda f: 0.0)[1]), abs=1e-12
    )


POOLED = {
    "sum, mean": (
        'let n = count(s, "a")', "factor 0.5 * sum(n) - mean(chars(s), 1)",
        lambda x: 0.5 * sum(i.count("a") for i in x) - np.mean([(len(i) + 1) / 2 for i in x]),
    ),
    "any, all": (
        'let n = contains(s, "a")', "condition any(n) or all(chars(s) == 1)",
        lambda x: 0.0 if any("a" in i for i in x) or all(len(i) == 1 for i in x) else -np.inf,
    ),
    "join, last": (
        "let n = chars(s)",
        'factor (if contains(join(["b", s], "-"), ".-b.") then 0.7 else 0) - last(n, 9) * count(last([s], ""), "a")',
        lambda x: 0.7 * (".-b." in "-".join("b" + i for i in x)) - len(x[-1]) * x[-1].count("a"),
    ),
    "previous": (
        'factor if previous(s, "") == s then 0.8 else 0', "",
        lambda x: 0.8 * sum(i == j for i, j in itertools.pairwise(x)),
    ),
    "a running let": (
        'let total = 2 * previous(total, 1) + count(s, "a") factor 0.1 * total', "factor -0.2 * last(total, 0)",
        lambda x: 0.1 * sum(running(x)) - 0.2 * running(x)[-1],
    ),
}  # fmt: skip


def running(found: Sequence[str]) -> list[int]:
    totals = [1]
    for one in found:
        totals.append(2 * totals[-1] + one.count("a"))
    return totals[1:]


@pytest.mark.parametrize("name", POOLED)
@pytest.mark.parametrize("method", ["exact", "smc"])
def test_items_are_pooled_behind_their_plate_and_read_the_one_before(name: str, method: str) -> None:
    inside, behind, reward = POOLED[name]
    agrees(f"{LIST} plate s in z {{ {inside} }} {behind}", lambda x: reward([text(i) for i in x]), method)


def test_rows_of_lists_in_lists_and_in_plates_are_pooled_together() -> None:
    inner = f'latent y: list({ITEM}, 0..1, end="b") ~ b1(s) plate t in y {{ let m = chars(s) + chars(t) }}'
    body = f"{LIST} plate s in z {{ {inner} factor 0.1 * sum(m) }} condition sum(m) > 3"
    spelled = f"{LIST} plate s in z {{ {inner} factor if len(y) > 0 then 0.1 * (chars(s) + chars(item(y, 0))) else 0 }}"
    found = run(Exact(10**6, 1.0), target_of(body), n=1, rng=np.random.default_rng(0))
    other = run(Exact(10**6, 1.0), target_of(spelled), n=1, rng=np.random.default_rng(0))
    total = 0.0
    for d, weight in enumerate(other.log_weights):
        read = {name: values[d] for name, values in other.values.items()}
        m = sum(
            len(read[f"z[{k}]"].text) + len(read[f"y[{k}][0]"].text)
            for k in range(3)
            if read[f"z[{k}]"].datum is not None and read[f"y[{k}][0]"].datum is not None
        )
        total += float(np.exp(weight)) * (m > 3)
    assert found.log_evidence == pytest.approx(np.log(total), abs=1e-9)
    rows = f'plate r in rows {{ latent z: list({ITEM}, 0..1, end="b") ~ a1(r.t) plate s in z {{ let n = chars(s) }} }}'
    given = {"rows": [{"t": "a"}, {"t": "b"}]}

    def evidence(terms: str) -> float:
        target = compiled(source(f"{rows} {terms}", "rows: table(t: text)"), given, MODELS)
        return float(run(Exact(10**6, 1.0), target, n=1, rng=np.random.default_rng(0)).log_evidence)

    assert evidence("factor sum(n)") == pytest.approx(evidence("factor sum(chars(item(z, 0)))"), abs=1e-12)


C = table(("0", "1", "a", "b", " 1"), seed=8, order=2, max_tokens=9)
NUMBERS = 'latent z: list(int(0..1), 1..2, end="ab") ~ a1("b") ^ 1.2'
CHOICES = 'latent z: list(one_of("a", " 1"), 0..2, end="b") ~ a1("b")'
FINITE = {  # a list of a finite type, and the program that spells it out
    "ints": (
        f"""{NUMBERS} plate s in z {{ condition s + previous(s, 0) < 2 observe "b" ~ a1(s) let n = 2 * s }}
            factor 0.3 * sum(n) - 0.2 * len(z) + last(n, 5)
            factor if len(z) > 1 then 0.4 * item(z, 1) else 0""",
        """latent x: int(0..1) ~ a1("b") ^ 1.2 latent y: one_of("0", "1", "ab") ~ a1("b", x) ^ 1.2
           let m = if y == "1" then 1 else 0
           if y != "ab" { observe "ab" ~ a1("b", x, y) ^ 1.2 condition m + x < 2 observe "b" ~ a1(y)
                          factor 0.6 * m - 0.2 + 2 * m + 0.4 * m }
           else { factor 2 * x }
           condition x + 0 < 2 observe "b" ~ a1(x) factor 0.6 * x - 0.2""",
    ),
    "choices": (
        f'{CHOICES} plate s in z {{ let same = s == "a" }} factor if any(same) then 0.5 else 0 observe "a" ~ a1(z)',
        """latent x: one_of("a", " 1", "b") ~ a1("b")
           if x != "b" {
             latent y: one_of("a", " 1", "b") ~ a1("b", x)
             factor if x == "a" or y == "a" then 0.5 else 0
             if y != "b" { observe "b" ~ a1("b", x, y) observe "a" ~ a1(x, y, "b") } else { observe "a" ~ a1(x, y) }
           } else { observe "a" ~ a1(x) }""",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FINITE)
@pytest.mark.parametrize("method", ALGORITHMS)
def test_a_list_of_a_finite_type_is_the_program_that_spells_it_out(method: str, name: str) -> None:
    body, plain = FINITE[name]
    models = {"a1": C, "b1": C}
    brute = Brute(source(plain), {}, models)
    rows = list(brute.assignments())
    logs = [brute.log_reward(row) for row in rows]
    whole = log_sum(logs)
    wanted: dict[tuple[str, ...], float] = {}
    for row, x in zip(rows, logs, strict=True):
        key = tuple("" if v is None else str(v) for v in row.values())
        wanted[key] = wanted.get(key, 0.0) + float(np.exp(x - whole))
    target = compiled(source(body), {}, models)
    found = run(
        ALGORITHMS[method], target, n=12000 if method == "mcmc" else 2000, rng=np.random.default_rng(3)
    )
    weights = np.exp(found.log_weights - np.logaddexp.reduce(found.log_weights))
    got: dict[tuple[str, ...], float] = {}
    for d, w in enumerate(weights):
        key = tuple(column[d].text for column in found.values.values())
        got[key] = got.get(key, 0.0) + float(w)
    apart = 0.5 * sum(abs(got.get(k, 0.0) - wanted.get(k, 0.0)) for k in {*got, *wanted})
    assert apart < (1e-12 if method == "exact" else 0.15)
    if method != "mcmc":
        assert found.log_evidence == pytest.approx(whole, abs=1e-9 if method == "exact" else 0.2)


def test_questions_and_views_of_a_list_of_numbers(tmp_path: Path) -> None:
    query = plm.loads(source(NUMBERS)).lm(a1=C, b1=C)
    found = query.using("exact", mass=1.0).draw()
    assert {*found["z[0]"]} == {0, 1}
    assert {*found["z[1]"]} == {0, 1, None}
    share = 1 - found.prob("len(z) > 1").value
    assert dict(found.marginal("z[1]"))[None] == pytest.approx(share, abs=1e-12)
    second = found.expect("if len(z) > 1 then item(z, 1) + 1 else 0").value
    assert second == pytest.approx(
        2 * found.prob("len(z) > 1 and item(z, 1) == 1").value + dict(found.marginal("z[1]"))[0]
    )
    with pytest.raises(InferenceError, match="not a number for"):
        found.expect("item(z, 1)")
    assert dict(query.predict("z[1]").probs)[0] == pytest.approx(dict(found.marginal("z[1]"))[0])
    assert plm.Posterior.load(found.save(tmp_path)).to_json() == found.to_json()
    assert "z[1]" in found._repr_html_()
    target = query.prepared.bind({})
    for row, ends in (({"z[0]": 1, "z[1]": None}, True), ({"z[0]": 0, "z[1]": 1}, False)):
        known = known_draw(target, 0, row)
        assert (known["z[1]"].datum is None) == ends
        drawn = next(d for d in found if all(d[name] == value for name, value in row.items()))
        assert target.log_reward({name: (v,) for name, v in known.items()})[0] == pytest.approx(
            drawn.log_reward
        )
    with pytest.raises(DataError, match="is no value"):
        target.value("z[0]", "ab")


def test_the_range_of_a_list_of_numbers_may_be_computed() -> None:
    body = 'latent z: list(int(0..most), 1..2, end="b") ~ a1("b") factor 0.1 * len(z)'
    for most in (0, 1):
        wanted = run(Exact(10**6, 1.0), compiled(source(body.replace("most", str(most))), {}, {"a1": C, "b1": C}), n=1,
                     rng=np.random.default_rng(0)).log_evidence  # fmt: skip
        target = compiled(source(body, "most: int"), {"most": most}, {"a1": C, "b1": C})
        assert run(Exact(10**6, 1.0), target, n=1, rng=np.random.default_rng(0)).log_evidence == wanted
    with pytest.raises(CompileError, match="begins with the list's end"):
        compiled(source(body.replace('"b") ~', '"1") ~'), "most: int"), {"most": 1}, {"a1": C, "b1": C})


def test_draws_are_asked_about_items_and_what_is_drawn_beside_them() -> None:
    body = f'{CHOICES} plate s in z {{ latent k: int(0..1) ~ binomial(1, 0.3) latent t: one_of("a", "b") ~ a1(s) }}'
    draws = plm.loads(source(body)).lm(a1=C).using("exact", mass=1.0).draw()

    def known(value) -> float:
        total = 0.0
        for draw in draws:
            rows = [tuple(draw.values[f"{name}[{k}]"] for name in "zkt") for k in (0, 1)]
            total += draw.weight * value([row for row in rows if row[0] is not None])
        return total

    for text, value in {
        'sum(if z == "a" then k else 0)': lambda rows: sum(k for z, k, _ in rows if z == "a"),
        "sum(k) + 2 * len(z)": lambda rows: sum(k + 2 for _, k, _ in rows),
        "if any(t == z and k == 1) then 1 else 0": lambda rows: any(t == z and k for z, k, t in rows),
    }.items():
        assert draws.expect(text).value == pytest.approx(known(value), abs=1e-9)


def test_an_optional_is_a_list_of_one_item_or_none() -> None:
    for item, end in ((ITEM, END), ('one_of("a", " 1")', "b")):
        body = (
            'latent z: TYPE ~ a1("b") plate s in z { factor chars(s) } factor if len(z) == 1 then -1 else 0'
        )
        types = f'optional({item}, end="{end}")', f'list({item}, 0..1, end="{end}")'
        texts = [source(body.replace("TYPE", type_)) for type_ in types]
        assert fingerprint(texts[0]) == fingerprint(texts[1])
        assert types[0] in str(plm.loads(texts[0])) and plm.loads(str(plm.loads(texts[0]))).fingerprint
        found, wanted = (
            plm.loads(one).lm(a1=C, b1=C) if item != ITEM else plm.loads(one).lm(**MODELS) for one in texts
        )
        draws = found.using("exact", mass=1.0).draw()
        assert draws.log_evidence == wanted.using("exact", mass=1.0).draw().log_evidence
        assert draws.prob("len(z) == 1").value == pytest.approx(
            1 - sum(p for value, p in draws.marginal("z[0]") if value is None)
        )


def test_fingerprints_and_text() -> None:
    assert fingerprint(source(LIST)) == fingerprint(source(LIST.replace("z:", "steps:")))
    assert fingerprint(source(CHOICES)) != fingerprint(source(CHOICES.replace('" 1"', '"1"')))
    for other in (LIST.replace("1..3", "1..2"), LIST.replace("1..3", "0..3"), LIST.replace(END, "b")):
        assert fingerprint(source(LIST)) != fingerprint(source(other))
    for body in (LIST, NUMBERS, CHOICES):
        query = plm.loads(source(body))
        assert plm.loads(str(query)).fingerprint == query.fingerprint
    query = plm.loads(source(LIST))
    assert plm.loads(str(query)).fingerprint == query.fingerprint
    built = plm.loads(source(PLAIN)).latent("z", f'list({ITEM}, 1..3, end="{END}")', 'a1("b")')
    assert built.fingerprint == plm.loads(source(f"{PLAIN} {LIST}")).fingerprint


def test_questions_and_views_of_a_list(tmp_path: Path) -> None:
    query = plm.loads(source(LIST)).lm(**MODELS)
    found = query.using("exact", mass=1.0, values=10_000).draw()
    wanted, _ = posterior(lambda items: 0.0)
    longer = sum(p for places, p in wanted.items() if places[1] is not None and text(places[1]) != END)
    assert found.prob("len(z) > 1").value == pytest.approx(longer, abs=1e-12)
    first = sum(p for places, p in wanted.items() if text(places[0]) == "a.")
    assert found.prob('item(z, 0) == "a."').value == pytest.approx(first, abs=1e-12)
    assert dict(found.marginal("z[1]"))[None] == pytest.approx(1 - longer, abs=1e-12)
    assert found.to_json()["draws"][0]["values"].keys() == {"z[0]", "z[1]", "z[2]"}
    again = plm.Posterior.load(found.save(tmp_path))
    assert again.to_json() == found.to_json()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ('latent z: list(text(tokens=1..2), 1..3, end="b") ~ a1()', "PLM322"),
        (f'latent z: list({ITEM}, 1..3) ~ a1()', "PLM308"),
        (f'latent z: list({ITEM}, 3..1, end="b") ~ a1()', "PLM302"),
        (f'latent z: list({ITEM}, 0..0, end="b") ~ a1()', "PLM302"),
        ('latent z: list(bool, 0..2, end="b") ~ a1()', "PLM322"),
        ('latent z: list(real(0..1, grid=4), 0..2, end="b") ~ a1()', "PLM322"),
        ('latent z: list(int, 0..2, end="b") ~ a1()', "PLM322"),
        ('latent z: list(int(3..1), 0..2, end="b") ~ a1()', "PLM302"),
        ('latent z: list(one_of("a", "ba"), 0..2, end="b") ~ a1()', "PLM418"),
        (f'latent z: optional({ITEM}, 0..1, end="b") ~ a1()', "PLM322"),
        (f"latent z: optional({ITEM}) ~ a1()", "PLM308"),
        (f'latent z: optional({ITEM}, depth=2, end="b") ~ a1()', "PLM206"),
        ('latent z: optional(end="b") ~ a1()', "PLM322"),
        ('latent z: list(int(0..20, lead=" "), 0..2, end=" 1") ~ a1()', "PLM418"),
        ('latent z: list(int(0..3), 0..2, end="b") ~ uniform()', "PLM311"),
        ('latent z: list(int(0..3), 0..2, end="b") ~ a1() factor words(item(z, 0))', "PLM301"),
        ('factor uniform(0..3)', "PLM318"),
        (f'latent z: list({ITEM}, 1..3, end="b") ~ mix(0.5, a1(), b1())', "PLM311"),
        (f'latent z: list({ITEM}, 1..3, end="b") ~ a1(user("a"))', "PLM311"),
        (f'{LIST} guide z ~ b1(z)', "PLM407"),
        (f'{LIST} guide z ~ b1() ^ 2', "PLM409"),
        (f'{LIST} factor item(z, 3) == "a"', "PLM302"),
        (f'{LIST} factor len("a")', "PLM301"),
        (f'{LIST} factor words(item(z, len(z)))', "PLM301"),
        (f'{LIST} plate s in z {{ let n = chars(s) }} factor last(n, "a")', "PLM319"),
        (f'{LIST} plate s in z {{ let n = previous(n, 1) / 2 factor n }}', "PLM319"),
        (f'{LIST} plate s in z {{ let n = chars(s) }} observe join([s, bos], "a") ~ a1()', "PLM306"),
        (f'{LIST} factor last(1, 2)', "PLM329"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_list_is_said(body: str, code: str) -> None:
    module, found = parse(Source("p.plm", source(body)))
    assert module is not None and not found
    assert code in [d.code for d in check(module).errors]
