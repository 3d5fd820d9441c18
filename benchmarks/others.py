"""Patterns and schemas of others: which are supported, whether their masks are exact, and microseconds a mask.

    python -m benchmarks.others [--lm FOLDER] [--data ../shared/data] [--only patterns] [--json FILE]

`patterns/patterns.csv` is a list of regular expressions, `maskbench/` a draw of MaskBench: JSON schemas, each with
instances that are known to be valid or not. Every one of them is built and walked with the tokens of the model,
beside llguidance alone, in one run: a mask is what may come next, whether the text may stop, and the state after the
token. A pattern's masks are exact where they accept of some texts exactly those that Python's `re.fullmatch` does:
texts drawn from the pattern, their neighbours, and short ones of its characters. A schema's are where every valid
instance is accepted token by token, and every other one refused. What is refused as a whole is counted by its code
and reason.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from attrs import define, field

from posterior_lm.lang.diagnostics import PlmError
from posterior_lm.lang.regex import characters, parse
from posterior_lm.lang.source import Source, Span
from posterior_lm.lm.protocol import Tokenizer
from posterior_lm.lm.tokenizers import load_tokenizer
from posterior_lm.support.build import build_support
from posterior_lm.support.grammar_parser import parser_vocabulary
from posterior_lm.support.spec import TextSpec

SHARED = Path(__file__).resolve().parents[2] / "shared"
TEXTS, CAP = 60, 64
"""Texts of each kind that a pattern is tried on, and their most tokens."""

Case = tuple[list[int], bool]
"""Tokens of a text, and whether it has to be accepted."""


@define
class Side:
    """What one of the two made of one pattern or schema."""

    refused: tuple[str, str] | None = None
    """The code and the reason."""
    build: float = 0.0
    masks: list[float] = field(factory=list)
    """Microseconds each."""
    lost: int = 0
    """Texts that have to be accepted and are not."""
    leaked: int = 0
    """The others that are accepted."""

    def count(self, accepted: bool, wanted: bool) -> None:
        self.lost += wanted and not accepted
        self.leaked += accepted and not wanted


# ---------------------------------------------------------------- the two sides


def ours(spec: TextSpec, span: Span, tokenizer: Tokenizer, cases: Sequence[Case]) -> Side:
    side, began = Side(), time.perf_counter()
    try:
        support = build_support(spec, tokenizer, span)
    except PlmError as problem:
        side.refused = reason(problem)
        return side
    side.build = time.perf_counter() - began
    for ids, wanted in cases:
        state, accepted = support.start(), True
        for token in ids:
            began = time.perf_counter()
            support.may_stop(state)
            accepted = bool(support.allowed(state)[token])
            if accepted:
                state = support.advance(state, token)
            side.masks.append(1e6 * (time.perf_counter() - began))
            if not accepted:
                break
        side.count(accepted and support.may_stop(state), wanted)
    return side


def theirs(start: str, tokenizer: Tokenizer, cases: Sequence[Case]) -> Side:
    """llguidance alone, told to allow every spelling of a text as ours do."""
    from llguidance import LLMatcher
    from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

    vocabulary = parser_vocabulary(tokenizer)
    bits = allocate_token_bitmask(1, tokenizer.vocabulary_size)
    side, began = Side(), time.perf_counter()
    try:
        grammar = LLMatcher.grammar_from_lark(f'start: {start}\n%llguidance {{"no_forcing": true}}\n')
        first = LLMatcher(vocabulary, grammar, log_level=0)
    except ValueError as problem:
        side.refused = ("", str(problem).splitlines()[0])
        return side
    if first.is_error():
        side.refused = ("", first.get_error().splitlines()[0])
        return side
    side.build = time.perf_counter() - began
    for ids, wanted in cases:
        one, accepted = first.deep_copy(), True
        for token in ids:
            began = time.perf_counter()
            one.is_accepting()
            fill_next_token_bitmask(one, bits)
            accepted = bool(bits[0, token >> 5] >> (token & 31) & 1)
            if accepted:
                one.consume_token(token)
            side.masks.append(1e6 * (time.perf_counter() - began))
            if not accepted:
                break
        side.count(accepted and one.is_accepting(), wanted)
    return side


def reason(problem: PlmError) -> tuple[str, str]:
    """The code of a diagnostic and what it says, without what is the input's own."""
    found = problem.diagnostics[0]
    said = found.primary.text if found.primary and found.code in ("PLM317", "PLM333") else found.message
    said = re.sub(r'"[^"]*"+| /.*/|#[^ ]*|\d+|(?<=extension ).*|(?<=escape ).*', " … ", said)
    return found.code, " ".join(said.split())


