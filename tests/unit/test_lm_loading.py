"""Loading: what a name means, and the one sentence for everything that can be wrong with a folder."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from posterior_lm.lang.diagnostics import ModelError
from posterior_lm.lm import weights
from posterior_lm.lm.hf import load, placement
from posterior_lm.lm.hf.transformers import TransformersModel
from posterior_lm.lm.notices import ModelNotice
from posterior_lm.lm.protocol import Request
from posterior_lm.lm.resolve import load_model, peek_tokenizer, resolve
from posterior_lm.lm.weights import find_weights
from tests.laws.models import byte_level_tokenizer, write_model

TABLE = {"tokens": ["a"], "max_tokens": 2, "rows": {"": {"a": 0.25, "<eos>": 0.75}}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    spec = byte_level_tokenizer()
    return write_model(tmp_path / "model", "gpt2", spec, eos=0, n_embd=8, n_layer=1, n_head=2, n_positions=32)


def failure(attempt: Callable[[], object]):
    with pytest.raises(ModelError) as caught:
        attempt()
    (found,) = caught.value.diagnostics
    assert "\n" not in found.message
    assert found.code in str(caught.value)
    return found


def test_what_a_name_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gpt2").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve("tiny").kind == "tiny"
    assert resolve("gpt2").kind == "folder"
    assert resolve("t.json").kind == "tabular"
    assert resolve("openai-community/gpt2").kind == "hub"
    assert resolve("gpt2", base_dir="elsewhere").kind == "hub"
    assert resolve("t.json", base_dir="elsewhere").path == Path("elsewhere/t.json")
    assert resolve(str(tmp_path / "gpt2"), base_dir="elsewhere").path == tmp_path / "gpt2"


def test_a_folder_is_loaded_frozen_and_quietly(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    before = (logging.get_verbosity(), logging.is_progress_bar_enabled())
    capfd.readouterr()
    model = load_model("model", base_dir=folder.parent)
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert isinstance(model, TransformersModel)
    assert not model._forward.module.training
    assert not any(p.requires_grad for p in model._forward.module.parameters())
    assert (model.identity.name, model.identity.kind, model.max_length) == ("model", "transformers", 32)
    assert model.tokenizer.digest == peek_tokenizer("model", folder.parent).digest


def test_a_dtype_is_used_and_a_wider_one_agrees(folder: Path) -> None:
    single, double = load_model(str(folder)), load_model(str(folder), dtype="float64")
    half = load_model(str(folder), dtype="bfloat16")
    assert double.identity.dtype == "float64"
    request = [Request((3, 5, 8, 13), 1)]
    a, b, c = (m.score(request)[0].tokens for m in (single, double, half))
    np.testing.assert_allclose(a, b, atol=1e-5)
    np.testing.assert_allclose(c, b, atol=0.1)
    assert not np.array_equal(a, b)
    assert half.packed and double.packed


def test_the_digest_follows_weights_and_configuration(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "model.safetensors"
    digest = find_weights(folder).digest
    assert load_model(str(folder)).identity.digest == digest
    found = {digest}
    for whole in (weights.WHOLE, 0):  # large files enter by their own digest: every byte of them counts
        monkeypatch.setattr(weights, "WHOLE", whole)
        for at in (-1, -2000, -4000):
            content = bytearray(path.read_bytes())
            content[at] ^= 1
            path.write_bytes(content)
            found.add(find_weights(folder).digest)
    assert len(found) == 7
    _configure(folder, activation_function="relu")
    assert find_weights(folder).digest not in found


def test_the_dtype_is_the_one_that_most_numbers_are_stored_in(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "slow_products", lambda dtype, device: None)
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors, key=lambda name: tensors[name].numel())
    assert load_model(str(folder)).identity.dtype == "float32"
    for kind in (torch.bfloat16, torch.float16, torch.float64):
        mixed = {name: tensors[name].to(kind if name == names[-1] else torch.float32) for name in names}
        save_file(mixed, folder / "model.safetensors", metadata={"format": "pt"})
        model = load_model(str(folder))
        assert model._forward.dtype == kind and f"torch.{model.identity.dtype}" == str(kind)
        assert {p.dtype for p in model._forward.module.parameters()} == {kind}
        assert load_model(str(folder), dtype="float32").identity.digest == model.identity.digest


def test_a_precision_without_instructions_is_widened_where_nobody_asks_for_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {name: one.to(torch.bfloat16) for name, one in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    monkeypatch.setattr(
        placement, "slow_products", lambda dtype, device: 6.2 if dtype == "bfloat16" else None
    )
    with pytest.warns(
        ModelNotice, match="in float32, as this processor multiplies bfloat16 in software, 6 times"
    ):
        wide = load_model(str(folder))
    asked = load_model(str(folder), dtype="bfloat16")
    assert (wide.identity.dtype, asked.identity.dtype) == ("float32", "bfloat16")
    assert wide.identity.digest == asked.identity.digest
    for found, stored in zip(
        wide._forward.module.parameters(), asked._forward.module.parameters(), strict=True
    ):
        assert torch.equal(found, stored.float())
    monkeypatch.setattr(placement, "free_memory", lambda device: find_weights(folder).bytes_in("float32") - 1)
    assert load_model(str(folder)).identity.dtype == "bfloat16"


@pytest.mark.parametrize(("seconds", "slower"), [((1.0, 6.0), 6.0), ((1.0, 1.9), None), ((1.0, 0.4), None)])
def test_products_are_timed_once_on_a_machine(
    seconds: tuple[float, float], slower: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTERIOR_LM_CACHE", str(tmp_path))
    timed = []

    def ratio(dtype: torch.dtype) -> float:
        timed.append(dtype)
        return seconds[1] / seconds[0]

    monkeypatch.setattr(placement, "_slower", ratio)
    for _ in range(2):
        placement.slow_products.cache_clear()
        assert placement.slow_products("bfloat16", "cpu") == slower
        assert (
            placement.slow_products("float32", "cpu") is placement.slow_products("bfloat16", "cuda") is None
        )
    assert timed == [torch.bfloat16]
    placement.slow_products.cache_clear()


# ------------------------------------------------------------------------------- which files are the weights


def _shard(folder: Path, elsewhere: str = "model-2.safetensors") -> None:
    """Two files and their index, the second of which names this file."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[::2], elsewhere: names[1::2]}
    for file, mine in parts.items():
        save_file({n: tensors[n] for n in mine}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {n: file for file, mine in parts.items() for n in mine}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_several_files_are_read_and_hashed(folder: Path) -> None:
    whole = load_model(str(folder))
    _shard(folder)
    (folder / "consolidated.safetensors").write_bytes(b"another form of the same, which is not read")
    parts = load_model(str(folder))
    request = [Request((3, 5, 8, 13), 1)]
    np.testing.assert_array_equal(parts.score(request)[0].tokens, whole.score(request)[0].tokens)
    first = parts.identity.digest
    content = bytearray((folder / "model-2.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model-2.safetensors").write_bytes(content)
    assert load_model(str(folder)).identity.digest != first != whole.identity.digest


def test_an_index_cannot_name_files_elsewhere(folder: Path) -> None:
    (folder.parent / "other").mkdir()
    _shard(folder, "../other/model-2.safetensors")
    found = failure(lambda: load_model(str(folder)))
    assert found.code == "PLM514" and "'../other/model-2.safetensors', which is no file" in found.message
    assert "put the weights into the folder" in found.help
    index = folder / "model.safetensors.index.json"
    for name in (str(folder.parent / "other" / "model-2.safetensors"), "..", "weights.bin", "", 7):
        index.write_text(json.dumps({"weight_map": {"x": name}}))
        assert failure(lambda: load_model(str(folder))).code == "PLM514"
    for content in ("{}", "[]", '{"weight_map": 3}', '{"weight_map": {"x": "gone.safetensors"}}'):
        index.write_text(content)
        assert failure(lambda: load_model(str(folder))).code == "PLM514"


PEFT = pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")  # as it calls transformers


def _adapter(folder: Path, seed: int = 0) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    module = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(seed)
    config = LoraConfig(r=2, target_modules=["c_attn"], init_lora_weights=False, fan_in_fan_out=True)
    get_peft_model(module, config).save_pretrained(folder.parent / f"adapter{seed}")
    return folder.parent / f"adapter{seed}"


@PEFT
def test_an_adapter_is_applied_only_when_it_is_asked_for(folder: Path) -> None:
    request = [Request((3, 5, 8, 13), 1)]
    bare, adapter, another = load_model(str(folder)), _adapter(folder), _adapter(folder, seed=1)
    for file in adapter.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    with pytest.warns(ModelNotice, match="is not applied to the model beside it"):
        beside = load_model(str(folder))
    assert beside.identity == attrs.evolve(bare.identity)
    np.testing.assert_array_equal(beside.score(request)[0].tokens, bare.score(request)[0].tokens)
    applied = load_model(str(folder), adapter=str(adapter))
    assert np.abs(applied.score(request)[0].tokens - bare.score(request)[0].tokens).max() > 1e-4
    relative = load_model(folder.name, base_dir=folder.parent, adapter="adapter0")
    assert relative.identity.digest == applied.identity.digest
    other = load_model(str(folder), adapter=another)
    assert len({bare.identity.digest, applied.identity.digest, other.identity.digest}) == 3


@PEFT
def test_wrong_adapters(folder: Path) -> None:
    found = failure(lambda: load_model(str(folder), adapter="none"))
    assert found.code == "PLM514" and "adapter_config.json is missing" in found.message
    adapter = _adapter(folder)
    found = failure(lambda: load_model(str(adapter)))
    assert found.code == "PLM511" and f"adapter={adapter}" in found.help
    (adapter / "adapter_config.json").write_text("{}")
    assert "cannot be applied" in failure(lambda: load_model(str(folder), adapter=adapter)).message
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    assert (
        "adapter_model.safetensors is missing"
        in failure(lambda: load_model(str(folder), adapter=adapter)).message
    )


# ------------------------------------------------------------------------------- memory, and fewer bits


def test_memory_that_cannot_suffice_is_said_before_loading(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "free_memory", lambda device: 10_000)
    monkeypatch.setattr(load, "_tensors", lambda weights: pytest.fail("they are not read"))
    found = failure(lambda: load_model(str(folder), dtype="float64"))
    assert found.code == "PLM519" and "GiB in float64, and" in found.message and "bfloat16" in found.help
    assert placement.free_memory(torch.device("cpu")) == 10_000
    monkeypatch.undo()
    assert 2**20 < placement.free_memory(torch.device("cpu")) < 2**50
    assert load_model(str(folder), dtype="bfloat16").identity.dtype == "bfloat16"


def test_quantized_weights_without_what_computes_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement.importlib.util, "find_spec", lambda name: None)
    found = failure(lambda: load_model(str(folder), quantize="8bit", device="cpu"))
    assert found.code == "PLM518" and "torchao" in found.message and "cpu-quantized" in found.help
    found = failure(lambda: load_model(str(folder), quantize="3bit"))
    assert found.code == "PLM514" and "use one of 8bit, 4bit" in found.help


@pytest.mark.parametrize(
    ("spoil", "code", "said"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "PLM511", "no *.safetensors file"),
        (
            lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
            "PLM511",
            "only pytorch_model.bin, which is pickled",
        ),
        (
            lambda f: (f / "model.safetensors").rename(f / "weights.safetensors"),
            "PLM511",
            "no model.safetensors, only weights.safetensors",
        ),
        (lambda f: (f / "tokenizer.json").unlink(), "PLM512", "holds no tokenizer"),
        (lambda f: (f / "tokenizer.json").write_text("nonsense"), "PLM513", "tokenizer.json"),
        (lambda f: (f / "tokenizer.json").write_text("[" * 100_000), "PLM513", "nested too deeply"),
        (lambda f: (f / "tokenizer_config.json").write_text("[" * 100_000), "PLM513", "nested too deeply"),
        (lambda f: (f / "config.json").write_text("[" * 100_000), "PLM513", "nested too deeply"),
        (lambda f: (f / "config.json").write_text('{"a": ' + "1" * 5000 + "}"), "PLM513", "308 digits"),
        (lambda f: (f / "config.json").write_bytes(b"\xff"), "PLM513", "byte 0 is not UTF-8"),
        (lambda f: (f / "config.json").unlink(), "PLM514", "config.json is missing"),
        (lambda f: (f / "config.json").write_text("[1]"), "PLM513", "config.json is not a JSON object"),
        (lambda f: _configure(f, model_type="sorcery"), "PLM514", "model_type 'sorcery'"),
        (lambda f: _configure(f, model_type=None), "PLM514", "model_type None"),
        (lambda f: _configure(f, n_embd=16), "PLM514", "failed to load"),
        (lambda f: _configure(f, n_layer=2), "PLM514", "the weights lack"),
        (lambda f: _configure(f, vocab_size=100), "PLM513", "the model has 100"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\0" * 100), "PLM514", "failed to load"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "PLM514", "failed to load"),
        (lambda f: _cut(f / "model.safetensors"), "PLM514", "failed to load"),
    ],
)
def test_a_wrong_folder_is_said_in_one_sentence(
    folder: Path, spoil: Callable[[Path], object], code: str, said: str
) -> None:
    spoil(folder)
    found = failure(lambda: load_model(str(folder)))
    assert found.code == code
    assert said in found.message
    assert str(folder) in found.message


def _configure(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def test_code_that_comes_with_a_model_is_never_run(folder: Path) -> None:
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    _configure(folder, model_type="evil", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"})
    assert failure(lambda: load_model(str(folder))).code == "PLM514"


def test_wrong_options(folder: Path, tmp_path: Path) -> None:
    assert "no dtype 'float31'" in failure(lambda: load_model(str(folder), dtype="float31")).message
    assert "no device 'abacus'" in failure(lambda: load_model(str(folder), device="abacus")).message
    found = failure(lambda: load_model(str(folder), dtype="int8"))
    assert "no dtype 'int8'" in found.message and "quantize=8bit" in found.help
    assert "no numbers" in failure(lambda: load_model(str(folder), device="meta")).message
    if not torch.cuda.is_available():
        assert "no device 'cuda'" in failure(lambda: load_model(str(folder), device="cuda")).message
    (tmp_path / "t.json").write_text(json.dumps(TABLE))
    assert load_model("t.json", base_dir=tmp_path).identity.kind == "tabular"
    assert "has no dtype" in failure(lambda: load_model("t.json", base_dir=tmp_path, dtype="float32")).message


def test_a_model_that_is_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    found = failure(lambda: load_model("no-such/model", base_dir=tmp_path))
    assert found.code == "PLM510"
    for part in ("'no-such/model'", str(tmp_path / "no-such/model"), constants.HF_HUB_CACHE, "offline"):
        assert part in found.message
    assert "hf download no-such/model" in found.help and "--lm" in found.help
    for spec in ("./no/such/folder", "/no/such", "a/b/c", "", "../x"):
        found = failure(lambda spec=spec: load_model(spec, base_dir=tmp_path))
        assert found.code == "PLM510" and "there is no folder" in found.message
    found = failure(lambda: load_model("./no.", base_dir=tmp_path))
    assert found.code == "PLM510" and found.message.endswith(f"there is no folder {tmp_path / 'no.'}")
    assert failure(lambda: load_model("none.json", base_dir=tmp_path)).code == "PLM510"
    assert peek_tokenizer("no-such/model") is None


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("ftp://host/model", "an address is no model"),
        ("weights.bin", "weights.bin is one file"),
        ("./none.safetensors", "none.safetensors is not there"),
    ],
)
def test_what_is_no_name_of_the_hub_is_not_sent_there(spec: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"")
    found = failure(lambda: load_model(spec, base_dir=tmp_path))
    assert found.code == "PLM510" and said in found.message
    assert "hf download" not in found.help and "*.safetensors" in found.help


def test_the_hub_cache_is_enough(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = []

    def snapshot_download(name: str, **options: object) -> str:
        asked.append((name, options["revision"], options["local_files_only"]))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    model = load_model("someone/model", base_dir=tmp_path, revision="main")
    assert asked == [("someone/model", "main", True)]  # found in the cache: the hub is not asked
    assert (model.identity.name, model.identity.revision) == ("someone/model", folder.name)


def test_peeking_and_finding_need_no_torch(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps(TABLE))
    code = (
        "import sys\n"
        "from posterior_lm.lm.resolve import peek_tokenizer, resolve, load_model\n"
        f"assert peek_tokenizer({str(folder)!r}).encode('the')\n"
        f"assert load_model({str(tmp_path / 't.json')!r}).tokenizer.encode('a') == (0,)\n"
        "heavy = {'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_an_encoder_is_refused_and_its_decoder_is_not(kind: str, tmp_path: Path) -> None:
    options = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    for decoder in (False, True):
        folder = write_model(tmp_path / str(decoder), kind, byte_level_tokenizer(), eos=0, is_decoder=decoder,
                             max_position_embeddings=64, **options)  # fmt: skip
        if decoder:
            assert load_model(str(folder)).score([Request((1, 2, 3), 1)])
        else:
            found = failure(lambda: load_model(str(folder)))  # noqa: B023
            assert found.code == "PLM514" and "from left to right" in found.message


def test_a_model_whose_code_fails_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import GPT2LMHeadModel

    def broken(*_args: object, **_options: object) -> None:
        raise RuntimeError("the size of tensor a (4) must match")

    monkeypatch.setattr(GPT2LMHeadModel, "forward", broken)
    found = failure(lambda: load_model(str(folder)))
    assert found.code == "PLM514" and "a first forward pass ended in: the size of tensor a" in found.message
