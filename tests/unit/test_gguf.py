"""GGUF files: the model in one is the model that was written, made into a folder once, and bad ones are said."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from posterior_lm.lang.diagnostics import ModelError
from posterior_lm.lm import resolve, user_cache
from posterior_lm.lm.gguf_header import read_header
from posterior_lm.lm.notices import ModelNotice
from posterior_lm.lm.protocol import Request
from posterior_lm.lm.resolve import load_model
from posterior_lm.lm.tokenizer_files import read_chat_text, read_special_tokens
from tests.cli import plm as command
from tests.laws.gguf_files import TEMPLATE, llama, write_gguf

pytest.importorskip("gguf")
ONCE = "ignore:the model .* is read out of its GGUF file:posterior_lm.lm.notices.ModelNotice"
pytestmark = pytest.mark.filterwarnings(ONCE)
TEXT = (3, 70, 105, 42, 99, 17, 17)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POSTERIOR_LM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("posterior_lm.lm.hf.placement.slow_products", lambda dtype, device: None)
    return tmp_path / "cache"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_gguf(tmp_path / "model.gguf")
    return tmp_path / "model.gguf"


def failure(attempt: Callable[[], object]):
    with pytest.raises(ModelError) as caught:
        attempt()
    (found,) = caught.value.diagnostics
    assert "\n" not in found.message
    return found


def bare(module, ids: tuple[int, ...]) -> np.ndarray:
    with torch.inference_mode():
        logs = torch.log_softmax(module(torch.tensor([ids])).logits[0].double(), -1)
    return np.array([logs[i, ids[i + 1]].item() for i in range(len(ids) - 1)])


def test_the_model_in_the_file_is_the_one_that_was_written(file: Path) -> None:
    model = load_model(str(file))
    assert (model.identity.dtype, model.identity.digest) == ("float32", user_cache.file_digest(file))
    found = model.score([Request(TEXT, 1)])[0].tokens
    np.testing.assert_allclose(found, bare(llama(), TEXT), atol=2e-5)
    assert model.tokenizer.encode("the red") == tuple(load_model(str(file)).tokenizer.encode("the red"))
    assert model.tokenizer.decode(model.tokenizer.encode("the 12 é\n")) == "the 12 é\n"
    assert model.tokenizer.eos_ids == (0,)
    assert not any(p.requires_grad for p in model._forward.module.parameters())


@pytest.mark.parametrize(("kind", "dtype", "gap"), [("F16", "float16", 0.05), ("BF16", "bfloat16", 0.5),
                                                    ("Q8_0", "bfloat16", 0.5)])  # fmt: skip
def test_the_dtype_is_what_most_numbers_are_stored_in(
    kind: str, dtype: str, gap: float, tmp_path: Path
) -> None:
    write_gguf(tmp_path / "m.gguf", kind=kind)
    model = load_model("m.gguf", base_dir=tmp_path)
    assert model.identity.dtype == dtype and str(model._forward.dtype) == f"torch.{dtype}"
    wide = load_model("m.gguf", base_dir=tmp_path, dtype="float32")
    assert wide.identity.digest == model.identity.digest and wide.identity.dtype == "float32"
    np.testing.assert_allclose(
        wide.score([Request(TEXT, 1)])[0].tokens, bare(llama(), TEXT), atol=gap if kind != "F16" else 0.01
    )


def test_it_is_made_into_a_folder_once(file: Path, cache: Path) -> None:
    load_model(str(file))
    (folder,) = (p for p in (cache / "models").iterdir() if p.is_dir())
    assert (folder / "chat_template.jinja").read_text() == TEMPLATE
    before = (folder / "model.safetensors").stat()
    assert json.loads((folder / "config.json").read_text())["model_type"] == "llama"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model(str(file))
    assert (folder / "model.safetensors").stat() == before


@pytest.mark.parametrize("spoil", [
    lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-8]),
    lambda f: (f / "model.safetensors").write_bytes(b"\1" + (f / "model.safetensors").read_bytes()[1:]),
    lambda f: (f / "tokenizer.json").unlink(),
    lambda f: (f / "copy.json").unlink(),
    lambda f: (f / "copy.json").write_text("[]"),
    lambda f: (f / "adapter_config.json").write_text("{}"),
])  # fmt: skip
def test_a_damaged_copy_is_made_again(spoil: Callable[[Path], object], file: Path, cache: Path) -> None:
    first = load_model(str(file)).score([Request(TEXT, 1)])[0].tokens
    (folder,) = (p for p in (cache / "models").iterdir() if p.is_dir())
    spoil(folder)
    with pytest.warns(ModelNotice, match="read out of its GGUF file"):
        again = load_model(str(file))
    np.testing.assert_array_equal(again.score([Request(TEXT, 1)])[0].tokens, first)
    assert user_cache.kept_folder(folder.name) == folder


def test_what_a_killed_process_left_is_removed(file: Path, cache: Path) -> None:
    load_model(str(file))
    (folder,) = (p for p in (cache / "models").iterdir() if p.is_dir())
    left = cache / "models" / f".{folder.name}.abc"
    left.mkdir()
    (folder / "copy.json").unlink()
    load_model(str(file))
    assert not left.exists() and sorted(p.suffix for p in (cache / "models").iterdir()) == [
        folder.suffix,
        ".lock",
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_without_a_cache_that_can_be_written_it_works_by_permission(file: Path, cache: Path) -> None:
    cache.mkdir(mode=0o500)
    with pytest.warns(ModelNotice, match="cannot be written"):
        load_model(str(file))


def test_without_a_cache_that_can_be_written_it_works_and_says_why(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_text("a file stands in its place")
    user_cache.cannot_write.cache_clear()
    with pytest.warns(
        ModelNotice, match=r"cannot be written \(.*\), so a start is slower; \$POSTERIOR_LM_CACHE"
    ):
        model = load_model(str(file))
    np.testing.assert_allclose(model.score([Request(TEXT, 1)])[0].tokens, bare(llama(), TEXT), atol=2e-5)


def test_of_processes_at_once_one_makes_it(cache: Path) -> None:
    code = (
        "import os, time\n"
        "from posterior_lm.lm.user_cache import made_once\n"
        "def make(folder):\n"
        "    (folder / 'made').write_text(str(os.getpid()))\n"
        "    time.sleep(0.3)\n"
        "print((made_once('one', make) / 'made').read_text())\n"
    )
    command = [sys.executable, "-c", code]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert len({process.communicate(timeout=120)[0] for process in running}) == 1
    assert all(process.returncode == 0 for process in running)


def test_a_digest_is_kept_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_cache, "LARGE", 4)
    path = tmp_path / "weights"
    path.write_bytes(b"abcdefgh")
    first = user_cache.file_digest(path)
    monkeypatch.setattr(user_cache, "_digest", lambda path: "computed")
    assert user_cache.file_digest(path) == first
    status = path.stat()
    path.write_bytes(b"abcdefgX")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert user_cache.file_digest(path) == "computed"


# ------------------------------------------------------------------------------- splitting text


def test_digits_stand_alone_where_the_file_says_so(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", split="smollm")
    model = load_model("m.gguf", base_dir=tmp_path)
    (folder,) = (p for p in (user_cache.cache_folder() / "models").iterdir() if p.is_dir())
    first, second = json.loads((folder / "tokenizer.json").read_text())["pre_tokenizer"]["pretokenizers"]
    assert (first["type"], first["individual_digits"], second["type"]) == ("Digits", True, "ByteLevel")
    assert model.tokenizer.decode(model.tokenizer.encode(" 10 the")) == " 10 the"


# ------------------------------------------------------------------------------- bad files


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ({"tokenizer": False}, "PLM512", "holds no tokenizer"),
        ({"split": "sorcery"}, "PLM513", "'sorcery', is not known"),
        ({"architecture": "sorcery"}, "PLM514", "architecture sorcery is not supported"),
        ({"without": "blk.1.ffn_up"}, "PLM514", "model.layers.1.mlp.up_proj.weight among them"),
    ],
)
def test_what_a_file_lacks_is_said(options: dict, code: str, said: str, tmp_path: Path, cache: Path) -> None:
    write_gguf(tmp_path / "m.gguf", **options)
    found = failure(lambda: load_model("m.gguf", base_dir=tmp_path))
    assert found.code == code and said in found.message and str(tmp_path / "m.gguf") in found.message
    assert not [p for p in (cache / "models").iterdir() if p.is_dir()]


@pytest.mark.parametrize("kept", [0, 3, 4, 20, 24, 100, 2000, 6000, -1, -5000])
def test_a_file_cut_short_is_said_before_anything_is_loaded(kept: int, file: Path) -> None:
    content = file.read_bytes()
    cut = kept if kept >= 0 else len(content) + kept
    file.write_bytes(content[:cut])
    code = f"from posterior_lm.lm.resolve import load_model\nload_model({str(file)!r})"
    found = failure(lambda: load_model(str(file)))
    assert found.code == "PLM514" and str(file) in found.message
    if kept == -1:  # in a process of its own, since torch is here already
        run = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True)
        assert "cut short: the tensor" in run.stderr and " torch\n" not in run.stderr


@pytest.mark.parametrize(("at", "byte"), [(0, 0), (4, 9), (8, 255), (15, 127), (23, 127), (24, 255)])
def test_a_damaged_head_is_said(at: int, byte: int, file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[at] = byte
    file.write_bytes(content)
    assert failure(lambda: load_model(str(file))).code == "PLM514"


def test_memory_that_cannot_suffice_is_said_before_the_file_is_read(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("posterior_lm.lm.hf.placement.free_memory", lambda device: 100_000)
    monkeypatch.setattr(resolve, "file_digest", lambda path: pytest.fail("it is read"))
    found = failure(lambda: load_model(str(file)))
    assert found.code == "PLM519" and "GiB in float32, and" in found.message


def test_other_mistakes(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert failure(lambda: load_model("none.gguf", base_dir=tmp_path)).code == "PLM510"
    (tmp_path / "text.gguf").write_text("")
    assert "it is empty" in failure(lambda: load_model("text.gguf", base_dir=tmp_path)).message
    (tmp_path / "text.gguf").write_text("not one")
    assert "does not begin" in failure(lambda: load_model("text.gguf", base_dir=tmp_path)).message
    assert "no revision" in failure(lambda: load_model(str(file), revision="main")).message
    found = failure(lambda: load_model(str(file), dtype="int8"))
    assert found.code == "PLM514" and "no dtype 'int8'" in found.message
    monkeypatch.setattr(resolve.importlib.util, "find_spec", lambda name: None)
    found = failure(lambda: load_model(str(file)))
    assert found.code == "PLM518" and "posterior_lm[gguf]" in found.help
    found = failure(lambda: load_model("smollm2"))
    assert found.code == "PLM518" and "posterior_lm[smollm2]" in found.help


# ------------------------------------------------------------------------------- plm check

END = "<|endoftext|>"
REFUSES = "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('No system.') }}{% endif %}{{ m['content'] }}{{ eos_token }}{% endfor %}"
TALK = """
lm base = "m.gguf"

