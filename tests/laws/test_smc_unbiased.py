"""Sequential Monte Carlo is unbiased: every random choice is walked over, and the sums are exact.

With two or three particles on a small table, the tree of all choices (each token of each
particle, the ancestors of each resampling) is small enough to visit whole. What is checked
is the strongest form: for every value v, E[(1/N) Σ w_i 1(x_i = v)] is the reward of v.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from posterior_lm.infer import server_draws
from posterior_lm.infer.base import run
from posterior_lm.infer.draws import Draws
from posterior_lm.infer.guide import PriorGuide
from posterior_lm.infer.particles import SCHEMES
from posterior_lm.infer.smc import Smc
from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.lm.protocol import Drawn, Request, Scores
from posterior_lm.lm.tabular import TabularModel
from posterior_lm.target.target import LatentInfo, Target
from posterior_lm.target.values import Values
from tests.brute import Brute
from tests.strategies import assigned, compiled, masked_table, table

MODEL = table(("a", "b", "."), seed=41, order=2, max_tokens=30)


class Tree:
    """One way through all choices, and the way to the next one."""

    def __init__(self, scheme: str) -> None:
        self.scheme = scheme
        self.path: list[int] = []
        self.sizes: list[int] = []
        self.log_prob = 0.0
        self.resampled = 0

    def pick(self, probs: np.ndarray) -> int:
        """The branch that this way takes; branches of probability zero do not exist."""
        options = np.flatnonzero(probs > 0)
        depth = len(self.sizes)
        if depth == len(self.path):
            self.path.append(0)
        self.sizes.append(len(options))
        chosen = int(options[self.path[depth]])
        self.log_prob += math.log(probs[chosen] / probs.sum())
        return chosen

    def next(self) -> bool:
        while self.path and self.path[-1] + 1 == self.sizes[len(self.path) - 1]:
            self.path.pop()
        if self.path:
            self.path[-1] += 1
        self.sizes, self.log_prob = [], 0.0
        return bool(self.path)

    # What a server that draws by itself asks of chance.

    def generator(self) -> Tree:
        return self

    def along(self, draw: int) -> None:
        return None

    def choice(self, n: int, p: np.ndarray) -> int:
        return self.pick(np.asarray(p))

    # What a swarm asks of chance.

    def tokens(self, draws: np.ndarray, point: np.ndarray, step: int, probs: np.ndarray) -> np.ndarray:
        return np.array([self.pick(probs[u]) for u in point])

    def values(self, draws: np.ndarray, probs: np.ndarray, ids: Sequence[tuple[int, ...]]) -> np.ndarray:
        return np.array([self.pick(probs) for _ in draws])

    def lengths(self, draws: np.ndarray, probs: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
        return np.array([self.pick(probs) for _ in draws])

    def ancestors(self, weights: np.ndarray) -> np.ndarray:
        self.resampled += 1
        return SCHEMES[self.scheme](weights, lambda k: self.uniforms(weights, k))

    def uniforms(self, weights: np.ndarray, k: int) -> np.ndarray:
        """k numbers, each the middle of an interval within which the outcome is the same."""
        n = len(weights)
        edges = np.cumsum(weights)[:-1]
        if self.scheme == "systematic":
            cuts = [np.mod(edges * n, 1)]
        elif self.scheme == "stratified":
            cuts = [np.array([e * n - j for e in edges if j < e * n < j + 1]) for j in range(n)]
        elif self.scheme == "multinomial":
            cuts = [edges] * n
        else:
            left = n * weights - np.floor(n * weights + 1e-9)
            cuts = [np.cumsum(left / left.sum())[:-1]] * k
        assert len(cuts) == k
        return np.array([self.middle(c) for c in cuts])

    def middle(self, cuts: np.ndarray) -> float:
        ends = np.unique(np.r_[0.0, cuts, 1.0])
        widths = np.diff(ends)
        place = self.pick(np.where(widths > 1e-12, widths, 0.0))
        return float(ends[place] + widths[place] / 2)


class Telling:
    """A model that draws one token at a time, and tells of its two likeliest beside it."""

    whole_rows, told = False, 2

    def __init__(self, model: TabularModel) -> None:
        self.model, self.identity, self.tokenizer = model, model.identity, model.tokenizer
        self.max_length, self.packed = model.max_length, False

    def score(self, requests: Sequence[Request]) -> list[Scores]:
        return self.model.score(requests)

    def _drawn(self, token: int, row: np.ndarray) -> Drawn:
        first = np.argsort(-row, kind="stable")[:2].tolist()
        return Drawn(token, float(row[token]), {i: float(row[i]) for i in first})

    def sample(
        self, asked: Sequence[tuple[tuple[int, ...], int]], tokens: int, rng: Tree
    ) -> list[list[list[Drawn]]]:
        rows = [self.model.next_log_probs(ids) for ids, _ in asked]
        return [
            [[self._drawn(rng.pick(np.exp(row)) if server_draws.FEW == 0 else 0, row)] for _ in range(n)]
            for (_, n), row in zip(asked, rows, strict=True)  # a guess does not look at what was drawn
        ]


def outcomes(
    target: Target, n: int, scheme: str, **options: object
) -> Iterator[tuple[float, Draws | None, int]]:
    """Probability, draws (None where all died) and number of resamplings of every way through."""
    tree, total = Tree(scheme), 0.0
    while True:
        tree.resampled = 0
        algorithm = Smc(chance=lambda rng, scheme: tree, **options)  # type: ignore[arg-type, return-value]
        try:
            draws: Draws | None = run(algorithm, target, n=n, rng=np.random.default_rng(0))
        except InferenceError as problem:
            assert problem.diagnostics[0].code in ("PLM702", "PLM710")
            draws = None
        probability = math.exp(tree.log_prob)
        total += probability
        yield probability, draws, tree.resampled
        if not tree.next():
            break
    assert total == pytest.approx(1, abs=1e-9)


def expected(target: Target, n: int, scheme: str, **options: object) -> tuple[dict[tuple, float], int, int]:
    """E[(1/N) Σ w_i 1(x_i = v)] by value, the ways through, and those that resampled."""
    mass: dict[tuple, float] = {}
    ways = moved = 0
    for probability, draws, resampled in outcomes(target, n, scheme, **options):
        ways, moved = ways + 1, moved + bool(resampled)
        if draws is None:
            continue
        assert len(draws) == n
        for d in range(n):
            key = assigned(target, draws.values, d)
            mass[key] = mass.get(key, 0.0) + probability * math.exp(draws.log_weights[d]) / n
    return mass, ways, moved


def check(
    body: str, n: int, scheme: str, *, moves: bool = True, model: object = MODEL, **options: object
) -> None:
    source = f'lm base = "b"\nprogram p() {{ {body} }}'
    target, brute = compiled(source, {}, {"base": model}), Brute(source, {}, {"base": MODEL})
    mass, ways, moved = expected(target, n, scheme, **options)
    exact = {tuple(row.values()): math.exp(brute.log_reward(row)) for row in brute.assignments()}
    assert ways > 8 and bool(moved) is moves
    assert {v for v, p in exact.items() if p > 0} == {v for v, p in mass.items() if p > 0}
    for value, reward in exact.items():
        assert mass.get(value, 0.0) == pytest.approx(reward, rel=1e-9), value


TWO = """latent x: text(tokens=1..1) ~ base("a") observe "b" ~ base("b", x)
         latent z: text(tokens=1..1, end="free") ~ base(x) observe "." ~ base(x, z)"""
BODIES = {
    "two latents": TWO,
    "a stop and a power": 'latent z: text(tokens=1..3, stop=".") ~ base("a") ^ 1.7 observe "b" ~ base(z)',
    "end of text": 'latent z: text(tokens=0..2, chars="ab") ~ base("b") observe "a" ~ base(z)',
    "end of text, then more": """latent z: text(tokens=1..1) ~ base("b") ^ 0.5 factor 0.7 * chars(z)
                                 latent y: text(tokens=1..1, end="free") ~ base(z)""",
    "a mask": 'latent z: text(tokens=2..3, chars="ab", end="free") ~ base("a")',
    "finite": """latent n: one_of("a", "b.", "b") ~ base("b") observe "." ~ base(n)
                 latent z: text(tokens=1..1, end="free") ~ base(n) condition z != n""",
    "negative power": """latent z: text(tokens=1..1, end="free") ~ base() ^ -0.5 observe "a" ~ base(z)
                         latent n: one_of("a", "b") ~ base(z) ^ 2""",
    "conditions": """latent x: text(tokens=2..2, end="free") ~ base() condition x != "ab"
                     condition not contains(x, "ba") condition not starts_with(x, ".")""",
    "tempered": """temper 1.5 { latent x: text(tokens=1..1) ~ base() ^ 0.5 observe x ~ base("a") }
                   latent n: one_of("a", "b") ~ categorical([0.8, 0.2]) observe n ~ base(x)""",
}  # fmt: skip


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_every_value_has_its_reward(body: str) -> None:
    check(body, 2, "systematic", threshold=0.95)


@pytest.mark.parametrize("few_others", [0, server_draws.FEW], ids=["kept or drawn again", "by a guess"])
@pytest.mark.parametrize(
    "body",
    [
        'latent z: text(tokens=1..3, stop=".") ~ base("a") ^ 1.7 observe "b" ~ base(z)',
        'latent z: text(tokens=1..2, chars="ab") ~ base("b") observe "a" ~ base(z)',
    ],
)
def test_where_a_server_draws(body: str, few_others: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A draw that leaves its type dies, and what is guessed on the way is taken back."""
    monkeypatch.setattr(server_draws, "FEW", few_others)
    check(body, 2, "systematic", threshold=0.95, model=Telling(MODEL), moves=few_others == 0 or "1.7" in body)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_with_every_scheme(scheme: str) -> None:
    check(TWO.replace('"a")', '"b", "a")'), 2, scheme, threshold=0.99)


