"""Reinforcement learning on the same task: TRL's RLOO with the KL in the reward (Ahmadian et al. 2024).

    python benchmarks/rloo.py [--target middle] [--evaluations 20000] [--rate 3e-4 1e-3 3e-3]
        [--sleep 0.87]

RLOO maximises E_q[reward] − β KL(q ‖ ref), with the base model after the guide's own
prompt as ref. With β = 1 and the reward log R(z) − log ref(z) the maximum is the
posterior, q ∝ R. Program, rows, model, adapter (rank, scale, layers) and the number
of reward evaluations are those of a fit; generation ends at the program's stop. A
draw outside the support gets `OUTSIDE` nats, and the guide that is measured has the
support's mask, which can only bring it closer to the posterior.

Needs `trl` (tried with 1.16), which is no dependency of the package; without it
the script says so and ends. One JSON line per learning rate.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from attrs import define, evolve, field

from benchmarks.quality import HeldOut
from benchmarks.targets import PROGRAMS, KnownTarget, known_target
from posterior_lm.infer.guide import contexts_of
from posterior_lm.lm.hf.transformers import TransformersModel
from posterior_lm.lm.protocol import LanguageModel, Request
from posterior_lm.lm.tiny import WEIGHTS
from posterior_lm.target.prepared import PreparedProgram
from posterior_lm.target.target import Target
from posterior_lm.target.validate import validate_data
from posterior_lm.train.adapter import Adapter
from posterior_lm.train.guide import PolicyGuide, readings_of

Ids = tuple[int, ...]

OUTSIDE = -30.0
"""Reward of a draw outside the support, nats. The optimum then gives the outside at most
exp(OUTSIDE) / evidence, below 1e-8 for an evidence of exp(−11)."""


@define(eq=False)
class Reward:
    """log R(z) − log ref(z | prompt) of completions, and how often it was asked and for how long."""

    targets: Sequence[Target]
    contexts: Sequence[Ids]
    reference: LanguageModel
    evaluations: int = field(init=False, default=0)
    outside: int = field(init=False, default=0)
    seconds: float = field(init=False, default=0.0)

    @property
    def dtype(self) -> str:
        return self.reference.identity.dtype

    @classmethod
    def of(cls, known: KnownTarget, models: dict[str, LanguageModel]) -> Reward:
        graph = known.query.graph
        targets = [
            PreparedProgram.of(graph, models).bind_valid(validate_data(graph, row)) for row in known.train
        ]
        contexts = []
        for target in targets:
            (name,) = target.names
            reading = readings_of(target)[name]
            contexts.append(contexts_of(target, reading.lm, reading.segments, {}, 1)[0][0])
        return cls(targets, contexts, models["base"])

    def __call__(self, rows: Sequence[int], completions: Sequence[Sequence[int]]) -> list[float]:
        """(N,) nats for N completions and the numbers of their training rows."""
        began = time.perf_counter()
        out = np.full(len(rows), OUTSIDE)
        for row in dict.fromkeys(rows):
            target, context = self.targets[row], self.contexts[row]
            info = target.latents[0]
            mine = [d for d, r in enumerate(rows) if r == row and info.support.accepts(tuple(completions[d]))]
            if not mine:
                continue
            values = [target.value_of(info.name, completions[d]) for d in mine]
            log_reward = target.log_reward({info.name: values})
            requests = [Request(context + v.ids, len(context), len(context)) for v in values]
            reference = np.array([s.tokens.sum() for s in self.reference.score(requests)])
            finite = np.isfinite(log_reward)
            out[np.array(mine)[finite]] = (log_reward - reference)[finite]
        self.evaluations += len(rows)
        self.outside += int((out == OUTSIDE).sum())
        self.seconds += time.perf_counter() - began
        return out.tolist()


def train(
    known: KnownTarget, reward: Reward, adapter: Adapter, *, evaluations: int, rows: int, draws: int,
    rate: float, seed: int, weights: Path = Path(WEIGHTS),
) -> float:  # fmt: skip
    """RLOO from a fresh adapter, its weights put into `adapter`; returns the seconds of training."""
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model_state_dict
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
    from trl import RLOOConfig, RLOOTrainer

    tokenizer = PreTrainedTokenizerFast.from_pretrained(weights, padding_side="left")
    prompts = [reward.reference.tokenizer.decode(c) for c in reward.contexts]
    for prompt, context in zip(prompts, reward.contexts, strict=True):
        # The trainer spells its prompts itself: they must be what the guide reads, token for token.
        assert tuple(tokenizer(prompt)["input_ids"]) == context, (prompt, context)
    support = reward.targets[0].latents[0].support
    module = AutoModelForCausalLM.from_pretrained(weights, dtype=reward.dtype)
    module.generation_config.eos_token_id = list(support.stop_ids) or None
    config = LoraConfig(
        r=adapter.config.r,
        lora_alpha=adapter.config.lora_alpha,
        target_modules=adapter.config.target_modules,
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )

    def log_ratio(completion_ids: list[list[int]], row: list[int], **_: object) -> list[float]:
        return reward(row, completion_ids)

    with tempfile.TemporaryDirectory() as folder:
        trainer = RLOOTrainer(
            model=module,
            reward_funcs=log_ratio,
            args=RLOOConfig(
                output_dir=folder,
                beta=1.0,
                learning_rate=rate,
                num_generations=draws,
                per_device_train_batch_size=rows * draws,
                gradient_accumulation_steps=1,
                max_steps=max(1, evaluations // (rows * draws)),
                max_completion_length=support.max_tokens,
                warmup_steps=5,
                lr_scheduler_type="cosine",
                seed=seed,
                bf16=False,
                gradient_checkpointing=False,
                use_cpu=True,
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_dict({"prompt": prompts, "row": list(range(len(prompts)))}),
            processing_class=tokenizer,
            peft_config=config,
        )
        began = time.perf_counter()
        trainer.train()
        spent = time.perf_counter() - began
        adapter.restore(
            {k: v.detach().cpu().contiguous() for k, v in get_peft_model_state_dict(trainer.model).items()}
        )
    return spent


def speeds(weights: Path, *, rows: int, draws: int, steps: int) -> dict[str, object]:
    """Rewarded trajectories a second of RLOO and of balancing with the model of a folder, of equal batches."""
    import trl

    from benchmarks.exactness import trainer_of
    from benchmarks.peers import stored_dtype
    from posterior_lm.train.rows import Rows
    from posterior_lm.train.settings import settings_of
    from posterior_lm.train.simulate import Simulator

    model = TransformersModel.from_folder(weights, dtype=stored_dtype(weights), device="cpu")
    known = known_target("middle", train=32, held_out=1)
    query = known.query.lm(base=model)
    known = evolve(known, query=query)
    reward = Reward.of(known, {"base": model})
    adapter = Adapter.new(model, rank=32, seed=0)
    theirs = train(
        known, reward, adapter, evaluations=rows * draws * steps, rows=rows, draws=draws, rate=1e-4, seed=0,
        weights=weights,
    )  # fmt: skip
    adapter.close()
    settings = settings_of({
        "sleep": 0.0, "rows": rows, "draws": draws, "seeds": 0, "simulated": 0.0, "replayed": 0.0, "steps": 10_000,
    })  # fmt: skip
    data = [validate_data(query.graph, row) for row in known.train]
    adapter = Adapter.new(model, rank=32, seed=0)
    trainer = trainer_of(
        Rows(query.prepared, data), adapter, settings, Simulator(query.prepared, data, alike=True)
    )
    trainer.step()
    began = time.perf_counter()
    for _ in range(steps):
        trainer.step()
    mine = time.perf_counter() - began
    adapter.close()
    each = rows * draws * steps
    return {
        "trl": trl.__version__, "trajectories": each, "ours_per_second": each / mine,
        "rloo_per_second": reward.evaluations / theirs, "times_faster": theirs / mine * each / reward.evaluations,
        "outside": reward.outside,
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="middle", choices=list(PROGRAMS))
    parser.add_argument("--evaluations", type=int, default=20_000, help="rewards that may be asked for")
    parser.add_argument("--rate", type=float, nargs="+", default=[1e-3])
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--batch-rows", type=int, default=16, help="rows of a step")
    parser.add_argument("--draws", type=int, default=16, help="draws of each row")
    parser.add_argument("--sleep", type=float, help="share of our steps without rewards (default: the fit's)")
    parser.add_argument("--rows", type=int, help="held-out rows to look at (default: all)")
    parser.add_argument("--cache", type=Path, help="keep the exact listings in this folder")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    try:
        import trl
    except ImportError:
        print("rloo: skipped, because trl is not installed (pip install trl)", file=sys.stderr)
        return 0
    warnings.simplefilter("ignore")
    known = known_target(options.target)
    held_out = HeldOut.of(known, cache=options.cache, rows=options.rows)
    models = dict(held_out.models)
    guide_of: Callable[[Adapter], Callable[[Target], PolicyGuide]] = lambda a: lambda t: PolicyGuide.of(t, a)  # noqa: E731
    found: list[dict[str, object]] = []
    for rate in options.rate:
        reward = Reward.of(known, models)
        adapter = Adapter.new(models["base"], rank=options.rank, seed=options.seed)
        spent = train(
            known, reward, adapter, evaluations=options.evaluations, rows=options.batch_rows,
            draws=options.draws, rate=rate, seed=options.seed,
        )  # fmt: skip
        line = {
            "target": options.target,
            "trl": trl.__version__,
            "rate": rate,
            "rank": options.rank,
            "evaluations": reward.evaluations,
            "outside": reward.outside,
            "seconds": spent,
            "reward_seconds": reward.seconds,
            **held_out.measure(guide_of(adapter)).figures(),
        }
        print(
            json.dumps({k: round(v, 5) if isinstance(v, float) else v for k, v in line.items()}), flush=True
        )
        adapter.close()
        found.append(line)
    best = min(found, key=lambda line: float(str(line["forward_kl_mean"])))
    mine = beside(known, held_out, float(str(best["seconds"])), options.rank, options.sleep)
    mine["kl_over_rloo"] = float(str(mine["forward_kl_mean"])) / float(str(best["forward_kl_mean"]))
    print(json.dumps({k: round(v, 5) if isinstance(v, float) else v for k, v in mine.items()}), flush=True)
    return 0


def beside(
    known: KnownTarget, held_out: HeldOut, seconds: float, rank: int, sleep: float | None
) -> dict[str, object]:
    """Our recipe in no more seconds than the best of the runs above, on the same held-out rows."""
    from benchmarks.against_paper import ours

    trainer, adapter = ours(known, held_out, {"rank": rank, "budget": seconds, "sleep": sleep})
    evaluations = 0.0
    while not trainer.finished:
        progress = trainer.step()
        if progress.stage == "balance":
            evaluations += trainer.settings.rows * trainer.settings.draws
    figures = held_out.measure(lambda target: PolicyGuide.of(target, adapter)).figures()
    adapter.close()
    return {"recipe": "ours", "seconds": trainer.seconds, "steps": trainer.steps_done,
            "evaluations": evaluations, **figures}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
