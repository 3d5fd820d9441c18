"""Train a masked model of `tiny`'s world, with the same tokenizer, where one is wanted; none is packaged.

    python -m training.tiny.masked --out DIR [--steps N] [--seed S] [--resume]

A ModernBERT of 1.0 M parameters reads documents in which places are masked, and is trained on what
stood there: in two thirds of them one run of tokens, as when a text between two others is filled from
left to right, else any places, as many as a number drawn from 0 to 1 says (Sahoo et al. 2024; Nie et
al. 2025, LLaDA). `--out` is then a folder for `lm d = masked("DIR")`. 2,200 of the steps took 51 minutes of a core
that was shared with much other work; that model is no good proposal yet (benchmarks/README.md).
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from posterior_lm.lm.tiny import WEIGHTS

from .tokenizer import EOS, VOCAB_SIZE
from .train import (
    Progress,
    Settings,
    batches,
    load_checkpoint,
    optimiser_for,
    rate_at,
    save_checkpoint,
    save_weights,
)
from .world import sample_task

DEFAULT_STEPS = 3000
MASK = VOCAB_SIZE
"""The id of a masked place, behind the ids of the tokenizer."""
STORIES_FROM = 1500
"""The step from which the documents are stories alone, which are what there is to fill."""
RUNS = 2 / 3
LONGEST = 24
"""Tokens of a run that is masked."""
IGNORED = -100


def build_model(seed: int) -> torch.nn.Module:
    """With seeded weights; every layer sees the whole text."""
    from transformers import ModernBertConfig, ModernBertForMaskedLM

    torch.manual_seed(seed)
    config = ModernBertConfig(
        vocab_size=VOCAB_SIZE + 1,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=5,
        num_attention_heads=4,
        max_position_embeddings=512,
        layer_types=["full_attention"] * 5,
        pad_token_id=None,
        bos_token_id=0,
        eos_token_id=1,
        cls_token_id=None,
        sep_token_id=None,
        mask_token_id=MASK,
        initializer_range=0.05,
    )
    return ModernBertForMaskedLM(config)


def stories(tokenizer: Tokenizer, settings: Settings, step: int) -> list[list[int]]:
    """Token rows of one step, end-of-text included as in `batches`."""
    rng = np.random.default_rng([settings.seed, 5, step])
    encoded = tokenizer.encode_batch([sample_task("story", rng).text for _ in range(settings.batch)])
    return [[*e.ids, tokenizer.token_to_id(EOS)] for e in encoded]


def masked(rows: list[list[int]], rng: np.random.Generator) -> tuple[list[list[int]], list[list[int]]]:
    """Rows with masked places, and what stood there; the first token, which begins a text, is never masked."""
    inputs, targets = [], []
    for row in rows:
        size = len(row) - 1
        hidden = np.zeros(len(row), dtype=bool)
        if rng.random() < RUNS:
            length = int(rng.integers(1, min(size, LONGEST) + 1))
            first = 1 + int(rng.integers(0, size - length + 1))
            hidden[first : first + length] = True
        else:
            hidden[1:] = rng.random(size) < rng.random()
            hidden[1 + int(rng.integers(0, size))] = True
        ids = np.array(row)
        inputs.append(np.where(hidden, MASK, ids).tolist())
        targets.append(np.where(hidden, ids, IGNORED).tolist())
    return inputs, targets


def loss_of(model: torch.nn.Module, inputs: list[list[int]], targets: list[list[int]]) -> torch.Tensor:
    """The sum over the masked places of -log p, nats."""
    width = max(map(len, inputs))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in inputs])
    seen = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in inputs])
    wanted = torch.tensor([row + [IGNORED] * (width - len(row)) for row in targets])
    logits = model(input_ids=ids, attention_mask=seen).logits
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), wanted.flatten(), ignore_index=IGNORED, reduction="sum"
    )


def take_step(
    model: torch.nn.Module, optimiser: torch.optim.Optimizer, rows: list[list[int]], rng: np.random.Generator
) -> float:
    """One step on a batch, short texts before long ones; returns nats per masked place."""
    optimiser.zero_grad(set_to_none=True)
    inputs, targets = masked(sorted(rows, key=len), rng)
    places = sum(t != IGNORED for row in targets for t in row)
    half, nats = len(rows) // 2, 0.0
    for part in (slice(0, half), slice(half, None)):
        loss = loss_of(model, inputs[part], targets[part])
        (loss / places).backward()
        nats += float(loss.detach())
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    return nats / places


def train(out: Path, settings: Settings, resume: bool = False, checkpoint_every: int = 100) -> Path:
    """Train and write the folder `out`; the checkpoint lies beside it until the end."""
    tokenizer = Tokenizer.from_file(str(WEIGHTS / "tokenizer.json"))
    model = build_model(settings.seed)
    optimiser = optimiser_for(model, settings)
    kept = out.parent / f".{out.name}-checkpoint"
    resume = resume and (kept / "checkpoint.safetensors").is_file()
    progress = load_checkpoint(model, optimiser, kept) if resume else Progress()
    before, began = progress.seconds, time.monotonic()
    documents = batches(tokenizer, settings, progress.step)
    while progress.share(settings) < 1.0:
        rows = (
            next(documents) if progress.step < STORIES_FROM else stories(tokenizer, settings, progress.step)
        )
        for group in optimiser.param_groups:
            group["lr"] = rate_at(progress.share(settings), progress.step, settings)
        rng = np.random.default_rng([settings.seed, 4, progress.step])
        # Without its end-of-text: what a guide writes around a text says none.
        nats = take_step(model, optimiser, [row[:-1] for row in rows], rng)
        loss = nats if math.isnan(progress.loss) else 0.98 * progress.loss + 0.02 * nats
        progress = Progress(progress.step + 1, before + time.monotonic() - began, loss)
        if progress.step % checkpoint_every == 0:
            print(f"step {progress.step}  {progress.seconds:.0f} s  loss {loss:.3f}", flush=True)
            save_checkpoint(model, optimiser, progress, settings, kept)
    save_weights(model, tokenizer, out)
    return out


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Train a masked model of the world of tiny.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=DEFAULT_STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    given = parser.parse_args(arguments)
    train(given.out, Settings(seed=given.seed, steps=given.steps, rate=2e-3, warm_up=100), given.resume)


if __name__ == "__main__":
    main()