program p(q: text) {
  latent z: text(tokens=1..9) ~ base(system("Be brief."), user(q, "END"))
}
"""


def test_the_head_has_the_template_and_the_special_tokens_that_the_folder_has(file: Path) -> None:
    header = read_header(file)
    load_model(str(file))
    (folder,) = (p for p in (user_cache.cache_folder() / "models").iterdir() if p.is_dir())
    assert header.chat_text is not None and header.chat_text.source == read_chat_text(folder).source
    assert header.chat_text.variables == {"eos_token": END}
    assert header.special == {0: END} and read_special_tokens(folder) == (END,)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (
            REFUSES,
            "error[PLM552] the chat template of m.gguf refuses message 1, a system message: No system.",
        ),
        (None, "error[PLM550]"),
        ("{% for", "error[PLM551] the chat template of m.gguf cannot be used"),
        (REFUSES.replace("eos", "bos"), None),  # the file names no such token: only loading can tell
    ],
)
def test_check_asks_the_head_alone(
    template: str | None, said: str | None, tmp_path: Path, cache: Path
) -> None:
    write_gguf(tmp_path / "m.gguf", template=template)
    (tmp_path / "p.plm").write_text(TALK.replace("END", END))
    found = command("check", "--lint", "--format", "concise", tmp_path / "p.plm")
    assert (said or "") in found.stderr and found.exit_code == (said is not None)
    assert f"warning[PLM554] '{END}' is a special token of m.gguf" in found.stderr
    assert not cache.exists()


def test_check_reads_a_head_without_the_libraries_of_models(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf")
    (tmp_path / "p.plm").write_text(TALK)
    code = (
        "import sys\nfrom posterior_lm.cli.main import cli\n"
        f"try:\n    cli(['check', '--lint', {str(tmp_path / 'p.plm')!r}])\nexcept SystemExit as done:\n    assert not done.code\n"
        "print(sorted({'torch', 'numpy', 'tokenizers', 'gguf'} & sys.modules.keys()))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0 and run.stdout.endswith("no errors\n[]\n"), run.stderr


def test_a_head_that_never_ends_or_is_aligned_by_nothing_is_said(file: Path) -> None:
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 1)
    key = struct.pack("<Q", 1) + b"a" + struct.pack("<I", 9)
    file.write_bytes(head + key + struct.pack("<IQ", 9, 1) * 100_000)
    assert "damaged in its head" in failure(lambda: load_model(str(file))).message
    write_gguf(file)
    content = file.read_bytes()
    key = struct.pack("<Q", 17) + b"general.alignment" + struct.pack("<II", 4, 0)
    pairs = struct.unpack_from("<Q", content, 16)[0]
    file.write_bytes(content[:16] + struct.pack("<Q", pairs + 1) + key + content[24:])
    assert "aligned by 0" in failure(lambda: load_model(str(file))).message


def test_the_head_is_read_without_its_strings(file: Path) -> None:
    header = read_header(file)
    assert header.architecture == "llama" and header.parameters == sum(
        p.numel() for p in llama().parameters()
    )
