"""Every causal architecture of the installed transformers, with random weights, through the product.

    python -m benchmarks.architectures [KIND …] [--seconds 60] [--out FILE]

Each is built from its own configuration at toy size, saved, loaded as a user's folder would be, and
asked: a score, draws of importance sampling and of smc whose log rewards are held against a plain
forward pass over the whole text, and two steps of a fit. One JSON line each: what came of it, the
largest difference in nats, and the shortcuts that its code has. Kinds that cannot be built so small
are `unbuilt` and say why; that is their configuration's business.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from queue import Empty
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import posterior_lm as plm
from posterior_lm.lang.diagnostics import PlmError
from posterior_lm.lm.resolve import load_model
from tests.laws.models import byte_level_tokenizer, write_tokenizer

MEMORY = 8 << 30
"""Bytes that one may take: some configurations stay large whatever is asked of them."""

SMALL: dict[str, object] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "embedding_size", "word_embed_proj_dim", "attention_hidden_size"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"), 4),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "n_head", "n_heads", "encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff", "dff", "n_inner", "ffn_hidden_size", "shared_intermediate_size"), 48),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 256),
    **dict.fromkeys(("head_dim", "d_kv", "v_head_dim", "qk_rope_head_dim", "qk_nope_head_dim", "mamba_n_heads", "mamba_d_head"), 8),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "state_size", "mamba_d_state", "conv_kernel", "rotary_dim"), 4),
    **dict.fromkeys(("moe_intermediate_size", "q_lora_rank", "kv_lora_rank", "expert_ffn_hidden_size"), 16),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "mamba_expand"), 2),
    **dict.fromkeys(("n_shared_experts", "n_group", "topk_group", "first_k_dense_replace", "max_window_layers"), 1),
    "initializer_range": 0.3,  # skewed next tokens, and attention that matters
    "is_decoder": True,
}  # fmt: skip
CONTEXT, VALUE, AFTER = "the cat", " the a.", " and so on."
PROGRAM = f"""lm base = "tiny"
program p() {{
  latent z: text(tokens=1..6, stop=".") ~ base("{CONTEXT}")
  observe "{AFTER}" ~ base("{CONTEXT}", z)
}}"""


def build(kind: str, folder: Path) -> None:
    """Write a toy of the architecture, with a byte-level tokenizer."""
    spec = byte_level_tokenizer()
    write_tokenizer(folder, spec, eos_token="<|endoftext|>")
    default = CONFIG_MAPPING[kind]()
    options = {
        name: value for name, value in SMALL.items() if isinstance(getattr(default, name, None), int | float)
    }
    options |= {
        "vocab_size": len(spec["model"]["vocab"]),
        "eos_token_id": 0,
        "bos_token_id": None,
        "pad_token_id": 0,
    }
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**options)).float().save_pretrained(folder)


def asked(folder: Path) -> dict[str, Any]:
    """What the product says of the folder, and the largest difference from a plain forward pass, in nats."""
    model = load_model(str(folder))
    query = plm.loads(PROGRAM).lm(base=model)
    module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    module.config.use_cache = False
    context, value, after = (tuple(model.tokenizer.encode(t)) for t in (CONTEXT, VALUE, AFTER))

    def by_hand(z: tuple[int, ...]) -> float:
        ids = context + z + after
        with torch.inference_mode():
            rows = torch.log_softmax(module(torch.tensor([ids])).logits[0].double(), dim=-1)
        return sum(float(rows[i - 1, ids[i]]) for i in range(len(context), len(ids)))

    gaps = [abs(query.score({"z": VALUE}).log_reward - by_hand(value))]
    for method in ("importance", "smc"):
        draws = query.using(method).draw(64, seed=0).draws
        gaps += [abs(by_hand(draws.values["z"][i].ids) - draws.log_reward[i]) for i in range(0, 64, 9)]
    abilities = model.abilities  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as out:
        query.fit([{}], Path(out) / "policy", steps=2, draws=4, certify_draws=10, seed=0)
    return {"gap": max(gaps), "cached": abilities.cached, "packed": abilities.packed}


def tried(kind: str, found: Any) -> None:
    """Puts what became of one architecture in the queue `found`."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        try:
            build(kind, Path(folder))
        except Exception as problem:
            return found.put({"came": "unbuilt", "why": f"{type(problem).__name__}: {problem}"[:200]})
        try:
            found.put({"came": "answered", **asked(Path(folder))})
        except PlmError as problem:
            found.put({"came": "refused", "why": problem.diagnostics[0].message[:200]})
        except Exception as problem:
            found.put({"came": "failed", "why": f"{type(problem).__name__}: {problem}"[:200]})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kinds", nargs="*", default=list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
    parser.add_argument("--seconds", type=float, default=60.0, help="for one architecture")
    parser.add_argument("--out", type=Path, help="append the lines to this file too")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    context, counts, worst = multiprocessing.get_context("fork"), Counter[str](), 0.0
    for kind in args.kinds:
        found = context.Queue()
        process = context.Process(target=tried, args=(kind, found))
        process.start()
        try:
            line = {"kind": kind, **found.get(timeout=args.seconds)}
        except Empty:
            line = {"kind": kind, "came": "late", "why": f"not done in {args.seconds:.0f} s"}
        process.kill()
        process.join()
        counts.update([line["came"], *(name for name in ("cached", "packed") if line.get(name))])
        worst = max(worst, line.get("gap", 0.0))
        print(json.dumps(line), flush=True)
        if args.out:
            with args.out.open("a") as file:
                file.write(json.dumps(line) + "\n")
    print(f"{dict(counts)}, largest difference {worst:.1e} nats, transformers {transformers.__version__}")


if __name__ == "__main__":
    main()
