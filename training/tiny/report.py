"""Measure the packaged model against the world it was trained on.

    python -m training.tiny.report [--json] [--weights DIR] [--seed S] [--count N]

All figures come from plain transformers and torch; the importance weights and
posteriors of stories are sums over every middle of the world, not estimates.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import numpy as np
import torch

from posterior_lm.lm.tiny import WEIGHTS

from .rows import opening_rows, story_rows
from .world import TASKS, Document, integers, reviews, sample, sample_task, stories, sums


@attrs.frozen
class Scorer:
    """A causal model and its tokenizer."""

    model: torch.nn.Module
    tokenizer: object

    @classmethod
    def load(cls, folder: Path) -> Scorer:
        """Read a folder of weights, offline."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
        return cls(model.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True))

    def ids(self, text: str, start: bool) -> list[int]:
        """Token ids of a text, with the start token or without."""
        return self.tokenizer(text, add_special_tokens=start)["input_ids"]  # type: ignore[operator]

    @torch.no_grad()
    def log_probs(self, rows: Sequence[tuple[list[int], list[int]]]) -> np.ndarray:
        """log p(continuation | context) in nats, shape [N]; at most 128 rows are run at once."""
        result = np.zeros(len(rows))
        order = sorted(range(len(rows)), key=lambda i: sum(map(len, rows[i])))
        for at in range(0, len(order), 128):
            part = order[at : at + 128]
            whole = [rows[i][0] + rows[i][1] for i in part]
            width = max(map(len, whole))
            inputs = torch.tensor([w + [0] * (width - len(w)) for w in whole])
            logs = self.model(input_ids=inputs).logits.double().log_softmax(-1)
            for j, i in enumerate(part):
                begin = len(rows[i][0])
                index = torch.arange(begin, len(whole[j]))
                picked = logs[j, index - 1, torch.tensor(whole[j])[index]]
                result[i] = float(picked.sum())
        return result

    def score(self, context: Sequence[str], continuations: Sequence[str]) -> np.ndarray:
        """log p of each continuation [N] after context segments tokenised one by one."""
        start = self.ids(context[0], True)
        prefix = start + [t for part in context[1:] for t in self.ids(part, False)]
        return self.log_probs([(prefix, self.ids(c, False)) for c in continuations])

    @torch.no_grad()
    def extend(
        self, prompts: Sequence[str], rng: torch.Generator | None = None, stop: str = ".", limit: int = 60
    ) -> list[list[int]]:
        """Continuations up to a stop or the end token: the likeliest tokens, or drawn ones with `rng`."""
        found: list[list[int]] = [[] for _ in prompts]
        spelled = [self.ids(p, True) for p in prompts]
        last = {self.ids(stop, False)[-1], self.tokenizer.eos_token_id}  # type: ignore[attr-defined]
        for length in sorted({len(s) for s in spelled}):
            rows = [i for i, s in enumerate(spelled) if len(s) == length]
            out = self.model(input_ids=torch.tensor([spelled[i] for i in rows]), use_cache=True)
            running = set(rows)
            for _ in range(limit):
                logits = out.logits[:, -1]
                tokens = logits.argmax(-1, keepdim=True)
                if rng is not None:
                    tokens = torch.multinomial(logits.softmax(-1), 1, generator=rng)
                for i, token in zip(rows, tokens[:, 0].tolist(), strict=True):
                    if i in running:
                        found[i].append(token)
                        if token in last:
                            running.discard(i)
                if not running:
                    break
                out = self.model(input_ids=tokens, past_key_values=out.past_key_values, use_cache=True)
        return found

    def greedy(self, prompts: Sequence[str]) -> list[str]:
        """Likeliest continuations as text, the stop included."""
        return [self.tokenizer.decode(ids) for ids in self.extend(prompts)]  # type: ignore[attr-defined]


def effective(log_weights: np.ndarray, log_p: np.ndarray | None = None) -> float:
    """(E w)^2 / E w^2 under probabilities exp(log_p) [N], or under equal ones."""
    log_p = np.zeros_like(log_weights) if log_p is None else log_p
    first = np.logaddexp.reduce(log_p + log_weights)
    second = np.logaddexp.reduce(log_p + 2.0 * log_weights)
    return float(np.exp(2.0 * first - second - np.logaddexp.reduce(log_p)))


def document_nats(scorer: Scorer, documents: Sequence[Document]) -> np.ndarray:
    """Nats of each document under the model, the end token included, shape [N]."""
    eos = scorer.tokenizer.eos_token_id  # type: ignore[attr-defined]
    bos = scorer.tokenizer.bos_token_id  # type: ignore[attr-defined]
    return -scorer.log_probs([([bos], [*scorer.ids(d.text, False), eos]) for d in documents])


