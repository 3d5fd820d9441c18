"""What a policy makes of preferences: the posterior of a preference model, and DPO (Rafailov et al. 2023) on the same pairs.

    python -m benchmarks.preferences [--pairs 48] [--updates 25,100,300] [--rates 3e-4,1e-3] [--draws 400]

A hidden taste, so many nats a word and so many for every "mother", labels pairs of continuations that `tiny` drew, by
Bradley and Terry with beta 1. DPO with beta 1 has p(z) ∝ base(z) exp(reward(z)) as its optimum, with a reward that the pairs leave open on
nearly all texts. Ours is two programs: the weights of the two features given the pairs, exactly, on a grid; then the policy of `base(prompt)`
with that reward's posterior mean as a factor, fitted for this row. Knowing the features is what ours has and DPO has not: a
prior over rewards has to be stated. Updates are steps of either optimiser, on `--batch` pairs or on 64 draws, with adapters of one rank.

Reported of draws of each policy by themselves, without weights: the hidden reward, KL from the base model inside the support in nats, the share of
distinct texts and the entropy, beside the base model and p itself by importance sampling. Needs `trl` (tried with 1.16).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from posterior_lm import Query, loads
from posterior_lm.infer.guide import Guide, PriorGuide
from posterior_lm.lm.hf.transformers import TransformersModel
from posterior_lm.lm.tiny import WEIGHTS
from posterior_lm.target.target import Target
from posterior_lm.train.adapter import Adapter
from posterior_lm.train.guide import PolicyGuide

PROMPT = "Anna wants a red ball."
RANK = 16
TASTE = {"length": -0.3, "mother": 1.5}
SCORE = '{length} * words({it}) + {mother} * count({it}, "mother")'
WEIGHTS_GIVEN_PAIRS = f"""
program taste(pairs: table(better: text, worse: text)) {{
  latent length: real(-2..2, grid=80) ~ normal(0, 1)
  latent mother: real(-4..4, grid=80) ~ normal(0, 2)
  plate p in pairs {{
    prefer p.better over p.worse ~ bradley_terry({SCORE.format(length="length", mother="mother", it="it")}, 1)
  }}
}}
"""
POLICY = f"""
lm base = "tiny"
program liked(prompt: text, length: real, mother: real) {{
  latent next: text(tokens=1..24, stop=".") ~ base(prompt)
  factor {SCORE.format(length="length", mother="mother", it="next")}
}}
"""


def reward(text: str) -> float:
    return TASTE["length"] * len(text.split()) + TASTE["mother"] * text.count("mother")


def labelled(rng: np.random.Generator, target: Target, pairs: int) -> list[dict[str, str]]:
    texts = [v.text for v in PriorGuide(target).sample(rng, 2 * pairs).values["next"]]
    found = []
    for a, b in zip(texts[::2], texts[1::2], strict=True):
        first = rng.random() < 1 / (1 + np.exp(reward(b) - reward(a)))
        found.append({"better": a, "worse": b} if first else {"better": b, "worse": a})
    return found


def figures(rng: np.random.Generator, target: Target, guide: Guide, draws: int) -> dict[str, float]:
    """Reward, KL from the base model, distinct texts and entropy of a policy's own draws."""
    drawn = guide.sample(rng, draws)
    own = guide.log_prob(drawn.values)
    texts = [v.text for v in drawn.values["next"]]
    base = PriorGuide(target).log_prob(drawn.values)
    return {
        "reward": float(np.mean([reward(t) for t in texts])), "kl": float(np.mean(own - base)),
        "distinct": len(set(texts)) / draws, "entropy": float(-np.mean(own)),
    }  # fmt: skip


def of_the_posterior(rng: np.random.Generator, target: Target, draws: int) -> dict[str, float]:
    """The same of p itself, by draws of the base model that are weighed by exp(reward)."""
    drawn = PriorGuide(target).sample(rng, draws)
    base, texts = drawn.log_prob, [v.text for v in drawn.values["next"]]
    logs = np.array([reward(t) for t in texts])
    log_z = float(np.logaddexp.reduce(logs) - np.log(draws))
    w = np.exp(logs - logs.max())
    w /= w.sum()
    return {
        "reward": float(w @ logs), "kl": float(w @ logs) - log_z, "entropy": float(-(w @ (base + logs)) + log_z),
        "ess": float(1 / np.sum(w**2)),
    }  # fmt: skip