# ---------------------------------------------------------------- patterns


def patterns(folder: Path, tokenizer: Tokenizer) -> Iterator[tuple[str, Side, Side]]:
    with (folder / "patterns.csv").open(encoding="utf-8", newline="") as file:
        rows = [row[0] for row in csv.reader(file)][1:]
    for number, pattern in enumerate(dict.fromkeys(rows)):
        span = Span(Source("pattern", pattern), 0, len(pattern))
        cases = list(tried(pattern, tokenizer, np.random.default_rng(number)))
        left = ours(TextSpec(0, CAP, None, "eos", pattern=pattern), span, tokenizer, cases)
        slashed = re.sub(r"(?s)(\\.)|/", lambda m: m[1] or r"\/", pattern)
        yield pattern, left, theirs(f"/{slashed}/", tokenizer, cases)


def tried(pattern: str, tokenizer: Tokenizer, rng: np.random.Generator) -> Iterator[Case]:
    """Texts with whether `re` matches the whole of them; none where `re` cannot read the pattern."""
    try:
        tree, matches = parse(pattern), re.compile(pattern).fullmatch
        drawn = [text_of(tree, tree.state.flags, rng) for _ in range(TEXTS)]
    except (ValueError, re.error):
        return
    own = sorted({*"".join(drawn), *"a1 \n"}, key=lambda c: (rng.random(), c))
    short = ["".join(text) for n in range(4) for text in product(own[:4], repeat=n)]
    for text in dict.fromkeys([*drawn, *(neighbour(text, own, rng) for text in drawn), *short]):
        if len(text) <= 40 and not any("\ud800" <= c <= "\udfff" for c in text):
            try:
                ids = list(tokenizer.encode(text))
            except PlmError:  # a character that no token spells
                continue
            if len(ids) <= CAP and tokenizer.decode(ids) == text:
                yield ids, matches(text) is not None


def text_of(parts: Any, flags: int, rng: np.random.Generator) -> str:
    """A text of a tree of `re`, were there no anchors. Raises ValueError where a part is of no characters."""
    text = ""
    for op, argument in parts:
        match str(op):
            case "LITERAL" | "NOT_LITERAL" | "ANY" | "IN":
                ranges = characters((op, argument), flags)
                low, high = ranges[int(rng.integers(min(len(ranges), 1 if rng.random() < 0.8 else 1 << 30)))]
                text += chr(int(rng.integers(low, min(high, 0x2FFF if low < 0x2FFF else high) + 1)))
            case "BRANCH":
                text += text_of(argument[1][int(rng.integers(len(argument[1])))], flags, rng)
            case "SUBPATTERN":
                text += text_of(argument[3], (flags | argument[1]) & ~argument[2], rng)
            case "MAX_REPEAT" | "MIN_REPEAT":
                low, high = int(argument[0]), min(int(argument[1]), int(argument[0]) + 3)
                text += "".join(
                    text_of(argument[2], flags, rng) for _ in range(int(rng.integers(low, high + 1)))
                )
            case "AT":
                pass
            case _:
                raise ValueError(f"{op} is not supported")
    return text


def neighbour(text: str, alphabet: Sequence[str], rng: np.random.Generator) -> str:
    """The text with one character put in, taken out or changed."""
    at, other = int(rng.integers(len(text) + 1)), alphabet[int(rng.integers(len(alphabet)))]
    return text[:at] + (other if rng.random() < 0.7 else "") + text[at + int(rng.random() < 0.6) :]


# ---------------------------------------------------------------- schemas


