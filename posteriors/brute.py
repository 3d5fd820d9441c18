"""Every target a second time: log rewards written out by hand and summed, over plain tables and plain transformers.

    python -m posteriors.brute [CLASS/NAME …] [--models FOLDER]

compares what these sums give with what is stored, and ends with 1 where they differ. Nothing of
posterior_lm is imported here or in the files `densities.py`, one for each class of targets, so that a
mistake in the language, a support or an evaluator cannot hide in both.

A density is a function named after its target. It takes the row and the opener of models, and
yields (values, log reward) for every value with a positive reward: `values` as texts and whole numbers
in the order of the latents, log rewards in nats. Texts with several spellings come several times.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
TINY = FOLDER.parent / "posterior_lm" / "lm" / "tiny" / "weights"
LN0 = -math.inf
EOS, BOS = "<eos>", "<bos>"
EXACT, FLOAT32, ROUNDED = 1e-9, 1e-5, 2e-7
"""Nats that two sums may differ by: of tables, in float64, and of models that compute in float32; and what that rounds a long sum by,
on one processor otherwise than on another, as a part of it."""

Tokens = tuple
Row = Mapping[str, object]
Values = tuple
Density = Callable[..., Iterable[tuple[Values, float]]]


def ln(p: float) -> float:
    return math.log(p) if p > 0 else LN0


def log_sum(logs: Iterable[float]) -> float:
    logs = list(logs)
    top = max(logs, default=LN0)
    return top if top == LN0 else top + math.log(math.fsum(math.exp(x - top) for x in logs))


def power(b: float, log_p: float) -> float:
    """b · log p; what is impossible stays so."""
    return LN0 if log_p == LN0 else b * log_p


def binomial(n: int, p: float, k: int) -> float:
    return ln(math.comb(n, k) * p**k * (1 - p) ** (n - k)) if 0 <= k <= n else LN0


def poisson(rate: float, k: int) -> float:
    return k * math.log(rate) - rate - math.lgamma(k + 1)


def geometric(p: float, k: int) -> float:
    return math.log(p) + k * math.log(1 - p)


# ------------------------------------------------------------------------------- models


class Model:
    """What tables and transformers have in common. A text is spelled; a tuple is tokens already."""

    start: Tokens
    eos: object
    known: tuple
    """Every token that may stand in a text."""

    def encode(self, text: str, *, first: bool = False) -> Tokens:
        raise NotImplementedError

    def text(self, tokens: Tokens) -> str:
        raise NotImplementedError

    def next(self, context: Tokens) -> Mapping[object, float]:
        """Log probability of each token that may follow, end-of-text among them."""
        raise NotImplementedError

    def after(self, *parts: str | Tokens) -> Tokens:
        """A context of known texts and of tokens that were drawn; an empty one is end-of-text."""
        tokens = self.start
        for k, part in enumerate(parts):
            tokens += self.encode(part, first=k == 0) if isinstance(part, str) else part
        return tokens or (self.eos,)

    def score(self, context: Tokens, value: str | Tokens, *, ends: bool = False) -> float:
        """Log probability of a text, or of drawn tokens, after a context; with `ends`, of end-of-text behind it too."""
        total = 0.0
        for token in (self.encode(value) if isinstance(value, str) else value) + (self.eos,) * ends:
            total += self.next(context).get(token, LN0)
            if total == LN0:
                return LN0
            context += (token,)
        return total

    def texts(
        self, context: Tokens, low: int, high: int, *, stop: str = "", free: bool = False, chars: str = "",
    ) -> Iterator[tuple[Tokens, float]]:  # fmt: skip
        """Every value of `text(tokens=low..high, …)` with its log probability.

        With a `stop` it is the shortest one whose text ends so, and no token goes past it; without, end-of-text
        is scored behind it, unless it is `free`.
        """
        usable = [t for t in self.known if not chars or set(self.text((t,))) <= set(chars + stop)]

        def walk(tokens: Tokens, text: str, total: float) -> Iterator[tuple[Tokens, float]]:
            if stop and stop in text:
                if len(tokens) >= low and text.index(stop) == len(text) - len(stop):
                    yield tokens, total
                return
            needed = len(tokens) < high or not (stop or free)
            here = self.next(context + tokens) if needed else {}
            if len(tokens) >= low and not stop:
                end = 0.0 if free else here.get(self.eos, LN0)
                if end > LN0:
                    yield tokens, total + end
            if len(tokens) < high:
                for token in usable:
                    if here.get(token, LN0) > LN0:
                        yield from walk((*tokens, token), text + self.text((token,)), total + here[token])

        return walk((), "", 0.0)

    def spellings(self, text: str, low: int, high: int) -> Iterator[Tokens]:
        """Every way to write a text with low to high tokens."""
        parts = [(t, self.text((t,))) for t in self.known if self.text((t,)) in text]
        fewest = [0] * (len(text) + 1)
        for i in reversed(range(len(text))):
            fewest[i] = 1 + min((fewest[i + len(p)] for _, p in parts if text.startswith(p, i)), default=high)

        def walk(tokens: Tokens, i: int) -> Iterator[Tokens]:
            if i == len(text) and len(tokens) >= low:
                yield tokens
            if i < len(text) and len(tokens) + fewest[i] <= high:
                for token, part in parts:
                    if text.startswith(part, i):
                        yield from walk((*tokens, token), i + len(part))

        return walk((), 0)

    def written(
        self, texts: Iterable[str], context: Tokens, low: int, high: int, *, ends: bool = False
    ) -> Iterator[tuple[Tokens, float]]:
        """The spellings of some texts, each with its log probability where that is above −∞."""
        for text in texts:
            for tokens in self.spellings(text, low, high):
                if (total := self.score(context, tokens, ends=ends)) > LN0:
                    yield tokens, total


class Table(Model):
    """A table of `tables/`, read without any check; tokens are their texts."""

    def __init__(self, name: str) -> None:
        raw = json.loads((FOLDER / "tables" / f"{name}.json").read_text(encoding="utf-8"))
        self.known, self.most, self.order = tuple(raw["tokens"]), raw["max_tokens"], raw.get("order", 0)
        self.start, self.eos = (BOS,) * raw.get("bos", False), EOS
        rows = {(key,) if key else (): row for key, row in raw.get("rows", {}).items()}
        rows |= {tuple(one["after"]): one["next"] for one in raw.get("contexts", ())}
        self.rows = {
            c: {t: math.log(p / math.fsum(r.values())) for t, p in r.items() if p} for c, r in rows.items()
        }

    def encode(self, text: str, *, first: bool = False) -> Tokens:
        """The fewest tokens; of those the one whose first tokens are longest."""
        found = list(self.spellings(text, 0, len(text)))
        return min(found, key=lambda tokens: (len(tokens), [-len(t) for t in tokens]))

    def text(self, tokens: Tokens) -> str:
        return "".join(tokens)

    def next(self, context: Tokens) -> Mapping[object, float]:
        if len(context) - (context[:1] in ((EOS,), (BOS,))) >= self.most:
            return {EOS: 0.0}
        last = context[max(0, len(context) - self.order) :]
        while last not in self.rows:
            last = last[1:]
        return self.rows[last]


class Neural(Model):
    """A folder of transformers, on the CPU in float32; tokens are their ids, and texts plain ones in their known pieces."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.torch = torch
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.dummy = self.tokenizer.convert_ids_to_tokens(self.tokenizer("a").input_ids)[-1] == "▁a"
        """Whether a space is put in front of a text that begins a sequence."""
        self.start, self.eos = (self.tokenizer.bos_token_id,), self.tokenizer.eos_token_id
        special = set(self.tokenizer.all_special_ids)
        pieces = self.tokenizer.convert_ids_to_tokens(list(range(len(self.tokenizer))))
        # Pieces of bytes are written <0x0A> or with letters that stand for bytes; no target's texts need them.
        plain = {k: p.replace("▁", " ").replace("Ġ", " ") for k, p in enumerate(pieces) if k not in special}
        self.pieces = {k: p for k, p in plain.items() if p.isascii() and not p.startswith("<0x")}
        self.known, self.seen = tuple(self.pieces), {}

    def encode(self, text: str, *, first: bool = False) -> Tokens:
        """As the tokenizer spells it, without its begin-of-text; a dummy space only where a sequence begins."""
        if self.dummy and not first and text:
            assert text[0] == " ", "only after a dummy space can one see how the rest is spelled"
            text = text[1:]
        ids = self.tokenizer(text, add_special_tokens=False).input_ids
        return tuple(ids) if text else ()

    def text(self, tokens: Tokens) -> str:
        return "".join(self.pieces[t] for t in tokens)

    def next(self, context: Tokens) -> Mapping[object, float]:
        if context not in self.seen:
            self.seen[context] = dict(enumerate(self._logs(context)[-1].tolist()))
        return self.seen[context]

    def score(self, context: Tokens, value: str | Tokens, *, ends: bool = False) -> float:
        tokens = (self.encode(value) if isinstance(value, str) else value) + (self.eos,) * ends
        logs = self._logs(context + tokens)[len(context) - 1 : -1]
        return math.fsum(logs[range(len(tokens)), tokens].tolist())

    def _logs(self, ids: Tokens):
        """(T, V) log-probs after each token, nats."""
        with self.torch.no_grad():
            return self.model(self.torch.tensor([ids])).logits[0].double().log_softmax(-1)