def fit(scorer: Scorer, seed: int, count: int) -> dict[str, float]:
    """Nats per held-out document, model over world, overall and by task."""
    rng = np.random.default_rng([seed, 4])
    documents = [sample(rng) for _ in range(count)]
    ours = document_nats(scorer, documents)
    true = np.array([-d.log_prob for d in documents])
    tokens = sum(len(scorer.ids(d.text, True)) for d in documents)
    extra = (ours - true) / true.mean()
    result = {
        "model": float(ours.mean()),
        "world": float(true.mean()),
        "ratio": float(ours.mean() / true.mean()),
        "ratio standard error": float(extra.std(ddof=1) / math.sqrt(count)),
        "model perplexity per token": math.exp(ours.sum() / tokens),
        "world perplexity per token": math.exp(true.sum() / tokens),
    }
    for task in TASKS:
        chosen = np.array([d.task == task for d in documents])
        result[f"ratio, {task}"] = float(ours[chosen].mean() / true[chosen].mean())
        result[f"excess nats, {task}"] = float((ours - true)[chosen].mean())
    return result


def infilling(
    scorer: Scorer, rows: Sequence[Mapping[str, object]], draws: int = 0
) -> list[dict[str, object]]:
    """What the shipped infilling rows are like under the model.

    Summed over the world's middles: the ESS per draw of proposing from the prior
    p(middle | opening), and of proposing from the guide's context that shows the
    ending; `covered` is the prior's probability of the middles that are summed. With
    `draws` the prior's ESS is also estimated from that many drawn middles of any kind.
    """
    found = []
    for row in rows:
        opening, ending = str(row["opening"]), str(row["ending"])
        middles = sorted(stories.middle_prior(opening))
        log_prior = scorer.score([opening], middles)
        log_guide = scorer.score([f"Beginning: {opening}\nEnding: {ending}\nMiddle:"], middles)
        start, tail = scorer.ids(opening, True), scorer.ids(f" {ending}", False)
        log_like = scorer.log_probs([(start + scorer.ids(m, False), tail) for m in middles])
        log_joint = log_prior + log_like
        log_evidence = float(np.logaddexp.reduce(log_joint))
        posterior = np.exp(log_joint - log_evidence)
        exact = stories.middle_posterior(opening, ending)
        gap = sum(abs(exact.get(m, 0.0) - p) for m, p in zip(middles, posterior, strict=True)) / 2
        figures: dict[str, object] = {
            "opening": opening,
            "ending": ending,
            "ESS/N of the prior, summed": effective(log_like, log_prior),
            "ESS/N of the prior, world": stories.prior_ess(opening, ending),
            "ESS/N of the untrained guide, summed": effective(log_joint - log_guide, log_guide),
            "middles above 2 %": int((posterior > 0.02).sum()),
            "middles above 2 %, world": sum(p > 0.02 for p in exact.values()),
            "log evidence": log_evidence,
            "total variation from the world's posterior": float(gap),
            "covered": float(np.exp(log_prior).sum()),
        }
        if draws:
            drawn = scorer.extend([opening] * draws, torch.Generator().manual_seed(0), limit=25)
            weights = scorer.log_probs([(start + z, tail) for z in drawn])
            figures["ESS/N of the prior, drawn"] = effective(weights)
        found.append(figures)
    return found


def dog_share(scorer: Scorer, rows: Sequence[Mapping[str, object]], draws: int) -> dict[str, float]:
    """Share of drawn next sentences that name a dog, for each prompt."""
    rng = torch.Generator().manual_seed(1)
    result = {}
    for row in rows:
        prompt = str(row["prompt"])
        drawn = scorer.extend([prompt] * draws, rng, limit=24)
        texts = [scorer.tokenizer.decode(z) for z in drawn]  # type: ignore[attr-defined]
        result[prompt] = float(np.mean(["dog" in t for t in texts]))
    return result


def instruction_accuracy(scorer: Scorer, seed: int, count: int) -> dict[str, float]:
    """Share of single inputs whose likeliest output is the rule's."""
    rng = np.random.default_rng([seed, 7])
    prompts, outputs = [], []
    for _ in range(count):
        fields = sample_task("instruction", rng).fields
        x, y = fields["pairs"][0]  # type: ignore[index]
        prompts.append(f"Instruction:{fields['wording']}Input: {x}\nOutput:")
        outputs.append(f" {y}")
    likeliest = scorer.extend(prompts, stop="\n", limit=6)
    ended = [scorer.tokenizer.decode(z, skip_special_tokens=True) for z in likeliest]  # type: ignore[attr-defined]
    return {
        "output right": float(np.mean([e.rstrip("\n") == y for e, y in zip(ended, outputs, strict=True)]))
    }


