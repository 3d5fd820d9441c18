"""Small made-up GGUF files, as llama.cpp writes them, beside the very models that they hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.laws.models import byte_level_tokenizer

TEMPLATE = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}{% endfor %}"
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def llama(seed: int = 0) -> LlamaForCausalLM:
    """Two layers of 64, four heads on two key-value heads, tied, over the byte-level test tokenizer."""
    size = len(byte_level_tokenizer()["model"]["vocab"])
    config = LlamaConfig(
        vocab_size=size, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=True, initializer_range=0.3,
        bos_token_id=None, eos_token_id=0, rms_norm_eps=1e-5,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def write_gguf(
    path: Path,
    module: LlamaForCausalLM | None = None,
    *,
    kind: str = "F32",
    tokenizer: bool = True,
    split: str | None = "gpt-2",
    architecture: str = "llama",
    without: str | None = None,
    template: str | None = TEMPLATE,
) -> LlamaForCausalLM:
    """Write a file whose matrices have this GGUF type, and give back the model that it holds.

    `without` leaves out the tensors whose names contain it.
    """
    import gguf

    module = module or llama()
    config, spec = module.config, byte_level_tokenizer()
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    if tokenizer:
        vocab = spec["model"]["vocab"]
        writer.add_tokenizer_model("gpt2")
        if split is not None:
            writer.add_tokenizer_pre(split)
        writer.add_token_list(sorted(vocab, key=vocab.__getitem__))
        writer.add_token_types([3] + [1] * (len(vocab) - 1))
        writer.add_token_merges([" ".join(merge) for merge in spec["model"]["merges"]])
        writer.add_eos_token_id(0)
        writer.add_add_bos_token(False)
        if template is not None:
            writer.add_chat_template(template)
    for name, tensor in module.state_dict().items():
        if name == "lm_head.weight":
            continue
        values, found = tensor.float().numpy(), _gguf_name(name)
        if without is not None and without in found:
            continue
        if "attn_q" in found or "attn_k" in found:
            values = _interleaved(values, config, "attn_k" in found)
        if values.ndim > 1 and kind != "F32":
            quantized = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(found, gguf.quants.quantize(values, quantized), raw_dtype=quantized)
        else:
            writer.add_tensor(found, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return module


def _gguf_name(name: str) -> str:
    parts = name.split(".")
    if parts[1] == "layers":
        return f"blk.{parts[2]}.{_NAMES['.'.join(parts[3:-1])]}.weight"
    return f"{_NAMES['.'.join(parts[:-1])]}.weight"


def _interleaved(values: np.ndarray, config: LlamaConfig, keys: bool) -> np.ndarray:
    """Rotary halves in turns, as convert_hf_to_gguf.py writes the query and key weights of a Llama."""
    heads = config.num_key_value_heads if keys else config.num_attention_heads
    return values.reshape(heads, 2, values.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(values.shape)