@cache
def opened(name: str, models: Path | None = None) -> Model:
    """A table by its name; `tiny`; or a folder of `models`. Raises LookupError where that is absent."""
    if (FOLDER / "tables" / f"{name}.json").exists():
        return Table(name)
    folder = TINY if name == "tiny" else (models or FOLDER) / name
    if not (folder / "config.json").exists():
        raise LookupError(f"there is no model {name} in {models or FOLDER}")
    return Neural(folder)


# ------------------------------------------------------------------------------- sums


def density_of(target: str) -> Density:
    """The function of `CLASS/NAME`."""
    kind, name = target.split("/")
    return getattr(importlib.import_module(f"posteriors.{kind}.densities"), name)


def summed(target: str, row: Row, models: Path | None = None) -> tuple[float, dict[Values, float], int, bool]:
    """The log evidence, the posterior probability of each value, how many spellings were summed, and whether all are of tables."""
    used: list[Model] = []

    def open_model(name: str) -> Model:
        used.append(opened(name, models))
        return used[-1]

    logs: dict[Values, list[float]] = {}
    for values, log_reward in density_of(target)(row, open_model):
        if log_reward > LN0:
            logs.setdefault(values, []).append(log_reward)
    total = log_sum(x for one in logs.values() for x in one)
    shares = {values: math.exp(log_sum(one) - total) for values, one in logs.items()}
    count = sum(map(len, logs.values()))
    return total, shares, count, not any(isinstance(one, Neural) for one in used)