def test_with_three_particles() -> None:
    body = """latent n: one_of("a", "b.") ~ base("b") observe "." ~ base(n)
              latent m: one_of("a", "b") ~ base(n) observe "b" ~ base(m)"""
    for scheme in ("systematic", "residual"):
        check(body, 3, scheme, threshold=0.99)


def test_without_resampling_it_is_importance_sampling() -> None:
    check(TWO, 2, "systematic", threshold=0.0, moves=False)


def test_with_a_look_ahead() -> None:
    body = 'latent z: text(tokens=1..3, stop=".") ~ base("a") observe ["b", "b"] ~ base(z)'
    check(body, 2, "systematic", threshold=0.9, look_ahead=0.8)
    check(TWO, 2, "stratified", threshold=0.9, look_ahead=1.0)


def test_with_any_twist() -> None:
    """A twist that is wrong about everything changes the spread, not the expectation."""

    def wild(
        info: LatentInfo, prefixes: Sequence[tuple[int, ...]], ended: np.ndarray, earlier: Values
    ) -> np.ndarray:
        return np.array(
            [2.5 * p.count(1) - 1.5 * p[0] + done for p, done in zip(prefixes, ended, strict=True)]
        )

    check(
        'latent z: text(tokens=1..2, end="free") ~ base("a") factor -chars(z)',
        2,
        "systematic",
        threshold=0.9,
        twists=(wild,),
    )


