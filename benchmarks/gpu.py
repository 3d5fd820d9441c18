"""The speed of drawing and training on a device, for two sizes of random weights; and the quality reached with `tiny`.

    python benchmarks/gpu.py [--device cuda] [--tokenizer FOLDER] [--out FILE]
    python benchmarks/gpu.py --device cpu --small          # a smoke test

The two models are built from configurations in a temporary folder and loaded from
there like any other, in bfloat16 with a float32 adapter: random weights take as long
as trained ones, and next to never end a latent, so every draw has the full length.
Draws are of story infilling, by importance sampling and by smc. A step is timed after `WARM` others; the floor is every forward call of the timed
steps again, bare, with a backward pass where there was one. `tiny` is fitted in
float32 with the default settings and compared with exact posteriors.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from attrs import define, evolve
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig

from benchmarks.calls import Recorder, bare_seconds, synchronize
from benchmarks.quality import HeldOut
from benchmarks.targets import PROGRAMS, Row, known_target
from posterior_lm.api.query import Query, load
from posterior_lm.lm.hf.transformers import TransformersModel
from posterior_lm.lm.tiny import WEIGHTS
from posterior_lm.lm.tokenizers import load_tokenizer
from posterior_lm.train.fit import fit
from posterior_lm.train.guide import PolicyGuide
from posterior_lm.train.policy import Policy, load_policy
from posterior_lm.train.settings import FitSettings
from posterior_lm.train.trainer import Progress

ROOT = Path(__file__).resolve().parent.parent
WARM = 2
"""Steps before the timed ones: the first calls of a device compile and allocate."""

FULL: Mapping[str, PreTrainedConfig] = {
    # The shapes of SmolLM2-135M and of Qwen2.5-1.5B, with the vocabulary of the tokenizer here.
    "135M": LlamaConfig(
        vocab_size=50257, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=8192,
        tie_word_embeddings=True, bos_token_id=50256, eos_token_id=50256,
    ),
    "1.5B": LlamaConfig(
        vocab_size=50257, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28,
        num_attention_heads=12, num_key_value_heads=2, max_position_embeddings=8192,
        tie_word_embeddings=True, bos_token_id=50256, eos_token_id=50256,
    ),
}  # fmt: skip
SMALL: Mapping[str, PreTrainedConfig] = {
    # With the tokenizer of `tiny`: what a vocabulary costs is no matter here.
    "smoke": LlamaConfig(
        vocab_size=load_tokenizer(Path(WEIGHTS)).vocabulary_size, hidden_size=48, intermediate_size=96,
        num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1, tie_word_embeddings=True,
    ),
}  # fmt: skip


def random_model(config: PreTrainedConfig, tokenizer: Path, device: str, folder: Path) -> TransformersModel:
    """A model of random weights in bfloat16, written to `folder` and loaded as any other is.

    In float32 on a CPU, some of which multiply bfloat16 in software.
    """
    dtype = "bfloat16" if device.startswith("cuda") else "float32"
    torch.manual_seed(0)
    with torch.device(device):
        module = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    module.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / name, folder / name)
    return TransformersModel.from_folder(folder, dtype=dtype, device=device)


# ------------------------------------------------------------------ one fit, watched


@define(eq=False)
class Trained:
    """What `train_some` saw: a Progress per step, the forward calls of the steps after `WARM`, the policy."""

    steps: list[Progress]
    calls: Recorder
    policy: Policy

    @property
    def seconds(self) -> float:
        """Per timed step."""
        return (self.steps[-1].seconds - self.steps[WARM - 1].seconds) / (len(self.steps) - WARM)


def train_some(query: Query, rows: Sequence[Row], settings: FitSettings, model: TransformersModel) -> Trained:
    """Fit `query` on `rows` with `model` as its only one, as `plm fit` does, and keep what was seen."""
    query = query.lm(base=model)
    calls, steps = Recorder(on=False), []

    def watch(progress: Progress) -> None:
        steps.append(progress)
        # Certification comes after the last step and is no part of one.
        calls.on = len(steps) >= WARM and progress.done < 1.0

    with calls.watching(model), tempfile.TemporaryDirectory() as folder:
        fit(query.prepared, rows, Path(folder) / "policy", settings, watch=watch)
        policy = load_policy(Path(folder) / "policy", query.prepared.with_models({"base": model}))
    return Trained(steps, calls, policy)


# ------------------------------------------------------------------ the tables


def drawing(name: str, model: TransformersModel, method: str, draws: int) -> dict[str, object]:
    """One line of the table of draws: those of the first row of story infilling."""
    row = json.loads((ROOT / "programs/data/story_infilling.jsonl").read_text().splitlines()[0])
    query = load(ROOT / "programs/story_infilling.plm").lm(base=model).using(method).given(row)
    query.draw(n=draws, seed=1)
    reset_peak(model)
    calls = Recorder()
    with calls.watching(model):
        synchronize(model)
        began = time.perf_counter()
        query.draw(n=draws, seed=1)
        synchronize(model)
        seconds = time.perf_counter() - began
    return {
        "model": name, "method": method, "draws": draws, "seconds": seconds, "draws a second": draws / seconds,
        "positions a second": calls.positions / seconds,
        "over the floor": seconds / bare_seconds(model, calls.calls), "peak GiB": peak_gib(model),
    }  # fmt: skip


def reset_peak(model: TransformersModel) -> None:
    if model._forward.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(model._forward.device)


def peak_gib(model: TransformersModel) -> float | None:
    """The most memory that was taken since `reset_peak`; None on a CPU."""
    cuda = model._forward.device.type == "cuda"
    return torch.cuda.max_memory_allocated(model._forward.device) / 2**30 if cuda else None


def speed(
    name: str, model: TransformersModel, stage: str, steps: int, settings: FitSettings
) -> dict[str, object]:
    """One line of the speed table; `stage` is "sleep" or "balance"."""
    known = known_target("middle", train=64, held_out=1)
    share = 1.0 if stage == "sleep" else 0.0
    settings = evolve(
        settings, sleep=share, steps=WARM + steps, held_out=0, certify_draws=10, certify_rows=1,
        checkpoint_every=WARM + steps + 1,
    )  # fmt: skip
    reset_peak(model)
    trained = train_some(known.query, known.train, settings, model)
    peak = peak_gib(model)
    timed = trained.steps[WARM:]
    draws = sum(
        p.draws_per_second * (p.seconds - q.seconds)
        for q, p in zip(trained.steps[WARM - 1 :], timed, strict=False)
    )
    calls, positions = trained.calls.calls, trained.calls.positions
    floor = bare_seconds(model, calls, trained.policy.adapter) / len(timed)
    found: dict[str, object] = {
        "model": name,
        "parameters": sum(p.numel() for n, p in model._forward.module.named_parameters() if "lora_" not in n),
        # A program that cannot be compiled with this model is balanced instead, and the table says so.
        "stage": timed[-1].stage,
        "draws a step": round(draws / len(timed), 1),
        "seconds a step": trained.seconds,
        "draws a second": draws / len(timed) / trained.seconds,
        "positions a second": positions / len(timed) / trained.seconds,
        "over the floor": trained.seconds / floor,
        "peak GiB": peak,
    }
    trained.policy.adapter.close()
    return found


def quality(
    target: str, device: str, settings: FitSettings, cache: Path | None, rows: int | None
) -> dict[str, object]:
    """One line of the quality table: `tiny`, float32, held-out rows of a known target."""
    model = TransformersModel.from_folder(WEIGHTS, device=device)
    known = known_target(target)
    known = evolve(known, query=known.query.lm(base=model))
    trained = train_some(known.query, known.train, settings, model)
    held_out = HeldOut.of(known, cache=cache, rows=rows)
    figures = held_out.measure(lambda t: PolicyGuide.of(t, trained.policy.adapter)).figures()
    last = trained.steps[-1]
    kept = ("tv_mean", "tv_worst", "forward_kl_mean", "ess_share_mean", "ess_share_worst")
    return {"target": target, "steps": last.step, "seconds": last.seconds, **{k: figures[k] for k in kept}}


def table(lines: Sequence[Mapping[str, object]]) -> str:
    """A Markdown table of dictionaries with the same keys."""
    if not lines:
        return ""

    def spelled(value: object) -> str:
        if value is None:
            return "–"
        if isinstance(value, float):
            return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
        return f"{value:,}" if isinstance(value, int) else str(value)

    rows = [list(lines[0]), ["---"] * len(lines[0]), *([spelled(v) for v in line.values()] for line in lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="a model of no size and few steps: does it run?")
    parser.add_argument("--tokenizer", type=Path, default=ROOT.parent / "shared/models/gpt2-tokenizer")
    parser.add_argument("--steps", type=int, default=6, help="timed steps of each size and stage")
    parser.add_argument(
        "--budget", type=float, default=60, help="seconds of training with `tiny` for each target"
    )
    parser.add_argument("--targets", nargs="*", default=["middle"], choices=list(PROGRAMS))
    parser.add_argument("--rows", type=int, help="held-out rows to look at (default: all)")
    parser.add_argument("--cache", type=Path, help="keep the exact listings in this folder")
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    options = parser.parse_args(argv)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print(
            "gpu: skipped, because PyTorch finds no CUDA device (--device cpu --small tries it without)",
            file=sys.stderr,
        )
        return 0
    began = time.perf_counter()
    settings = FitSettings(pairs=8, rows=2, draws=4, seeds=0) if options.small else FitSettings()
    steps, budget = (2, 5.0) if options.small else (options.steps, options.budget)
    found: dict[str, object] = {
        "device": torch.cuda.get_device_name() if options.device.startswith("cuda") else options.device,
        "torch": torch.__version__,
    }
    lines: list[dict[str, object]] = []
    drawn: list[dict[str, object]] = []
    for name, config in (SMALL if options.small else FULL).items():
        with tempfile.TemporaryDirectory() as folder:
            model = random_model(
                config, Path(WEIGHTS) if options.small else options.tokenizer, options.device, Path(folder)
            )
            for method in ("importance", "smc"):
                drawn.append(drawing(name, model, method, 8 if options.small else 1024))
                print(json.dumps(drawn[-1]), file=sys.stderr, flush=True)
            for stage in ("sleep", "balance"):
                lines.append(speed(name, model, stage, steps, settings))
                print(json.dumps(lines[-1]), file=sys.stderr, flush=True)
            del model
    reached = [
        quality(target, options.device, evolve(settings, budget=budget), options.cache, options.rows)
        for target in options.targets
    ]
    found |= {"drawing": drawn, "speed": lines, "quality": reached, "seconds": time.perf_counter() - began}
    print(f"{found['device']}, PyTorch {torch.__version__}, {found['seconds']:.0f} s\n")
    print(table(drawn), end="\n\n")
    print(table(lines), end="\n\n")
    print(table(reached))
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
