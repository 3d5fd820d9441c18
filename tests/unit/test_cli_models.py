"""`--lm`, `--dtype` and `--device`: which models a command asks, and how they are loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import posterior_lm as plm
from posterior_lm.cli.given import model_named
from posterior_lm.lm.resolve import Asked
from posterior_lm.lm.tiny import WEIGHTS
from tests.cli import plm as command

PROGRAM = """lm base = "tiny"
lm coin = tabular("coin.json")
program p() {
  latent z: one_of("heads", "tails") ~ choice(base())
  observe "tails" ~ coin()
}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    table = {"tokens": ["heads", "tails"], "max_tokens": 1, "rows": {"": {"heads": 0.5, "tails": 0.5}}}
    (tmp_path / "coin.json").write_text(json.dumps(table))
    (tmp_path / "p.plm").write_text(PROGRAM)
    return tmp_path / "p.plm"


def test_what_stands_after_the_name(tmp_path: Path) -> None:
    assert model_named("gpt2") == "gpt2" and model_named("a,b") == "a,b"
    assert model_named("a,b,dtype=bfloat16,device=cuda:0") == Asked(
        "a,b", (("dtype", "bfloat16"), ("device", "cuda:0"))
    )
    odd = tmp_path / "x,dtype=y"
    odd.mkdir()
    assert model_named(str(odd)) == str(odd)


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ([], "float32"),
        (["--dtype", "bfloat16"], "bfloat16"),
        (["--lm", f"base={WEIGHTS},dtype=bfloat16"], "bfloat16"),
        (["--lm", f"base={WEIGHTS},dtype=bfloat16,device=cpu", "--dtype", "float64"], "bfloat16"),
        (["--lm", f"base={WEIGHTS}", "--dtype", "float16", "--device", "cpu"], "float16"),
    ],
)
def test_a_dtype_is_the_models_own_then_that_of_all(options: list[str], dtype: str, file: Path) -> None:
    done = command("run", str(file), "--format", "json", *options)
    assert done.exit_code == 0, done.stderr
    models = json.loads(done.stdout)["lm"]
    assert models["base"]["dtype"] == dtype and models["coin"]["dtype"] == "float64"


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--lm", "base=tiny,dtpe=float32"], "PLM802", "`dtype`"),
        (["--lm", "base=tiny,dtype="], "PLM802", "is no option of a model"),
        (["--lm", "base=tiny,dtype=float16,dtype=float32"], "PLM802", "dtype stands there twice"),
        (["--lm", "base=tiny,revision=main"], "PLM514", "tiny has no revision"),
        (["--lm", f"base={WEIGHTS},revision=main"], "PLM514", "is no name on the hub"),
        (["--lm", "base=tiny,dtype=int8"], "PLM514", "quantize=8bit"),
        (["--dtype", "int8"], "PLM514", "no dtype 'int8'"),
        (["--device", "abacus"], "PLM514", "no device 'abacus'"),
        (["--lm", "base=tiny,device=cuda:77"], "PLM514", "no device 'cuda:77'"),
        (["--lm", "base=tiny,quantize=2bit"], "PLM514", "8bit, 4bit"),
        (["--lm", "base=tiny,quantize=4bit"], "PLM514", "4 bits cannot be computed with on a CPU"),
        (["--lm", "base=smolm2"], "PLM510", "did you mean the packaged model 'smollm2'?"),
        (["--lm", "base=ftp://host/model"], "PLM510", "an address is no model"),
        (["--lm", "base=none.gguf"], "PLM510", "none.gguf is not there"),
        (["--lm", "coin=coin.json,dtype=float32"], "PLM514", "has no dtype"),
    ],
)
def test_what_is_wrong_with_them_is_said(
    options: list[str], code: str, said: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    done = command("run", str(file), *options)
    assert done.exit_code in (1, 2) and code in done.stderr and said in done.stderr
    assert "hf download" not in done.stderr and "Traceback" not in done.stderr


def test_the_program_itself_may_say_it(file: Path) -> None:
    file.write_text(PROGRAM.replace('"tiny"', 'transformers("tiny", dtype="bfloat16")'))
    query = plm.load(file)
    assert query.draw().lm["base"].dtype == "bfloat16"
    assert query.loading(dtype="float32").draw().lm["base"].dtype == "float32"
