"""A plate of n rows is n copies of its body, nested or tempered, with latents of its own or without."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posterior_lm.target.target import Target
from tests.brute import Brute
from tests.strategies import compiled, fingerprint, table, values_of

MODEL = table(("a", "b", " ", "ab", "0", "1", "2"), seed=12, order=2, max_tokens=30)
ROW = st.fixed_dictionaries(
    {"t": st.sampled_from(("", "a", "ab", "b a")), "n": st.integers(0, 2), "w": st.sampled_from((0.5, 2.0)),
     "o": st.sampled_from(("a", "ab")), "f": st.booleans()}
)  # fmt: skip
ROWS = st.lists(ROW, max_size=3)
TABLE = 'table(t: text, n: int(0..2), w: real, o: one_of("a", "ab"), f: bool)'

BODIES = [
    'observe r.t ~ base(z, r.n)',
    'observe ["a", r.t] ~ base(r.t, "b", z) ^ r.w',
    'factor -r.w * count(z, "a") condition r.f or not contains(z, "b")',
    'temper r.w { observe r.t ~ base(z) ^ 2 condition chars(z) < 3 factor r.n }',
    'latent y: text(tokens=1..2) ~ base(z, r.t) observe [r.t, y] ~ base(y, z)',
    'latent y: text(tokens=1..2, stop="b") ~ base(r.t) ^ r.w let s = [y, r.t] observe s ~ base(s)',
    'latent y: one_of("a", "b") ~ choice(base(z, r.t)) latent x: int(0..2) ~ binomial(2, r.w / 2) observe [x] ~ base(y)',
    'observe r.o ~ choice(base(z)) observe r.n ~ uniform() observe r.n ~ choice(base(r.o))',
    'latent y: text(tokens=0..1, end="free") ~ base(z) factor if r.f then log_prob(y, base(r.t)) else chars(y)',
]  # fmt: skip


def shown(value: object) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    return str(value).lower() if isinstance(value, bool) else f"({value})"


def unrolled(body: str, rows: list[dict]) -> str:
    """The body once per row: columns as literals, names of the row's own with the row's number."""
    copies = []
    for i, row in enumerate(rows):
        # `choice`, `uniform()` and such look up a declared type, so typed columns become parameters.
        copy = re.sub(r"observe r\.(o|n) ~ (choice|uniform)", rf"observe \g<1>{i} ~ \g<2>", body)
        copy = re.sub(r"\br\.(\w)", lambda m, row=row: shown(row[m[1]]), copy)
        copies.append(re.sub(r"\b(y|x|s)\b", rf"\g<1>{i}", copy))
    return " ".join(copies)


def both(body: str, rows: list[dict], temper: str) -> tuple[Target, Target]:
    params = ", ".join(f'o{i}: one_of("a", "ab"), n{i}: int(0..2)' for i in range(len(rows)))
    data = {k: v for i, row in enumerate(rows) for k, v in ((f"o{i}", row["o"]), (f"n{i}", row["n"]))}

    def program(params: str, inner: str) -> str:
        inner = f"{temper} {{ {inner} }}" if temper and inner else inner
        return f'lm base = "b"\nprogram p({params}) {{ latent z: text(tokens=1..2) ~ base() {inner} }}'

    plate = program(f"rows: {TABLE}", f"plate r in rows {{ {body} }}")
    copies = program(params, unrolled(body, rows))
    return compiled(plate, {"rows": rows}, {"base": MODEL}), compiled(copies, data, {"base": MODEL})


def some_values(target: Target, rng: np.random.Generator, n: int = 4) -> list[dict]:
    def one(name: str):
        support = target.latent(name).support
        if hasattr(support, "ids_of"):
            values = [support.datum(ids) for ids in support.values()]
            return values[rng.integers(len(values))]
        return tuple(rng.integers(0, 7, size=rng.integers(0, 3)).tolist())

    return [{name: one(name) for name in target.names} for _ in range(n)]


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("temper", ("", "temper 1.5"))
@settings(max_examples=6)
@given(rows=ROWS, seed=st.integers(0, 99))
def test_a_plate_is_as_many_copies(body: str, temper: str, rows: list[dict], seed: int) -> None:
    plate, copies = both(body, rows, temper)
    values = some_values(plate, np.random.default_rng(seed))
    flat = [{re.sub(r"\[(\d)\]", r"\1", name): ids for name, ids in row.items()} for row in values]
    assert sorted(flat[0]) == sorted(copies.names)
    got, wanted = plate.terms(values_of(plate, values)), copies.terms(values_of(copies, flat))
    assert got.shape[1] == len(re.findall(r"observe|factor|condition|latent", body)) + 1
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(got.sum(axis=1), wanted.sum(axis=1), rtol=1e-9, atol=1e-9)
    for k in range(1, got.shape[1]):  # one term per statement: the sum over its copies
        np.testing.assert_allclose(
            got[:, k], wanted[:, k :: got.shape[1] - 1].sum(axis=1) if rows else 0.0, rtol=1e-9, atol=1e-9
        )


@settings(max_examples=12)
@given(st.lists(ROW, max_size=2), st.lists(ROW, max_size=2), st.integers(0, 99))
def test_nested_plates_go_over_pairs(first: list[dict], second: list[dict], seed: int) -> None:
    source = f"""lm base = "b"
    program p(rows: {TABLE}, more: {TABLE}) {{
      latent z: text(tokens=1..2) ~ base()
      plate r in rows {{
        latent y: text(tokens=1..2) ~ base(z, r.t)
        temper r.w {{ plate s in more {{
          latent x: one_of("a", "b") ~ base(y, s.t) ^ s.w
          observe [r.t, s.t, x] ~ base(y, r.n, s.n)
          condition s.f or x == "a"
        }} }}
      }}
    }}"""
    target = compiled(source, {"rows": first, "more": second}, {"base": MODEL})
    ys = [f"y[{i}]" for i in range(len(first))]
    xs = [f"x[{i}][{j}]" for i in range(len(first)) for j in range(len(second))]
    assert list(target.names) == ["z", *ys, *xs]
    brute = Brute(source, {"rows": first, "more": second}, {"base": MODEL})
    rows = some_values(target, np.random.default_rng(seed))
    np.testing.assert_allclose(
        target.terms(values_of(target, rows)), [brute.terms(r) for r in rows], rtol=1e-9, atol=1e-9
    )


def test_the_same_table_twice_and_inside_itself() -> None:
    rows = [{"t": "a"}, {"t": "b"}, {"t": "a"}]
    source = """lm base = "b"
    program p(rows: table(t: text)) {
      latent z: text(tokens=1..1) ~ base()
      plate r in rows { plate s in rows { observe [r.t, s.t] ~ base(z, s.t) } }
      plate r in rows { observe r.t ~ base(z) }
    }"""
    target = compiled(source, {"rows": rows}, {"base": MODEL})
    brute = Brute(source, {"rows": rows}, {"base": MODEL})
    assignments = [{"z": (i,)} for i in range(3)]
    got = target.terms(values_of(target, assignments))
    np.testing.assert_allclose(got, [brute.terms(a) for a in assignments], rtol=1e-12)


def test_equal_rows_count_each() -> None:
    source = 'lm base = "b"\nprogram p(rows: table(t: text)) { latent z: text(tokens=1..1) ~ base() plate r in rows { observe r.t ~ base(z) } }'
    one, three = (compiled(source, {"rows": [{"t": "ab"}] * n}, {"base": MODEL}) for n in (1, 3))
    values = values_of(one, [{"z": (0,)}, {"z": (1,)}])
    np.testing.assert_allclose(three.terms(values)[:, 1], 3 * one.terms(values)[:, 1])


def test_rows_are_summed_in_any_order() -> None:
    source = 'lm base = "b"\nprogram p(rows: table(t: text)) { latent z: text(tokens=1..1) ~ base() plate r in rows { observe r.t ~ base(z) } }'
    found = []
    for order in itertools.permutations(("a", "ab", "b a")):
        target = compiled(source, {"rows": [{"t": t} for t in order]}, {"base": MODEL})
        found.append(target.log_reward(values_of(target, [{"z": (0,)}, {"z": (2,)}])))
    np.testing.assert_allclose(found, [found[0]] * 6, rtol=1e-12)


def test_row_names_and_what_is_local_do_not_count() -> None:
    source = """lm base = "b"
    program p(rows: table(t: text)) {{
      plate {r} in rows {{ latent {y}: text(tokens=1..1) ~ base({r}.t) let {s} = [{y}, "a"] observe {s} ~ base() }}
      plate {r2} in rows {{ observe {r2}.t ~ base() }}
    }}"""
    a = fingerprint(source.format(r="r", y="y", s="s", r2="r"))
    b = fingerprint(source.format(r="row", y="inner", s="text_", r2="other"))
    assert a == b != fingerprint(source.format(r="r", y="y", s="s", r2="r").replace("[y,", "[r.t,"))
