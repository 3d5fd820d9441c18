"""`list(T, a..b, depth=d, end="…")`: lists in lists, against sequences of tokens written out level by level."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from attrs import field, frozen

import posterior_lm as plm
from posterior_lm.infer.base import run
from posterior_lm.infer.draws import Draws
from posterior_lm.lang.diagnostics import CompileError
from tests.brute import log_sum
from tests.strategies import compiled, fingerprint, table
from tests.unit.test_lists import ALGORITHMS, log_prob
from tests.unit.test_put_together import source

T = table(("a", "b", "."), seed=3, order=2, max_tokens=24)
MODELS = {"a1": T, "b1": T}
DEEP = 'latent z: list(one_of("a", "b"), 0..2, depth=2, end=".") ~ a1("b")'
Path = tuple[int, ...]


@frozen
class Nested:
    """A list: what stands at each path in order, the end as None, its tokens, and the items alone."""

    at: dict[Path, str | None] = field(factory=dict)
    ids: tuple[int, ...] = ()

    @property
    def items(self) -> dict[Path, str]:
        return {path: item for path, item in self.at.items() if item is not None}


def nested(depth: int, low: int = 0, high: int = 2, above: Path = ()) -> Iterator[Nested]:
    """Every list of so many items, each followed by a list of its own while there is depth."""
    token = {name: T.tokenizer.encode(name) for name in ("a", "b", ".")}

    def grow(k: int, so_far: Nested) -> Iterator[Nested]:
        if k == high:
            yield Nested(so_far.at, so_far.ids + token["."])
            return
        if k >= low:
            yield Nested({**so_far.at, (*above, k): None}, so_far.ids + token["."])
        for item in "ab":
            grown = Nested({**so_far.at, (*above, k): item}, so_far.ids + token[item])
            below = nested(depth - 1, low, high, (*above, k)) if depth > 1 else [Nested()]
            for one in below:
                yield from grow(k + 1, Nested({**grown.at, **one.at}, grown.ids + one.ids))

    yield from grow(0, Nested())


def wanted(
    reward: Callable[[dict[Path, str]], float], power: float = 1.0, **shape: int
) -> tuple[dict[frozenset, float], float]:
    start = T.tokenizer.encode("b")
    every = list(nested(**{"depth": 2, **shape}))
    logs = [power * log_prob(T, start, one.ids) + reward(one.items) for one in every]
    whole = log_sum(logs)
    return {
        frozenset(o.at.items()): float(np.exp(x - whole)) for o, x in zip(every, logs, strict=True)
    }, whole


def shares(draws: Draws) -> dict[frozenset, float]:
    weights = np.exp(draws.log_weights - np.logaddexp.reduce(draws.log_weights))
    found: dict[frozenset, float] = {}
    for d, weight in enumerate(weights):
        there = {name: column[d] for name, column in draws.values.items() if column[d].ids}
        paths = {tuple(int(k) for k in name[2:-1].split("][")): one.datum for name, one in there.items()}
        key = frozenset(paths.items())
        found[key] = found.get(key, 0.0) + float(weight)
    return found


def above(path: Path, items: dict[Path, str], value: Callable[[str], int], first: int) -> int:
    return value(items[path[:-1]]) if len(path) > 1 else first


BODIES: dict[str, tuple[str, Callable[[dict[Path, str]], float]]] = {
    "its tokens": (DEEP, lambda items: 0.0),
    "what is above": (
        f"""{DEEP}
        plate n in z {{
          let a = if n == "a" then 1 else 0
          let run = 2 * parent(run, 1) + a
          factor 0.2 * run - 0.3 * parent(a, 2) * a
        }}
        factor 0.1 * last(run, 0)""",
        lambda items: sum(0.2 * runs(p, items) - 0.3 * above(p, items, is_a, 2) * is_a(items[p]) for p in items)
        + 0.1 * (runs(list(items)[-1], items) if items else 0),
    ),
    "what is beside": (
        f"""{DEEP}
        plate n in z {{ factor if previous(n, "b") == n then 0.6 else -0.1 }}
        factor 0.3 * len(z) condition len(z) < 5
        factor if contains(join(n, "-"), "a-b") then 0.5 else 0
        factor if item(z, 1) == "a" then 0.4 else 0""",
        lambda items: -np.inf if len(items) > 4 else
        sum(0.6 if before(p, items) == items[p] else -0.1 for p in items) + 0.3 * len(items)
        + 0.5 * ("a-b" in "-".join(items.values())) + 0.4 * (items.get((1,)) == "a"),
    ),
}  # fmt: skip


def is_a(item: str) -> int:
    return int(item == "a")


def runs(path: Path, items: dict[Path, str]) -> int:
    return 2 * (runs(path[:-1], items) if len(path) > 1 else 1) + is_a(items[path])


def before(path: Path, items: dict[Path, str]) -> str:
    return items[(*path[:-1], path[-1] - 1)] if path[-1] else "b"


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("method", ALGORITHMS)
def test_every_method_finds_the_posterior(method: str, name: str) -> None:
    body, reward = BODIES[name]
    probs, whole = wanted(reward)
    found = run(
        ALGORITHMS[method], compiled(source(body), {}, MODELS), n=12000 if method == "mcmc" else 2000,
        rng=np.random.default_rng(3),
    )  # fmt: skip
    got = shares(found)
    apart = 0.5 * sum(abs(got.get(k, 0.0) - probs.get(k, 0.0)) for k in {*got, *probs})
    assert apart < (1e-12 if method == "exact" else 0.15)
    if method != "mcmc":
        assert found.log_evidence == pytest.approx(whole, abs=1e-9 if method == "exact" else 0.2)


@pytest.mark.parametrize(("low", "high", "depth", "power"), [(1, 2, 2, 1.0), (1, 1, 3, 0.7), (0, 1, 4, 1.3)])
def test_the_evidence_is_the_sum_of_all_sequences(low: int, high: int, depth: int, power: float) -> None:
    """Where an item certainly stands if the one above does, and where every list is one item long."""
    body = f'latent z: list(one_of("a", "b"), {low}..{high}, depth={depth}, end=".") ~ a1("b") ^ {power} factor 0.2 * len(z)'
    _, whole = wanted(lambda items: 0.2 * len(items), power, low=low, high=high, depth=depth)
    found = plm.loads(source(body)).lm(**MODELS).using("exact", mass=1.0).draw()
    assert found.log_evidence == pytest.approx(whole, abs=1e-9)


def test_texts_below_texts_are_read_with_what_stands_between() -> None:
    """A list of texts in one of each depth is the chain of texts and ends that it spells."""
    item = 'text(tokens=1..2, stop=".")'
    body = f'latent z: list({item}, 1..1, depth=2, end="b") ~ a1("b")'
    plain = f"""latent x: {item} ~ a1("b") latent y: {item} ~ a1("b", x)
                condition not starts_with(x, "b") and not starts_with(y, "b")
                observe "b" ~ a1("b", x, y) observe "b" ~ a1("b", x, y, "b")"""
    found, spelled = (
        plm.loads(source(b)).lm(**MODELS).using("exact", mass=1.0).draw() for b in (body, plain)
    )
    assert found.log_evidence == pytest.approx(spelled.log_evidence, abs=1e-12)


def test_draws_are_asked_about_lists_in_lists() -> None:
    query = plm.loads(source(DEEP)).lm(**MODELS).using("exact", mass=1.0)
    found, (probs, _) = query.draw(), wanted(lambda items: 0.0)
    sizes = {key: sum(item is not None for _, item in key) for key in probs}
    assert found.expect("len(z)").value == pytest.approx(
        sum(p * sizes[k] for k, p in probs.items()), abs=1e-9
    )
    below = sum(p for key, p in probs.items() if ((0, 1), "a") in key)
    assert dict(found.marginal("z[0][1]"))["a"] == pytest.approx(below, abs=1e-12)
    assert dict(query.predict("z[0][1]").probs)["a"] == pytest.approx(below)
    both = {k: [item for _, item in key if item is not None] for k, key in enumerate(probs)}
    shares = [p for p in probs.values()]
    some = sum(p for k, p in enumerate(shares) if "a" in both[k] and len(both[k]) > 2)
    assert found.prob('any(z == "a") and len(z) > 2').value == pytest.approx(some, abs=1e-9)
    assert found.prob('all(z == "a")').value == pytest.approx(
        sum(p for k, p in enumerate(shares) if {*both[k]} <= {"a"}), abs=1e-9
    )


def test_a_depth_of_one_is_a_list_and_text_round_trips() -> None:
    flat = source(DEEP.replace(", depth=2", ""))
    assert fingerprint(flat) == fingerprint(source(DEEP.replace("depth=2", "depth=1")))
    assert fingerprint(flat) != fingerprint(source(DEEP))
    query = plm.loads(source(BODIES["what is above"][0]))
    assert plm.loads(str(query)).fingerprint == query.fingerprint


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (DEEP.replace("depth=2", "depth=6"), "PLM302"),
        (DEEP.replace("depth=2", "depth=0"), "PLM309"),
        (DEEP.replace("depth=2", "depth=n"), "PLM309"),
        (f"{DEEP.replace(', depth=2', '')} plate n in z {{ factor parent(chars(n), 0) }}", "PLM425"),
        (f"{DEEP} factor parent(1, 0)", "PLM414"),
        (f'{DEEP} plate n in z {{ factor if parent(n, 0) == "a" then 1 else 0 }}', "PLM319"),
    ],
)
def test_what_is_wrong_is_said(body: str, code: str) -> None:
    with pytest.raises(CompileError) as caught:
        plm.loads(source(body))
    assert caught.value.diagnostics[0].code == code