def differences(target: str, models: Path | None = None) -> list[str]:
    """What is stored of a target otherwise than the sums say. Raises LookupError without its model."""
    stored = json.loads((FOLDER / f"{target}.json").read_text(encoding="utf-8"))
    total, shares, _, exact = summed(target, stored["given"], models)
    near = EXACT if exact else FLOAT32
    left_out = stored["left_out"]
    found = []
    rounded = near if exact else max(near, ROUNDED * abs(total))
    if not -rounded <= total - stored["log_evidence"] <= rounded + 2 * left_out:
        found.append(f"log evidence {stored['log_evidence']!r} is stored, {total!r} is the sum")
    for values, prob in stored["values"]:
        if abs(shares.get(tuple(values), 0.0) - prob) > max(near, 1e-9) + left_out:
            found.append(f"{values} has {prob!r}, and {shares.get(tuple(values), 0.0)!r} by the sum")
    for k, (name, column) in enumerate(stored.get("marginals", {}).items()):
        sums: Counter[str] = Counter()
        for values, prob in shares.items():
            sums[str(values[k])] += prob  # type: ignore[assignment]
        found += [
            f"{name} = {value!r} has {prob!r}, and {sums[value]!r} by the sum"
            for value, prob in column.items()
            if abs(sums[value] - prob) > max(near, 1e-9) + left_out
        ]
    return found


def targets() -> list[str]:
    """Every `CLASS/NAME`, in order."""
    return sorted(str(path.relative_to(FOLDER).with_suffix("")) for path in FOLDER.glob("*/*.plm"))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="CLASS/NAME", default=targets())
    parser.add_argument("--models", type=Path, help="folder of the models that targets name")
    options = parser.parse_args(argv)
    wrong = 0
    for target in options.targets:
        try:
            found = differences(target, options.models)
        except LookupError as absent:
            print(f"{target}: left out, {absent}")
            continue
        wrong += bool(found)
        print(f"{target}: " + ("the same" if not found else "; ".join(found[:5])), flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
