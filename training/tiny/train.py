"""Train `tiny` on fresh documents of its world.

    python -m training.tiny.train [--out DIR] [--steps N] [--minutes M] [--seed S]

Every step reads new documents, so there are no epochs. The rate follows a cosine
in the share of the work done: steps of `--steps` or minutes of `--minutes`,
whichever is further. A checkpoint (safetensors and JSON) is replaced atomically;
`--resume` continues from it with the same documents that an unbroken run reads.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import numpy as np
import torch
from safetensors.torch import load_file, save_file

from posterior_lm.lm.tiny import WEIGHTS

from .tokenizer import EOS, VOCAB_SIZE, save_tokenizer, train_tokenizer
from .world import TASKS, entropy_rate, sample, sample_task

POOL = 8192
TOKENIZER_DOCUMENTS = 60_000
DEFAULT_STEPS = 6000


@attrs.frozen
class Settings:
    """What a run is; lengths are in documents, `minutes` is wall-clock time."""

    seed: int = 0
    steps: int | None = None
    minutes: float | None = None
    batch: int = 64
    parts: int = 2
    rate: float = 4e-3
    warm_up: int = 150
    decay: float = 0.05
    clip: float = 1.0


@attrs.frozen
class Progress:
    """Where a run is: steps taken, seconds spent and a smoothed loss (nats per document)."""

    step: int = 0
    seconds: float = 0.0
    loss: float = math.nan

    def share(self, settings: Settings) -> float:
        """Share of the work done, in [0, 1]."""
        by_step = self.step / settings.steps if settings.steps else 0.0
        by_time = self.seconds / (60.0 * settings.minutes) if settings.minutes else 0.0
        return min(1.0, max(by_step, by_time))


def world_tokenizer(seed: int):
    """The tokenizer trained on equally many documents of every task but of stories twice as many.

    Rare words of rare tasks get tokens that way.
    """
    rng = np.random.default_rng([seed, 0])
    tasks = ("story", *TASKS)
    return train_tokenizer(sample_task(tasks[i % len(tasks)], rng).text for i in range(TOKENIZER_DOCUMENTS))


def build_model(seed: int, eos: int, bos: int) -> torch.nn.Module:
    """A Llama of 0.92 M parameters with seeded weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=128,
        intermediate_size=344,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=bos,
        eos_token_id=eos,
        pad_token_id=None,
        initializer_range=0.05,
    )
    return LlamaForCausalLM(config)


def batches(tokenizer, settings: Settings, start: int) -> Iterator[list[list[int]]]:
    """Token rows of each step from step `start` on; a pool depends on seed and index only."""
    per_pool = POOL // settings.batch
    eos = tokenizer.token_to_id(EOS)
    index, skip = divmod(start, per_pool)
    while True:
        rng = np.random.default_rng([settings.seed, 1, index])
        encoded = tokenizer.encode_batch([sample(rng).text for _ in range(POOL)])
        rows = [[*e.ids, eos] for e in encoded]
        for b in range(skip, per_pool):
            yield rows[b * settings.batch : (b + 1) * settings.batch]
        index, skip = index + 1, 0


def padded(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs [B, T] and targets [B, T] of rows; targets are -100 after a row's end."""
    width = max(map(len, rows)) - 1
    inputs = np.zeros((len(rows), width), dtype=np.int64)
    targets = np.full((len(rows), width), -100, dtype=np.int64)
    for i, row in enumerate(rows):
        inputs[i, : len(row) - 1] = row[:-1]
        targets[i, : len(row) - 1] = row[1:]
    return torch.from_numpy(inputs), torch.from_numpy(targets)


def total_nats(model: torch.nn.Module, rows: list[list[int]]) -> torch.Tensor:
    """Summed negative log-likelihood of token rows, in nats (a scalar)."""
    inputs, targets = padded(rows)
    logits = model(input_ids=inputs, use_cache=False).logits
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum"
    )


def rate_at(share: float, step: int, settings: Settings) -> float:
    """Learning rate: linear warm-up times a cosine down to 1 % of the peak."""
    cosine = 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * share))
    return settings.rate * cosine * min(1.0, (step + 1) / settings.warm_up)


def replace_folder(build, folder: Path) -> None:
    """Write a folder's files next to it with `build(path)`, then move each into place."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".tiny-") as staging:
        build(Path(staging))
        for path in sorted(Path(staging).iterdir()):
            path.chmod(0o644)
            os.replace(path, folder / path.name)


def save_weights(model: torch.nn.Module, tokenizer, folder: Path) -> None:
    """Write the model and its tokenizer, loadable by the Auto classes."""

    def build(path: Path) -> None:
        model.save_pretrained(path, safe_serialization=True)
        save_tokenizer(tokenizer, path)

    replace_folder(build, folder)


def optimiser_for(model: torch.nn.Module, settings: Settings) -> torch.optim.AdamW:
    """AdamW with decay on matrices only."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": settings.decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.rate, betas=(0.9, 0.98), eps=1e-9)


