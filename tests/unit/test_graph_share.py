"""Which scores ride on which: prefixes whose boundaries no tokenizer can blur."""

from __future__ import annotations

import pytest

from posterior_lm.graph import optimize
from posterior_lm.graph.nodes import LmScore
from tests.strategies import compiled, graph_of, table, values_of

START = 'lm base = "b"\nlm other = "o"\nprogram p(q: text, q2: text) { latent z: text(tokens=1..2, stop=".") ~ base() '


def rides(statements: str) -> list[tuple[str, str]]:
    """(rider, host) by the text of their distributions."""
    graph = optimize(graph_of(f"{START}{statements} }}"))
    found = [(n.span.text, graph[n.rides].span.text) for n in graph.nodes.values()
             if isinstance(n, LmScore) and n.rides is not None]  # fmt: skip
    return sorted(pair for pair in found if pair[0] != "base()")


CASES = [
    # A latent's own score, and an observation after the same context.
    ("observe z ~ base(q) observe q2 ~ base(q, z)", [("base(q)", "base(q, z)")]),
    ("observe z ~ base(q) observe q2 ~ base(q, z, q2)", [("base(q)", "base(q, z, q2)")]),
    # The longest host is taken, and a host does not ride.
    ("observe z ~ base(q) observe q2 ~ base(q, z) observe q ~ base(q, z, q2, z)",
     [("base(q)", "base(q, z, q2, z)"), ("base(q, z)", "base(q, z, q2, z)")]),
    # A known text that ends a rider is cut from its known neighbour where a latent follows, or nothing.
    ("observe q2 ~ base(q, z) observe q ~ base(q, z, q2, z)", [("base(q, z)", "base(q, z, q2, z)")]),
    ("observe q2 ~ base(q, z) observe q ~ base(q, z, q2)", [("base(q, z)", "base(q, z, q2)")]),
    # Known texts that would be joined: the tokens before the boundary may differ.
    ("observe q2 ~ base(q) observe z ~ base(q, q2)", []),
    ("observe q2 ~ base(q, z) observe q ~ base(q, z, q2, q)", []),
    # Another model, another order, another text.
    ("observe z ~ other(q) observe q2 ~ base(q, z)", []),
    ("observe z ~ base(q) observe q2 ~ base(z, q)", []),
    ("observe z ~ base(q) observe z ~ base(q2, z)", []),
    ("observe [z, z] ~ base(q) observe q2 ~ base(q, z)", []),
]  # fmt: skip


@pytest.mark.parametrize(("statements", "wanted"), CASES)
def test_riders(statements: str, wanted: list[tuple[str, str]]) -> None:
    assert rides(statements) == sorted(wanted)


def test_a_rider_whose_tokens_differ_is_scored_by_itself() -> None:
    """`z` ends with "a", the next text begins with "b", and the table has a token "ab"; nothing is joined."""
    model = table(("a", "b", ".", "ab", ".b"), seed=3, order=2, max_tokens=12)
    body = 'latent z: text(tokens=1..2, stop=".") ~ base("a") observe "b" ~ base("a", z) observe "a" ~ base("a", z, "b")'
    together = compiled(f'lm base = "b"\nprogram p() {{ {body} }}', {}, {"base": model})
    assert any(isinstance(n, LmScore) and n.rides is not None for n in together.graph.nodes.values())
    rows = [{"z": (0, 2)}, {"z": (2,)}, {"z": (3, 2)}]
    got = together.terms(values_of(together, rows))
    for d, row in enumerate(rows):
        z = row["z"]

        def log_p(context: tuple[int, ...], ids: tuple[int, ...]) -> float:
            return sum(float(model.next_log_probs(context + ids[:t])[ids[t]]) for t in range(len(ids)))

        assert got[d] == pytest.approx(
            [log_p((0,), z), log_p((0, *z), (1,)), log_p((0, *z, 1), (0,))], abs=1e-12
        )


class Counting:
    """A model that counts the requests it is asked."""

    def __init__(self, model) -> None:
        self.model, self.asked = model, []

    def __getattr__(self, name: str):
        return getattr(self.model, name)

    def score(self, requests):
        self.asked += list(requests)
        return self.model.score(requests)


def test_a_ride_saves_a_request_and_equal_requests_are_sent_once() -> None:
    model = Counting(table(("a", "b", "."), seed=3, order=1, max_tokens=12))
    body = 'latent z: text(tokens=1..2, stop=".") ~ base("a") observe "b" ~ base("a", z)'
    target = compiled(f'lm base = "b"\nprogram p() {{ {body} }}', {}, {"base": model})
    target.log_reward(values_of(target, [{"z": (2,)}, {"z": (0, 2)}, {"z": (2,)}]))
    assert len(model.asked) == 2  # one for each distinct draw, none for the prior


def test_what_no_latent_changes_is_asked_once() -> None:
    model = Counting(table(("a", "b", "."), seed=3, order=1, max_tokens=12))
    source = (
        'lm base = "b"\nprogram p(q: text) { latent z: text(tokens=1..1) ~ base() observe q ~ base("a") }'
    )
    target = compiled(source, {"q": "ab"}, {"base": model})
    before = len(model.asked)
    for _ in range(3):
        target.log_reward(values_of(target, [{"z": (0,)}]))
    assert before == 1 and all(r.ids == (2 + 1, 0) for r in model.asked[before:])