def integer_law(scorer: Scorer) -> dict[str, float]:
    """The model's law over 0..100, as a value scores (no terminator) and with the end scored."""
    prompt = integers.prompt_text(0, 100)
    eos = scorer.tokenizer.eos_token_id  # type: ignore[attr-defined]
    start = scorer.ids(prompt, True)
    spelled = [scorer.ids(f" {n}", False) for n in range(101)]
    law = integers.integer_table(0, 100)
    result: dict[str, float] = {"KL(world, uniform)": math.log(101) - law.entropy()}
    for name, tail in (("value", []), ("value and end", [eos])):
        p = np.exp(scorer.log_probs([(start, s + tail) for s in spelled]))
        p = p / p.sum()
        result[f"KL({name}, uniform)"] = float(math.log(101) + (p * np.log(p)).sum())
        result[f"least probability, {name}"] = float(p.min())
    return result


def arithmetic(scorer: Scorer, seed: int, count: int) -> dict[str, float]:
    """Greedy accuracy by number of operands: in the head, working, answer after right working."""
    rng = np.random.default_rng([seed, 5])

    def accuracy(prompts: list[str], wanted: list[str]) -> float:
        return float(np.mean([g == w for g, w in zip(scorer.greedy(prompts), wanted, strict=True)]))

    result: dict[str, float] = {}
    for operands in (2, 3, 4, 5):
        drawn = [
            sums.write_question(lambda table: table.texts[table.at(rng.random())], operands)
            for _ in range(count)
        ]
        asked = [f"Question: {sums.question_text(n, o)}" for n, o, _ in drawn]
        steps = [sums.right_steps(n, o) for n, o, _ in drawn]
        answers = [f" {v}." for _, _, v in drawn]
        after = [f"{q} Answer:{s} The answer is" for q, s in zip(asked, steps, strict=True)]
        result |= {
            f"{operands} operands, in the head": accuracy([f"{q} The answer is" for q in asked], answers),
            f"{operands} operands, all steps right": accuracy([f"{q} Answer:" for q in asked], steps),
            f"{operands} operands, answer after right steps": accuracy(after, answers),
        }
    return result


def labels(scorer: Scorer, seed: int, count: int) -> dict[str, float]:
    """Accuracy against the gold label without a reason, and with a fitting one."""
    rng = np.random.default_rng([seed, 6])
    drawn = [sample_task("review", rng).fields for _ in range(count)]
    best = {"objective": " about the plot", "subjective": " an opinion"}
    plain, given, summed, world = [], [], [], []
    reasons = [r for g in reviews.REASONS for r in reviews.reason_table(g).texts]
    for fields in drawn:
        question, gold = reviews.question_text(str(fields["review"])), str(fields["gold"])
        direct = scorer.score([question], [f" {label}." for label in reviews.LABELS])
        plain.append(reviews.LABELS[int(direct.argmax())] == gold)
        after = scorer.score(
            [question, best[gold] + ","], [f" so it is {label}." for label in reviews.LABELS]
        )
        given.append(reviews.LABELS[int(after.argmax())] == gold)
        start, scores = scorer.ids(question, True), []
        for label in reviews.LABELS:
            tail = scorer.ids(f" so it is {label}.", False)
            both = [(start, scorer.ids(r + ",", False) + tail) for r in reasons]
            scores.append(np.logaddexp.reduce(scorer.log_probs(both)))
        summed.append(reviews.LABELS[int(np.argmax(scores))] == gold)
        table = reviews.label_given_review(str(fields["review"]))
        world.append(max(table, key=table.__getitem__) == gold)
    return {
        "label directly": float(np.mean(plain)),
        "label, reasons summed out": float(np.mean(summed)),
        "label, world's best without a reason": float(np.mean(world)),
        "label after a fitting reason": float(np.mean(given)),
    }


def measure(scorer: Scorer, seed: int = 0, count: int = 4000) -> dict[str, object]:
    """Every figure."""
    return {
        "fit (nats per document)": fit(scorer, seed, count),
        "infilling": infilling(scorer, story_rows(), draws=min(count, 2000)),
        "integers 0..100": integer_law(scorer),
        "sums (greedy)": arithmetic(scorer, seed, min(count, 500)),
        "labels": labels(scorer, seed, min(count, 200)),
        "instructions (greedy)": instruction_accuracy(scorer, seed, min(count, 500)),
        "next sentence names a dog": dog_share(scorer, opening_rows(), min(count, 1000)),
    }


def lines(figures: Mapping[str, object]) -> list[str]:
    """Figures as lines of text."""
    shown: list[str] = []
    for name, value in figures.items():
        shown.append(name)
        for part in value if isinstance(value, list) else [value]:
            for key, number in part.items():
                shown.append(f"  {key}: {number:.4g}" if isinstance(number, float) else f"  {key}: {number}")
    return shown


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Measure the packaged model tiny.")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    torch.set_num_threads(2)
    figures = measure(Scorer.load(given.weights), given.seed, given.count)
    print(json.dumps(figures, indent=2) if given.json else "\n".join(lines(figures)))


if __name__ == "__main__":
    main()
