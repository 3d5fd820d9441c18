"""Adapters: off they are nothing at all, on they are peft's LoRA, and several share one module unseen."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from posterior_lm.lang.diagnostics import DataError, ModelError
from posterior_lm.lm.hf.transformers import TransformersModel
from posterior_lm.lm.protocol import Request
from posterior_lm.train.adapter import CONFIG, WEIGHTS, Adapter, linear_names
from tests.laws.models import MODELS, TOY, WIDE, byte_level_tokenizer, write_model

GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, **WIDE}
LAYERS = {"gpt2": 8, "llama": 14, "neox": 8, "bloom": 8, "sliding": 14}
"""Linear layers of each toy of two blocks, the head left out: counted by hand from the architecture."""
IDS = (5, 40, 17, 99, 8, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy GPT-2 on disk: its linear layers are `Conv1D`, whose weights lie the other way round."""
    return write_model(tmp_path_factory.mktemp("toy"), "gpt2", byte_level_tokenizer(), eos=0, **GPT2)


@pytest.fixture
def base(folder: Path) -> TransformersModel:
    return TransformersModel.from_folder(folder)


def logits(model: TransformersModel) -> torch.Tensor:
    return model._forward(torch.tensor([IDS]))


def peft_logits(folder: Path, saved: Path, ids: torch.Tensor) -> torch.Tensor:
    """What peft and transformers alone make of a base and a saved adapter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's own, of what transformers will rename
        plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), saved).eval()
    with torch.inference_mode():
        return plain(input_ids=ids).logits


def reward(model: TransformersModel) -> np.ndarray:
    (scores,) = model.score([Request(IDS, 2)])
    return np.asarray(scores.tokens)


def stir(adapter: Adapter, seed: int = 0, size: float = 0.3) -> Adapter:
    """Weights that change the model a lot."""
    rng = torch.Generator().manual_seed(seed)
    adapter.restore({k: size * torch.randn(v.shape, generator=rng) for k, v in adapter.tensors().items()})
    return adapter


def far(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a - b).abs().max() > 0.05)


# ------------------------------------------------------------------- off is off


def test_a_fresh_adapter_changes_nothing_and_other_weights_do(base: TransformersModel) -> None:
    before = logits(base)
    adapter = Adapter.new(base, rank=3, seed=1)
    with adapter.on():
        assert torch.equal(logits(base), before)  # B = 0
    stir(adapter)
    with adapter.on():
        assert far(logits(base), before)
    assert torch.equal(logits(base), before)


def test_off_is_the_base_bit_for_bit_at_every_moment(base: TransformersModel) -> None:
    before, reward_before = logits(base), reward(base)
    weights = {n: p.detach().clone() for n, p in base._forward.module.named_parameters()}

    def unchanged() -> bool:
        return torch.equal(logits(base), before) and np.array_equal(reward(base), reward_before)

    first = stir(Adapter.new(base, rank=3, seed=1), 1)
    assert unchanged()
    second = stir(Adapter.new(base, rank=2, seed=2), 2)
    assert unchanged()
    adapted = first.model()
    assert far(logits(adapted), before)
    assert unchanged()
    assert not np.allclose(reward(adapted), reward_before, atol=1e-3)
    assert unchanged()
    first.close()
    assert unchanged()
    second.close()
    assert unchanged()
    kept = {n.replace(".base_layer", ""): p for n, p in base._forward.module.named_parameters()}
    assert set(weights) <= set(kept)
    assert all(torch.equal(weights[n], kept[n]) for n in weights)


def test_off_again_after_an_exception_and_inside_nested_blocks(base: TransformersModel) -> None:
    before = logits(base)
    first, second = stir(Adapter.new(base, rank=3), 1), stir(Adapter.new(base, rank=2), 2)
    with first.on():
        alone = logits(base)
    with second.on():
        other = logits(base)
    assert far(alone, other)
    with pytest.raises(RuntimeError, match="stop here"), first.on():
        raise RuntimeError("stop here")
    assert torch.equal(logits(base), before)
    with first.on():
        with pytest.raises(KeyboardInterrupt), second.on():
            assert torch.equal(logits(base), other)
            raise KeyboardInterrupt
        assert torch.equal(logits(base), alone)
    assert torch.equal(logits(base), before)


def test_the_adapted_model_is_on_only_while_it_computes(base: TransformersModel) -> None:
    before = logits(base)
    adapter = stir(Adapter.new(base, rank=3))
    adapted = adapter.model()
    rollout = adapted.open([IDS[:3], IDS[:4]])
    assert torch.equal(logits(base), before)  # while a rollout is under way
    far_ahead = rollout.extend(np.array([0, 1]), np.array([IDS[3], IDS[4]])).log_probs
    with adapter.on():
        wanted = torch.log_softmax(base._forward(torch.tensor([IDS[:5]]))[0, -1], dim=-1).numpy()
    width = far_ahead.shape[1]
    np.testing.assert_allclose(far_ahead[1], wanted[:width], atol=1e-4)
    assert torch.equal(logits(base), before)


def test_the_adapted_model_keeps_the_tokenizer_and_takes_another_identity(base: TransformersModel) -> None:
    adapted = Adapter.new(base, rank=2).model()
    assert adapted.tokenizer is base.tokenizer
    assert adapted.max_length == base.max_length
    assert adapted.identity != base.identity
    assert adapted.identity.digest == base.identity.digest


def test_a_model_asked_for_again_sees_new_weights(base: TransformersModel) -> None:
    adapter = stir(Adapter.new(base, rank=2), 1)
    old = reward(adapter.model())
    stir(adapter, 2)
    assert not np.allclose(reward(adapter.model()), old, atol=1e-3)


# ------------------------------------------------------------------- several on one module


def test_two_adapters_do_not_touch_each_other(base: TransformersModel) -> None:
    first, second = Adapter.new(base, rank=3, seed=1), Adapter.new(base, rank=3, seed=2)
    stir(first, 1)
    weights, shown = first.tensors(), logits(first.model())
    assert all(torch.count_nonzero(v) == 0 for k, v in second.tensors().items() if "lora_B" in k)
    stir(second, 2)
    assert all(torch.equal(v, first.tensors()[k]) for k, v in weights.items())
    assert torch.equal(logits(first.model()), shown)
    assert far(logits(second.model()), shown)


def test_adapters_on_different_layers_share_a_module(base: TransformersModel) -> None:
    first = stir(Adapter.new(base, rank=2, targets=("c_attn",)), 1)
    alone = logits(first.model())
    second = stir(Adapter.new(base, rank=2, targets=("c_fc",)), 2)
    assert torch.equal(logits(first.model()), alone)
    assert far(logits(second.model()), alone)
    assert {n.split(".lora_")[0].rsplit(".", 1)[-1] for n in first.parameters} == {"c_attn"}
    assert {n.split(".lora_")[0].rsplit(".", 1)[-1] for n in second.parameters} == {"c_fc"}
    assert linear_names(base) == ["c_attn", "c_fc", "c_proj"]


def test_a_dozen_adapters_keep_their_weights_apart(base: TransformersModel) -> None:
    """Their names are numbered, and one name may begin another."""
    many = [stir(Adapter.new(base, rank=1, targets=("c_attn",)), k) for k in range(12)]
    for k, adapter in enumerate(many):
        rng = torch.Generator().manual_seed(k)
        for value in adapter.tensors().values():
            assert torch.equal(value, 0.3 * torch.randn(value.shape, generator=rng))
    shown = [logits(a.model()) for a in many]
    assert all(far(a, b) for i, a in enumerate(shown) for b in shown[:i])


@pytest.mark.parametrize("event", ["another is attached", "another is closed", "another is loaded"])
def test_the_living_keep_their_gradients(base: TransformersModel, tmp_path: Path, event: str) -> None:
    first, second = Adapter.new(base, rank=2, seed=1), Adapter.new(base, rank=2, seed=2)
    third = Adapter.new(base, rank=2, seed=3)
    if event == "another is attached":
        Adapter.new(base, rank=1)
    elif event == "another is closed":
        first.close()
    else:
        first.save(tmp_path)
        Adapter.load(base, tmp_path)
    for adapter in (second, third):
        assert all(p.requires_grad for p in adapter.parameters.values())
        adapter.model()._forward.logits(torch.tensor([IDS]))[0, -1, 7].backward()
        # At B = 0 only the B matrices have a gradient that is not zero.
        assert all(torch.count_nonzero(p.grad) for n, p in adapter.parameters.items() if "lora_B" in n)
    frozen = [p for n, p in base._forward.module.named_parameters() if "lora_" not in n]
    assert frozen and not any(p.requires_grad or p.grad is not None for p in frozen)


def test_gradients_reach_one_adapter_alone(base: TransformersModel) -> None:
    first, second = stir(Adapter.new(base, rank=2), 1), stir(Adapter.new(base, rank=2), 2)
    for p in first.parameters.values():
        p.requires_grad_(True)
    first.model()._forward.logits(torch.tensor([IDS]))[0, -1, 7].backward()
    assert all(p.grad is not None and torch.count_nonzero(p.grad) for p in first.parameters.values())
    assert all(p.grad is None for p in second.parameters.values())


# ------------------------------------------------------------------- randomness


def test_the_seed_alone_decides_the_weights(folder: Path) -> None:
    def fresh(seed: int, noise: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(noise)
        state = torch.get_rng_state()
        adapter = Adapter.new(TransformersModel.from_folder(folder), rank=3, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        return adapter.tensors()

    before = torch.get_rng_state()
    try:
        one, same, other = fresh(4, 1), fresh(4, 2), fresh(5, 1)
    finally:
        torch.set_rng_state(before)
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not any(torch.equal(one[k], other[k]) for k in one if "lora_A" in k)
    assert all(torch.count_nonzero(one[k]) for k in one if "lora_A" in k)


def test_loading_leaves_the_global_generator_alone(base: TransformersModel, tmp_path: Path) -> None:
    Adapter.new(base, rank=2).save(tmp_path)
    state = torch.get_rng_state()
    Adapter.load(base, tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


# ------------------------------------------------------------------- saving


def test_saved_and_loaded_bit_for_bit(base: TransformersModel, folder: Path, tmp_path: Path) -> None:
    adapter = stir(Adapter.new(base, rank=3, alpha=5.0, targets=("c_attn", "c_fc")))
    adapter.save(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} >= {WEIGHTS, CONFIG}
    for again in (
        Adapter.load(base, tmp_path),
        Adapter.load(TransformersModel.from_folder(folder), tmp_path),
    ):
        assert again.tensors().keys() == adapter.tensors().keys()
        assert all(torch.equal(v, again.tensors()[k]) for k, v in adapter.tensors().items())
        assert torch.equal(logits(again.model()), logits(adapter.model()))
        assert (again.config.r, again.config.lora_alpha) == (3, 5.0)
        assert all(p.requires_grad for p in again.parameters.values())


def test_peft_reads_what_was_saved(base: TransformersModel, folder: Path, tmp_path: Path) -> None:
    adapter = stir(Adapter.new(base, rank=3, alpha=5.0))
    adapter.save(tmp_path)
    shown, off = logits(adapter.model()), logits(base)
    assert far(shown, off)
    torch.testing.assert_close(
        peft_logits(folder, tmp_path, torch.tensor([IDS])), shown, rtol=1e-5, atol=1e-5
    )
    assert json.loads((tmp_path / CONFIG).read_text())["base_model_name_or_path"] == str(folder)


def test_an_adapter_that_peft_wrote_is_read(base: TransformersModel, folder: Path, tmp_path: Path) -> None:
    config = LoraConfig(
        r=2, lora_alpha=3, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's own, of what transformers will rename
        plain = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config).eval()
    with torch.no_grad():
        for k, p in enumerate(p for p in plain.parameters() if p.requires_grad):
            p.copy_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(k)))
    plain.save_pretrained(str(tmp_path))
    with torch.inference_mode():
        theirs = plain(input_ids=torch.tensor([IDS])).logits
    ours = logits(Adapter.load(base, tmp_path).model())
    assert far(ours, logits(base))
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)


def test_the_update_is_alpha_over_rank_times_b_a(base: TransformersModel) -> None:
    """Hu et al. 2022, equation 3, on one `Conv1D`, whose weight is stored (in, out)."""
    adapter = stir(Adapter.new(base, rank=3, alpha=5.0, targets=("c_fc",)))
    tensors = adapter.tensors()
    a, b = (next(v for k, v in tensors.items() if f"h.1.mlp.c_fc.lora_{x}" in k) for x in "AB")
    layer = base._forward.module.transformer.h[1].mlp.c_fc
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        with adapter.on():
            on = layer(x)
        assert isinstance(layer.base_layer, Conv1D)
        torch.testing.assert_close(on - layer(x), 5 / 3 * x @ a.T @ b.T, rtol=1e-4, atol=1e-5)


def test_alpha_is_twice_the_rank_by_default(base: TransformersModel) -> None:
    assert Adapter.new(base, rank=7).config.lora_alpha == 14


# ------------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_products_are_as_precise_as_the_model_and_weights_stay_single(name: str, tmp_path: Path) -> None:
    shape = GPT2 if name == "gpt2" else {"num_key_value_heads": 2, "intermediate_size": 48, **TOY, **WIDE}
    write_model(tmp_path / name, name, byte_level_tokenizer(), eos=0, **shape)
    seen: dict[str, set[torch.dtype]] = {"bfloat16": set(), "float32": set()}
    found, slopes = {}, {}
    for dtype, kinds in seen.items():
        model = TransformersModel.from_folder(tmp_path / name, dtype=dtype)
        adapter = stir(Adapter.new(model, rank=3, seed=1), size=0.1)
        layer = adapter._layers[0]
        layer.lora_A[adapter._name].register_forward_hook(
            lambda _, __, out, kinds=kinds: kinds.add(out.dtype)
        )
        with torch.enable_grad():
            logits = adapter.model()._forward.logits(torch.tensor([IDS]))
            torch.log_softmax(logits, dim=-1)[0, :, 7].sum().backward()
        found[dtype] = torch.log_softmax(logits, dim=-1).detach()
        slopes[dtype] = {n: p.grad for n, p in zip(adapter.names, adapter.parameters.values(), strict=True)}
        assert {p.dtype for p in adapter.parameters.values()} == {torch.float32}
        assert all(one.cast_input_dtype_enabled for one in adapter._layers), "as it was outside"
        assert logits.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    assert seen == {"bfloat16": {torch.bfloat16}, "float32": {torch.float32}}
    torch.testing.assert_close(found["bfloat16"], found["float32"], atol=0.1, rtol=0.05)
    for name, slope in slopes["float32"].items():
        other = slopes["bfloat16"][name]
        assert other.dtype == torch.float32
        assert torch.linalg.norm(other - slope) <= 0.1 * torch.linalg.norm(slope), name


@pytest.fixture
def saved(base: TransformersModel, tmp_path: Path) -> Path:
    stir(Adapter.new(base, rank=3)).save(tmp_path)
    return tmp_path


def spoil_weights(folder: Path, change) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file(change(tensors), folder / WEIGHTS, metadata={"format": "pt"})


def edit_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / CONFIG).read_text()) | changes
    (folder / CONFIG).write_text(json.dumps(config))


def _first(tensors: dict) -> str:
    return min(tensors)


def _truncated(folder: Path) -> None:
    raw = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(raw[: len(raw) // 2])


SPOILED = {
    "no folder": lambda f: shutil.rmtree(f),
    "no weights": lambda f: (f / WEIGHTS).unlink(),
    "no configuration": lambda f: (f / CONFIG).unlink(),
    "weights cut short": _truncated,
    "weights of zero bytes": lambda f: (f / WEIGHTS).write_bytes(b""),
    "weights that are no safetensors": lambda f: (f / WEIGHTS).write_bytes(b"\x80\x04K\x01." * 40),
    "configuration that is no JSON": lambda f: (f / CONFIG).write_text("{"),
    "configuration that is a list": lambda f: (f / CONFIG).write_text("[]"),
    "a weight missing": lambda f: spoil_weights(f, lambda t: {k: v for k, v in t.items() if k != _first(t)}),
    "a weight too many": lambda f: spoil_weights(f, lambda t: {**t, "odd.lora_A.weight": torch.zeros(3, 3)}),
    "another rank": lambda f: edit_config(f, r=4),
    "one weight of another shape": lambda f: spoil_weights(
        f, lambda t: {**t, _first(t): t[_first(t)].T.contiguous()}
    ),
    "a weight that is not a number": lambda f: spoil_weights(
        f, lambda t: {**t, _first(t): t[_first(t)] * math.nan}
    ),
    "an infinite weight": lambda f: spoil_weights(f, lambda t: {**t, _first(t): t[_first(t)] * math.inf}),
    "layers of another model": lambda f: edit_config(f, target_modules=["query_key_value"]),
    "fewer layers": lambda f: edit_config(f, target_modules=["c_attn"]),
}


@pytest.mark.parametrize("how", SPOILED)
def test_what_is_no_fitting_adapter_is_refused(base: TransformersModel, saved: Path, how: str) -> None:
    before = logits(base)
    SPOILED[how](saved)
    with pytest.raises(DataError, match="PLM622") as caught:
        Adapter.load(base, saved)
    assert str(saved) in str(caught.value)
    assert torch.equal(logits(base), before)
    stir(Adapter.new(base, rank=2))  # the module takes further adapters
    assert torch.equal(logits(base), before)


def test_another_kind_of_adapter_is_refused(base: TransformersModel, saved: Path) -> None:
    (saved / CONFIG).unlink()
    IA3Config(task_type="CAUSAL_LM", target_modules=["c_attn"], feedforward_modules=[]).save_pretrained(
        str(saved)
    )
    with pytest.raises(DataError, match="PLM622"):
        Adapter.load(base, saved)


def test_an_adapter_of_another_architecture_is_refused(base: TransformersModel, tmp_path: Path) -> None:
    Adapter.new(MODELS["neox"](tmp_path / "neox"), rank=2).save(tmp_path)
    with pytest.raises(DataError, match="PLM622"):
        Adapter.load(base, tmp_path)


def test_an_adapter_of_a_wider_model_is_refused(base: TransformersModel, tmp_path: Path) -> None:
    wide = write_model(tmp_path / "m", "gpt2", byte_level_tokenizer(), eos=0, **{**GPT2, "n_embd": 48})
    (tmp_path / "a").mkdir()
    Adapter.new(TransformersModel.from_folder(wide), rank=2).save(tmp_path / "a")
    with pytest.raises(DataError, match="PLM622"):
        Adapter.load(base, tmp_path / "a")


def test_refused_weights_are_not_half_taken(base: TransformersModel) -> None:
    adapter = stir(Adapter.new(base, rank=2))
    kept = adapter.tensors()
    for bad in (
        {k: v for k, v in kept.items() if k != max(kept)},
        {k: torch.zeros_like(v) if k != max(kept) else torch.zeros(1, 1) for k, v in kept.items()},
        {k: torch.zeros_like(v) if k != max(kept) else v * math.nan for k, v in kept.items()},
    ):
        with pytest.raises(ValueError):
            adapter.restore(bad)
        assert all(torch.equal(v, adapter.tensors()[k]) for k, v in kept.items())


def test_an_unknown_layer_is_named_with_those_that_exist(base: TransformersModel) -> None:
    with pytest.raises(ModelError, match="PLM517") as caught:
        Adapter.new(base, rank=2, targets=("c_attn", "q_proj"))
    assert "q_proj" in str(caught.value)
    assert "c_attn, c_fc, c_proj" in "".join(d.help or "" for d in caught.value.diagnostics)


def test_the_head_and_the_embedding_are_no_layers_to_adapt(base: TransformersModel) -> None:
    for name in ("lm_head", "wte"):
        with pytest.raises(ModelError, match="PLM517"):
            Adapter.new(base, rank=2, targets=(name,))


def test_a_router_of_experts_is_no_layer_to_adapt(tmp_path: Path) -> None:
    """It is a linear layer by its class and returns three tensors, which peft cannot add to."""
    options = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
               "intermediate_size": 48, "num_local_experts": 4, "max_position_embeddings": 64}  # fmt: skip
    folder = write_model(tmp_path / "experts", "phimoe", byte_level_tokenizer(), eos=0, **options)
    base = TransformersModel.from_folder(folder)
    assert "router" not in linear_names(base) and "q_proj" in linear_names(base)
    adapter = Adapter.new(base, rank=2)
    torch.testing.assert_close(logits(adapter.model()), logits(base))
    assert far(logits(stir(adapter).model()), logits(base))


def test_a_table_has_nothing_to_adapt(tmp_path: Path) -> None:
    table = MODELS["tabular-1"](tmp_path)
    with pytest.raises(ModelError, match="PLM516"):
        Adapter.new(table, rank=2)
    with pytest.raises(ModelError, match="PLM516"):
        Adapter.load(table, tmp_path)


# ------------------------------------------------------------------- closing


def test_closing_leaves_base_and_others_as_they_were(base: TransformersModel) -> None:
    before = logits(base)
    first, second = stir(Adapter.new(base, rank=2), 1), stir(Adapter.new(base, rank=2), 2)
    shown = logits(second.model())
    first.close()
    first.close()  # twice is once
    assert torch.equal(logits(base), before)
    assert torch.equal(logits(second.model()), shown)
    second.close()
    assert not [n for n, _ in base._forward.module.named_parameters() if "lora_" in n]
    third = stir(Adapter.new(base, rank=2), 2)
    assert torch.equal(logits(third.model()), shown)  # the same weights make the same model
    assert torch.equal(logits(base), before)


def test_closing_while_another_is_on_changes_nothing(base: TransformersModel) -> None:
    first, second = stir(Adapter.new(base, rank=2), 1), stir(Adapter.new(base, rank=2), 2)
    shown = logits(second.model())
    with second.on():
        first.close()
        assert torch.equal(logits(base), shown)
    assert not torch.equal(logits(base), shown)


def test_attaching_while_another_is_on_leaves_the_base(base: TransformersModel) -> None:
    before = logits(base)
    first = stir(Adapter.new(base, rank=2), 1)
    shown = logits(first.model())
    with first.on():
        stir(Adapter.new(base, rank=2), 2)
    assert torch.equal(logits(base), before)
    assert torch.equal(logits(first.model()), shown)


# ------------------------------------------------------------------- architectures


@pytest.mark.parametrize(
    "name", ["gpt2", "llama", "neox", "bloom", "sliding", "mamba", "stories260k", "tinystories656k", "tiny"]
)
def test_every_architecture(name: str, tmp_path: Path) -> None:
    model = MODELS[name](tmp_path)
    text = model.tokenizer.encode("the end")
    ids = torch.tensor([text])

    def shown(m: TransformersModel) -> torch.Tensor:
        return m._forward(ids)

    before = shown(model)
    adapter = Adapter.new(model, rank=2, seed=3)
    if name in LAYERS:
        assert len(adapter.parameters) == 2 * LAYERS[name]
    assert not any("lm_head" in n or "embed_out" in n for n in adapter.parameters)
    with adapter.on():
        assert torch.equal(shown(model), before)
    stir(adapter)
    assert far(shown(adapter.model()), before)
    assert torch.equal(shown(model), before)
    adapted = adapter.model()
    # One pass and a rollout agree under the adapter too.
    (scores,) = adapted.score([Request(text, 1)])
    walk = adapted.open([text[:1]])
    for t in range(1, len(text)):
        assert walk.log_probs[0, text[t]] == pytest.approx(float(scores.tokens[t - 1]), abs=2e-3)
        walk = walk.extend(np.array([0]), np.array([text[t]]))
    (tmp_path / "saved").mkdir()
    adapter.save(tmp_path / "saved")
    again = Adapter.load(model, tmp_path / "saved")
    assert torch.equal(shown(again.model()), shown(adapter.model()))
    if name in LAYERS:
        torch.testing.assert_close(
            peft_logits(Path(model.identity.name), tmp_path / "saved", ids),
            shown(adapter.model()), rtol=1e-5, atol=1e-5,
        )  # fmt: skip