def schemas(folder: Path, tokenizer: Tokenizer) -> Iterator[tuple[str, Side, Side]]:
    for path in sorted(folder.glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        schema = json.dumps(found["schema"])
        cases = [
            ([*tokenizer.encode(json.dumps(one["data"], ensure_ascii=False))], bool(one["valid"]))
            for one in found["tests"]
        ]
        cap = 1 << (max((len(ids) for ids, _ in cases), default=0) + CAP).bit_length()
        span = Span(Source(path.name, schema), 0, len(schema))
        left = ours(TextSpec(1, cap, None, "eos", json=schema), span, tokenizer, cases)
        yield path.name, left, theirs(f"%json {schema}", tokenizer, cases)


# ---------------------------------------------------------------- the table


def figures(rows: Sequence[tuple[str, Side, Side]]) -> dict[str, object]:
    """Shares of all rows, and times of those that both support, in microseconds a mask and milliseconds a build."""
    both = [(mine, other) for _, mine, other in rows if mine.refused is None and other.refused is None]
    found: dict[str, object] = {"number": len(rows)}
    times: dict[str, list[float]] = {}
    for number, who in enumerate(("ours", "llguidance")):
        sides = [row[1 + number] for row in rows]
        kept = [side for side in sides if side.refused is None]
        masks = [one for pair in both for one in pair[number].masks]
        builds = [1e3 * pair[number].build for pair in both]
        times[who] = [*np.percentile(masks, (50, 99)), *np.percentile(builds, (50, 99))]
        found[who] = {
            "supported": len(kept),
            "tried": sum(bool(side.masks) for side in kept),
            "exact": sum(bool(side.masks) and not side.lost and not side.leaked for side in kept),
            "lost": sum(side.lost > 0 for side in kept),
            "leaked": sum(side.leaked > 0 for side in kept),
            "mask_us": times[who][:2],
            "build_ms": times[who][2:],
        }
    found["ratio"] = [mine / other for mine, other in zip(times["ours"], times["llguidance"], strict=True)]
    refused = Counter(mine.refused for _, mine, _ in rows if mine.refused is not None)
    found["refused"] = [[*why, count] for why, count in refused.most_common()]
    found["inexact"] = [name for name, mine, _ in rows if mine.lost or mine.leaked]
    found["slowest_builds"] = sorted(((round(mine.build, 2), name) for name, mine, _ in rows), reverse=True)[
        :5
    ]
    return found


def show(what: str, found: Any) -> None:
    print(f"{what}: {found['number']}")
    for who in ("ours", "llguidance"):
        side = found[who]
        print(
            f"  {who:10} supported {side['supported'] / found['number']:.0%}, exact {side['exact']} of {side['tried']}"
            f" (lose a text {side['lost']}, let one through {side['leaked']}), a mask {side['mask_us'][0]:.1f} µs"
            f" (99 %: {side['mask_us'][1]:.0f}), built in {side['build_ms'][0]:.1f} ms (99 %: {side['build_ms'][1]:.0f})"
        )
    print(
        "  ours / llguidance: mask {:.2f} (99 %: {:.2f}), building {:.1f} (99 %: {:.1f})".format(
            *found["ratio"]
        )
    )
    codes = Counter[str]()
    for code, _, count in found["refused"]:
        codes[code] += count
    for code, total in codes.most_common():
        print(f"  refused with {code}: {total}")
        for other, why, count in found["refused"]:
            if other == code:
                print(f"    {count:4} {why}")
    for name in found["inexact"]:
        print(f"  not exact: {name}")
    print("  slowest builds:", ", ".join(f"{name} {s} s" for s, name in found["slowest_builds"]), flush=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--lm", type=Path, default=SHARED / "models" / "gpt2-tokenizer", help="folder with the tokenizer"
    )
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    parser.add_argument("--only", choices=("patterns", "maskbench"))
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args(argv)
    tokenizer = load_tokenizer(options.lm)
    stored: dict[str, object] = {"vocabulary": tokenizer.vocabulary_size}
    for what, walk in (("patterns", patterns), ("maskbench", schemas)):
        folder = options.data / what
        if options.only not in (None, what):
            continue
        if not folder.is_dir():
            print(f"{what}: {folder} is not there, left out")
            continue
        found = figures(list(walk(folder, tokenizer)))
        show(what, found)
        stored[what] = found
    if options.json:
        options.json.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