@pytest.mark.parametrize(
    "body",
    (
        TWO + ' guide x ~ base("b", "b") guide z ~ base("a")',
        TWO + ' guide x ~ d(x, "b") guide z ~ d("b", x, z)',
        TWO.replace("z: text(tokens=1..1", "z: text(tokens=0..1") + ' guide z ~ d("b", x, z)',
    ),
)
def test_the_guides_own_probabilities_are_weighed(body: str) -> None:
    source = f'lm base = "b"\nlm d = masked("d")\nprogram p() {{ {body} }}'
    models = {"base": MODEL, "d": masked_table(MODEL, seed=3, longest=4)}
    target, brute = compiled(source, {}, models), Brute(source, {}, models)
    mass: dict[tuple, float] = {}
    tree = Tree("systematic")
    algorithm = Smc(chance=lambda rng, scheme: tree, threshold=0.95)  # type: ignore[arg-type, return-value]
    guide, moved = PriorGuide(target, reads="guide"), 0
    while True:
        draws = run(algorithm, target, n=2, rng=np.random.default_rng(0), guide=guide)
        for d in range(2):
            key = assigned(target, draws.values, d)
            mass[key] = mass.get(key, 0.0) + math.exp(tree.log_prob + draws.log_weights[d]) / 2
        moved += bool(draws.particles is not None and draws.particles.resampled)
        if not tree.next():
            break
    assert moved
    for row in brute.assignments():
        assert mass[tuple(row.values())] == pytest.approx(math.exp(brute.log_reward(row)), rel=1e-9)


def test_the_variance_of_the_evidence_is_unbiased_too() -> None:
    """E[Ẑ² V] = Var[Ẑ] for multinomial resampling before every choice (Lee and Whiteley 2018, theorem 1)."""
    body = """latent n: one_of("a", "b.") ~ base("b") observe "." ~ base(n)
              latent m: one_of("a", "b") ~ base(n) observe "b" ~ base(m)"""
    target = compiled(f'lm base = "b"\nprogram p() {{ {body} }}', {}, {"base": MODEL})
    first = second = estimate = 0.0
    for probability, draws, resampled in outcomes(target, 2, "multinomial", threshold=2.0):
        assert draws is not None and draws.particles is not None and resampled == draws.particles.resampled
        z = math.exp(draws.log_evidence or 0.0)
        first, second = first + probability * z, second + probability * z**2
        estimate += probability * z**2 * draws.particles.variance
    assert estimate == pytest.approx(second - first**2, rel=1e-6)