def save_checkpoint(model, optimiser, progress: Progress, settings: Settings, folder: Path) -> None:
    """Write weights, AdamW moments and progress in one safetensors file, moved into place."""
    tensors = {f"model.{k}": v.detach().contiguous() for k, v in model.named_parameters()}
    parameters = [p for g in optimiser.param_groups for p in g["params"]]
    for i, parameter in enumerate(parameters):
        for name, value in optimiser.state.get(parameter, {}).items():
            tensors[f"optimiser.{i}.{name}"] = value.detach().contiguous()
    facts = {"progress": json.dumps(attrs.asdict(progress)), "settings": json.dumps(attrs.asdict(settings))}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "checkpoint.tmp", metadata=facts)
    os.replace(folder / "checkpoint.tmp", folder / "checkpoint.safetensors")


def load_checkpoint(model, optimiser, folder: Path) -> Progress:
    """Put a checkpoint back into a model and its optimiser; returns its progress."""
    from safetensors import safe_open

    path = folder / "checkpoint.safetensors"
    tensors = load_file(path)
    with safe_open(path, "pt") as opened:
        progress = Progress(**json.loads(opened.metadata()["progress"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
    for i, parameter in enumerate(p for g in optimiser.param_groups for p in g["params"]):
        prefix = f"optimiser.{i}."
        optimiser.state[parameter] = {
            k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)
        }
    return progress


def take_step(model, optimiser, rows: list[list[int]], rate: float, settings: Settings) -> float:
    """One optimiser step on a batch, in parts of similar length; returns nats per document."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad(set_to_none=True)
    ranked = sorted(rows, key=len)
    size = math.ceil(len(ranked) / settings.parts)
    tokens = sum(len(r) - 1 for r in ranked)
    nats = 0.0
    for i in range(0, len(ranked), size):
        loss = total_nats(model, ranked[i : i + size])
        (loss / tokens).backward()
        nats += float(loss.detach())
    torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
    optimiser.step()
    return nats / len(rows)


def held_out_nats(model, tokenizer, seed: int, count: int) -> tuple[float, float]:
    """Mean nats per held-out document under the model, and exactly under the world."""
    rng = np.random.default_rng([seed, 2])
    documents = [sample(rng) for _ in range(count)]
    eos = tokenizer.token_to_id(EOS)
    rows = sorted(([*e.ids, eos] for e in tokenizer.encode_batch([d.text for d in documents])), key=len)
    with torch.no_grad():
        nats = sum(float(total_nats(model, rows[i : i + 64])) for i in range(0, count, 64))
    return nats / count, -float(np.mean([d.log_prob for d in documents]))


def train(out: Path, settings: Settings, resume: bool = False, checkpoint_every: float = 120.0) -> Path:
    """Train and write weights to `out`; the checkpoint lies in `out/.checkpoint` until the end."""
    tokenizer = world_tokenizer(settings.seed)
    entropy, error = entropy_rate(np.random.default_rng([settings.seed, 3]), 50_000)
    print(f"entropy of the world: {entropy:.3f} +- {error:.3f} nats per document", flush=True)
    bos, eos = tokenizer.token_to_id("<s>"), tokenizer.token_to_id(EOS)
    model = build_model(settings.seed, eos=eos, bos=bos)
    optimiser = optimiser_for(model, settings)
    kept = out.parent / f".{out.name}-checkpoint"
    progress = load_checkpoint(model, optimiser, kept) if resume else Progress()
    before, began = progress.seconds, time.monotonic()
    saved = shown = began
    for rows in batches(tokenizer, settings, progress.step):
        share = progress.share(settings)
        if share >= 1.0:
            break
        nats = take_step(model, optimiser, rows, rate_at(share, progress.step, settings), settings)
        now = time.monotonic()
        loss = nats if math.isnan(progress.loss) else 0.98 * progress.loss + 0.02 * nats
        progress = Progress(progress.step + 1, before + now - began, loss)
        if now - shown > 15.0:
            shown = now
            print(
                f"{share:6.1%}  step {progress.step}  {progress.seconds / 60:.1f} min"
                f"  loss {loss:.3f}  world {entropy:.3f}  ratio {loss / entropy:.3f}",
                flush=True,
            )
        if now - saved > checkpoint_every:
            saved = now
            save_checkpoint(model, optimiser, progress, settings, kept)
    save_weights(model, tokenizer, out)
    shutil.rmtree(kept, ignore_errors=True)
    ours, true = held_out_nats(model, tokenizer, settings.seed, 4000)
    print(f"held out: {ours:.3f} nats per document, world {true:.3f}, ratio {ours / true:.4f}")
    return out


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Train the packaged model tiny.")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resume", action="store_true")
    given = parser.parse_args(arguments)
    steps = DEFAULT_STEPS if given.minutes is None and given.steps is None else given.steps
    torch.set_num_threads(given.threads)
    train(given.out, Settings(seed=given.seed, steps=steps, minutes=given.minutes), given.resume)


if __name__ == "__main__":
    main()
