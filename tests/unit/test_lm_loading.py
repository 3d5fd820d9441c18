"""Loading: what a name means, and the one sentence for everything that can be wrong with a folder."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from posterior_lm.lang.diagnostics import ModelError
from posterior_lm.lm.hf import load
from posterior_lm.lm.hf.transformers import TransformersModel
from posterior_lm.lm.protocol import Request
from posterior_lm.lm.resolve import load_model, peek_tokenizer, resolve
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
    weights = [folder / "model.safetensors"]
    digest = load.digest_of(folder, weights)
    assert load_model(str(folder)).identity.digest == digest
    content = bytearray(weights[0].read_bytes())
    content[-1] ^= 1
    weights[0].write_bytes(content)
    assert load.digest_of(folder, weights) != digest
    monkeypatch.setattr(load, "_BLOCK", 16)
    monkeypatch.setattr(load, "WHOLE", 0)  # sampled: still the header, the size and the last block
    sampled = load.digest_of(folder, weights)
    content[-1] ^= 1
    weights[0].write_bytes(content)
    assert load.digest_of(folder, weights) != sampled


@pytest.mark.parametrize(
    ("spoil", "code", "said"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "PLM511", "no *.safetensors file"),
        (
            lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
            "PLM511",
            "only pytorch_model.bin, which is pickled",
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
        ("http://host/model", "an address is no model"),
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
