"""`list(record(field: T, …), a..b, end="…")`: the program that spells its items and their fields out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import posterior_lm as plm
from posterior_lm.infer.base import run
from posterior_lm.lang.diagnostics import CompileError
from posterior_lm.train.rows import known_draw
from tests.brute import Brute, log_sum
from tests.strategies import compiled, fingerprint, table
from tests.unit.test_lists import ALGORITHMS
from tests.unit.test_put_together import source

T = table(("a", "b", "N", "0", "1", ",", "."), seed=5, order=2, max_tokens=24)
MODELS = {"a1": T, "b1": T}
NAME, AGE = 'text(tokens=1..2, stop=",", chars="a")', "int(0..1)"
NAMED = f'latent z: list(record("N", name: {NAME}, "a", "b", age: {AGE}), 1..2, end=".") ~ a1("b") ^ 0.8'
BARE = f'latent z: list(record(name: {NAME}, age: {AGE}, "b"), 0..2, end=".") ~ a1("b")'
ASKED = """plate s in z {
  condition s.age + previous(s.age, 0) < 2
  observe "b" ~ b1(s, s.name) ^ 0.5
  let n = 2 * s.age + chars(s.name)
}
observe "a" ~ b1(z)
factor 0.3 * sum(n) - 0.2 * len(z) + (if any(s.name == "a,") then 0.5 else 0)
factor if len(z) > 1 then 0.4 * item(z.age, 1) + chars(item(z, 1)) / 9 else last(s.age, 5)"""


def asked(items: list[tuple[str, str, str]]) -> str:
    """What `ASKED` adds for these items, each its segments, its name and its age."""
    terms = [f'observe "b" ~ b1({spelled}, {name}) ^ 0.5' for spelled, name, _ in items]
    ages = [age for *_, age in items]
    if len(items) > 1:
        terms.append(f"condition {ages[0]} + {ages[1]} < 2")
    whole = ", ".join(spelled for spelled, *_ in items)
    terms.append(f'observe "a" ~ b1({whole + ", " if items else ""}".")')
    n = " + ".join(["0", *(f"2 * {age} + chars({name})" for _, name, age in items)])
    some = " or ".join(f'{name} == "a,"' for _, name, _ in items) or "1 == 0"
    terms.append(f"factor 0.3 * ({n}) - 0.2 * {len(items)} + (if {some} then 0.5 else 0)")
    more = f"0.4 * {ages[1]} + chars([{items[1][0]}]) / 9" if len(items) > 1 else [5, *ages][-1]
    terms.append(f"factor {more}")
    return " ".join(terms)


FIRST = [('"N", x, "ab", y', "x", "y"), ('"N", u, "ab", v', "u", "v")]
SPELLED = {
    NAMED: f"""observe "N" ~ a1("b") ^ 0.8
      latent x: {NAME} ~ a1("b", "N") ^ 0.8 latent y: {AGE} ~ a1("b", "N", x, "ab") ^ 0.8
      latent m: one_of("N", ".") ~ a1("b", "N", x, "ab", y) ^ 0.8
      if m == "N" {{
        latent u: {NAME} ~ a1("b", "N", x, "ab", y, m) ^ 0.8
        latent v: {AGE} ~ a1("b", "N", x, "ab", y, m, u, "ab") ^ 0.8
        observe "." ~ a1("b", "N", x, "ab", y, m, u, "ab", v) ^ 0.8
        {asked(FIRST)}
      }} else {{ {asked(FIRST[:1])} }}""",
    BARE: f"""latent x: one_of(",", "a,", ".") ~ a1("b")
      if x != "." {{
        latent y: {AGE} ~ a1("b", x)
        latent u: one_of(",", "a,", ".") ~ a1("b", x, y, "b")
        if u != "." {{
          latent v: {AGE} ~ a1("b", x, y, "b", u)
          observe "." ~ a1("b", x, y, "b", u, v, "b")
          {asked([('x, y, "b"', "x", "y"), ('u, v, "b"', "u", "v")])}
        }} else {{ {asked([('x, y, "b"', "x", "y")])} }}
      }} else {{ {asked([])} }}""",
}


def spelled(value: object) -> str:
    if isinstance(value, tuple):
        return "".join(T.tokenizer.tokens[i] for i in value)
    return "" if value is None else str(value)


@pytest.mark.parametrize("body", SPELLED)
@pytest.mark.parametrize("method", ALGORITHMS)
def test_it_is_the_program_that_spells_it_out(method: str, body: str) -> None:
    brute = Brute(source(SPELLED[body]), {}, MODELS)
    rows = list(brute.assignments())
    logs = [brute.log_reward(row) for row in rows]
    whole, wanted = log_sum(logs), dict[tuple[str, ...], float]()
    for row, x in zip(rows, logs, strict=True):
        key = tuple(map(spelled, row.values()))
        wanted[key] = wanted.get(key, 0.0) + float(np.exp(x - whole))
    target = compiled(source(f"{body} {ASKED}"), {}, MODELS)
    found = run(
        ALGORITHMS[method], target, n=12000 if method == "mcmc" else 2000, rng=np.random.default_rng(3)
    )
    weights = np.exp(found.log_weights - np.logaddexp.reduce(found.log_weights))
    got = dict[tuple[str, ...], float]()
    for d, weight in enumerate(weights):
        key = tuple(column[d].text for name, column in found.values.items() if name != "z[0]")
        got[key] = got.get(key, 0.0) + float(weight)
    apart = 0.5 * sum(abs(got.get(k, 0.0) - wanted.get(k, 0.0)) for k in {*got, *wanted})
    assert apart < (1e-12 if method == "exact" else 0.1)
    if method != "mcmc":
        assert found.log_evidence == pytest.approx(whole, abs=1e-9 if method == "exact" else 0.2)


def evidence(body: str) -> float:
    found = plm.loads(source(body)).lm(**MODELS).using("exact", mass=1.0).draw()
    assert found.log_evidence is not None
    return found.log_evidence


def test_an_item_that_is_not_there_changes_nothing() -> None:
    for body in (NAMED, BARE):
        fewer = (
            body.replace("..2", "..1").replace("tokens=1..1", "tokens=1..2").replace("0..2, end", "0..1, end")
        )
        assert evidence(f"{body} condition len(z) < 2 factor len(z)") == pytest.approx(
            evidence(f"{fewer} factor len(z)"), abs=1e-9
        )
    ended = 'latent z: list(record("N", said: text(tokens=1..1)), 0..1, end=".") ~ a1("b")'
    known = 'observe "." ~ a1("b") observe "a" ~ b1(".") latent k: int(0..1) ~ uniform()'
    for body in (BARE.replace("0..2", "0..1"), ended):
        kept = evidence(f'{body} observe "a" ~ b1(z) condition len(z) == 0')
        assert kept == pytest.approx(evidence(known), abs=1e-12)


def test_an_optional_and_a_list_in_lists_are_lists_of_records_too() -> None:
    record = f'record("N", age: {AGE})'
    one, other = (
        f'latent z: {t} ~ a1("b") factor len(z)'
        for t in (f'optional({record}, end=".")', f'list({record}, 0..1, end=".")')
    )
    assert fingerprint(source(one)) == fingerprint(source(other))
    deep = f"""latent z: list({record}, 0..1, depth=2, end=".") ~ a1("b")
      plate s in z {{ factor 0.7 * s.age * parent(s.age, 2) }}"""
    plain = f"""latent m: one_of("N", ".") ~ a1("b")
      if m == "N" {{
        latent y: {AGE} ~ a1("b", m)
        factor 1.4 * y
        latent k: one_of("N", ".") ~ a1("b", m, y)
        if k == "N" {{
          latent v: {AGE} ~ a1("b", m, y, k)
          factor 0.7 * v * y
          observe "." ~ a1("b", m, y, k, v)
          observe "." ~ a1("b", m, y, k, v, ".")
        }} else {{ observe "." ~ a1("b", m, y, k) }}
      }}"""
    assert evidence(deep) == pytest.approx(evidence(plain), abs=1e-12)
    query = plm.loads(source(deep)).lm(**MODELS).using("exact", mass=1.0)
    found, two = query.draw(), 0.0
    for draw in found:
        ages = [draw.values["z.age[0]"], draw.values["z.age[0][0]"]]
        two += draw.weight * (1 in ages and len([a for a in ages if a is not None]) > 1)
    assert found.prob("any(z.age == 1) and len(z) > 1").value == pytest.approx(two, abs=1e-12)


@pytest.mark.parametrize("body", [NAMED, BARE])
def test_questions_predictions_and_views(body: str, tmp_path: Path) -> None:
    query = plm.loads(source(body)).lm(**MODELS).using("exact", mass=1.0)
    found = query.draw()

    def known(value) -> float:
        rows = [[(d.values[f"z.name[{k}]"], d.values[f"z.age[{k}]"]) for k in (0, 1)] for d in found]
        return sum(d.weight * value([r for r in one if r[0]]) for d, one in zip(found, rows, strict=True))

    for text, value in {
        "len(z)": len,
        "sum(z.age) + 3 * len(z)": lambda rows: sum(age + 3 for _, age in rows),
        'if any(z.name == "a," and z.age == 1) then 1 else 0': lambda rows: ("a,", 1) in rows,
        'if item(z.name, 1) == "a," and any(z.age == 0) then 1 else 0': lambda rows: len(rows) > 1
        and rows[1][0] == "a," and 0 in [age for _, age in rows],
        'if len(z) > 1 and item(z.age, 1) == 0 and all(z.name == "a,") then 1 else 0': lambda rows: len(rows) > 1
        and rows[1][1] == 0 and {name for name, _ in rows} == {"a,"},
    }.items():  # fmt: skip
        assert found.expect(text).value == pytest.approx(known(value), abs=1e-9)
    for text in ('item(z, 0) == "a"', 'z.what == "a"'):
        with pytest.raises(CompileError, match="z"):
            found.prob(text)
    second = dict(found.marginal("z.age[1]"))
    assert second[None] == pytest.approx(known(lambda rows: len(rows) < 2))
    assert dict(query.predict("z.age[1]").probs)[1] == pytest.approx(second[1])
    assert {*found.columns()} >= {"z.name[0]", "z.age[0]", "z.name[1]", "z.age[1]"}
    assert "z.name[1]" in found._repr_html_()
    assert plm.Posterior.load(found.save(tmp_path)).to_json() == found.to_json()
    target = query.prepared.bind({})
    for draw in list(found)[:5]:
        row = {
            name: v
            for name, v in draw.values.items()
            if v is not None or name in ("z[1]", "z.name[0]", "z.name[1]")
        }
        values = {name: (v,) for name, v in known_draw(target, 0, row).items()}
        assert target.log_reward(values)[0] == pytest.approx(draw.log_reward, abs=1e-6)
    text = str(query)
    assert plm.loads(text).module == query.module
    renamed = source(body.replace("z:", "people:").replace("name:", "called:"))
    assert fingerprint(source(body)) == fingerprint(renamed)
    assert fingerprint(source(body)) != fingerprint(source(body.replace('"b"', '"a"')))


def test_lists_of_records_stand_in_plates() -> None:
    rows = {"rows": [{"t": "a"}, {"t": "b"}]}
    inside = BARE.replace('a1("b")', "a1(r.t)")
    query = plm.loads(source(f"plate r in rows {{ {inside} }}", "rows: table(t: text)")).lm(**MODELS)
    both = query.given(rows).using("exact", mass=1.0).draw()
    assert [*both.draws.values][:4] == ["z.name[0][0]", "z.age[0][0]", "z.name[0][1]", "z.age[0][1]"]
    assert both.log_evidence == pytest.approx(
        sum(evidence(BARE.replace('a1("b")', f'a1("{t}")')) for t in "ab")
    )


def test_a_product_does_not_share_a_list_of_records() -> None:
    one, other = (plm.loads(source(f"{BARE} {more}")) for more in ("", "factor 0"))
    with pytest.raises(CompileError, match="PLM490"):
        one * other


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (BARE.replace('stop=",", ', ""), "PLM322"),
        (NAMED.replace('"N"', '".N"'), "PLM418"),
        (BARE.replace(NAME, 'one_of("a", ".a")'), "PLM418"),
        (BARE.replace(AGE, "bool"), "PLM351"),
        (BARE.replace(AGE, 'list(int(0..1), 0..1, end="a")'), "PLM351"),
        (BARE.replace("age:", "name:"), "PLM202"),
        (BARE.replace(AGE, "int(1..0)"), "PLM302"),
        ('latent z: list(record("N"), 0..1, end=".") ~ a1()', "PLM322"),
        ('latent z: list(record("N", k), 0..1, end=".") ~ a1()', "PLM322"),
        ('latent z: list(record, 0..1, end=".") ~ a1()', "PLM322"),
        (f'latent z: list(record("N", k: {AGE}), 0..1) ~ a1()', "PLM308"),
        (f'latent z: list(record("N", k: {AGE}), 0..65, end=".") ~ a1()', "PLM302"),
        (f"{BARE} factor z.age", "PLM305"),
        (f"{BARE} let n = z.age", "PLM305"),
        (f"{BARE} plate s in z {{ factor s.what }}", "PLM204"),
        (f"{BARE} factor item(z.what, 0)", "PLM204"),
        (f"{BARE} factor item(z.age, 2)", "PLM302"),
        (f"{BARE} factor words(item(z.age, 1))", "PLM301"),
        (f"{BARE} plate s in z {{ factor s }}", "PLM304"),
        ('latent z: list(int(0..1), 0..1, end=".") ~ a1() plate s in z { factor s.age }', "PLM305"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(body: str, code: str) -> None:
    with pytest.raises(CompileError) as caught:
        plm.loads(source(body))
    assert caught.value.diagnostics[0].code == code


@pytest.mark.parametrize("body", ["condition c == 1", "plate x in c { factor 1 }"])
def test_a_record_is_called_one(body: str) -> None:
    with pytest.raises(CompileError, match="a record"):
        plm.loads(source(f"latent c: record(a: {AGE}) ~ a1() {body}"))