def dpo(pairs: list[dict[str, str]], adapter: Adapter, *, updates: int, rate: float, batch: int) -> float:
    """DPO from a fresh adapter, its weights put into `adapter`; the seconds of training."""
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model_state_dict
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
    from trl import DPOConfig, DPOTrainer

    config = LoraConfig(
        r=adapter.config.r, lora_alpha=adapter.config.lora_alpha, target_modules=adapter.config.target_modules,
        lora_dropout=0.0, task_type="CAUSAL_LM",
    )  # fmt: skip
    columns = {
        "prompt": [PROMPT] * len(pairs),
        "chosen": [p["better"] for p in pairs],
        "rejected": [p["worse"] for p in pairs],
    }
    with tempfile.TemporaryDirectory() as folder:
        trainer = DPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(WEIGHTS, dtype="float32"),
            args=DPOConfig(
                output_dir=folder, beta=1.0, learning_rate=rate, per_device_train_batch_size=batch,
                max_steps=updates, warmup_steps=5, lr_scheduler_type="constant_with_warmup", seed=0, bf16=False,
                gradient_checkpointing=False, use_cpu=True, report_to="none", save_strategy="no",
                logging_strategy="no", disable_tqdm=True,
            ),
            train_dataset=Dataset.from_dict(columns),
            processing_class=PreTrainedTokenizerFast.from_pretrained(WEIGHTS),
            peft_config=config,
        )  # fmt: skip
        began = time.perf_counter()
        trainer.train()
        spent = time.perf_counter() - began
        state = get_peft_model_state_dict(trainer.model)
        adapter.restore({k: v.detach().cpu().contiguous() for k, v in state.items()})
    return spent


def ours(query: Query, model: TransformersModel, folder: Path, updates: int) -> tuple[Adapter, float]:
    """The policy of the posterior after so many steps, and the seconds of training."""
    fitted = query.fit([{}], folder, steps=updates, rank=RANK, draws=64, sleep=0.0, seed=0)
    return Adapter.load(model, folder), fitted.manifest.seconds


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=48)
    parser.add_argument("--updates", default="25,100,300")
    parser.add_argument("--rates", default="3e-4,1e-3", help="learning rates of DPO")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    try:
        import trl
    except ImportError:
        print("preferences: skipped, because trl is not installed (pip install trl)", file=sys.stderr)
        return 0
    warnings.simplefilter("ignore")
    torch.manual_seed(options.seed)
    model = TransformersModel.from_folder(Path(WEIGHTS), dtype="float32", device="cpu")
    query = loads(POLICY).lm(base=model).given(prompt=PROMPT)
    rng = np.random.default_rng(options.seed)
    target = query.given(length=0.0, mother=0.0).target()
    pairs = labelled(rng, target, options.pairs)
    taste = loads(WEIGHTS_GIVEN_PAIRS).given(pairs=pairs).draw()
    known = {name: taste.spread(name) for name in TASTE}
    query = query.given({name: found.mean for name, found in known.items()})

    def show(recipe: str, **found: object) -> None:
        rounded: Mapping[str, object] = {
            k: round(v, 4) if isinstance(v, float) else v for k, v in found.items()
        }
        print(json.dumps({"recipe": recipe, **rounded}), flush=True)

    show("taste", trl=trl.__version__, pairs=len(pairs), seed=options.seed,
         **{f"{name}_{what}": getattr(s, what) for name, s in known.items() for what in ("mean", "sd")})  # fmt: skip
    show("base", **figures(rng, target, PriorGuide(target), options.draws))
    show("posterior of the hidden taste", **of_the_posterior(rng, target, 10 * options.draws))
    for updates in map(int, options.updates.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            adapter, seconds = ours(query, model, Path(folder) / "policy", updates)
        found = figures(rng, target, PolicyGuide.of(target, adapter), options.draws)
        show("ours", updates=updates, seconds=seconds, **found)
        adapter.close()
        for rate in map(float, options.rates.split(",")):
            adapter = Adapter.new(model, rank=RANK, seed=options.seed)
            seconds = dpo(pairs, adapter, updates=updates, rate=rate, batch=options.batch)
            found = figures(rng, target, PolicyGuide.of(target, adapter), options.draws)
            show("dpo", updates=updates, rate=rate, seconds=seconds, **found)
            adapter.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
