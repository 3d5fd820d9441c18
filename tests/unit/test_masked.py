"""Masked models: the table's conditionals, folders of transformers, what the language says of them, how runs name them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

import posterior_lm as plm
from posterior_lm.lang.diagnostics import DataError, ModelError
from posterior_lm.lang.driver import compile_source
from posterior_lm.lang.source import Source
from posterior_lm.lm.masked_table import MaskedTable
from posterior_lm.lm.protocol import Blanks, same_tokens
from posterior_lm.lm.resolve import load_masked, load_model
from posterior_lm.lm.tabular import TabularModel
from posterior_lm.lm.tiny import WEIGHTS
from posterior_lm.report.picture import picture
from tests.cli import plm as command

TABLE = {
    "tokens": ["a", "b", "."],
    "texts": [
        {"tokens": ["a", "b", "."], "weight": 3},
        {"tokens": ["a", "a", "."]},
        {"tokens": ["b", "a", "."], "weight": 4},
        {"tokens": ["a", "."], "weight": 9},
    ],
    "flat": 0.1,
}

# ------------------------------------------------------------------------------- the table


def test_a_table_gives_the_conditionals_of_its_texts() -> None:
    model = MaskedTable.from_dict(TABLE)
    (first, second), (after,), (none,) = model.fill(
        [Blanks((None, None, 2), (0, 1)), Blanks((0, None, 2), (1,)), Blanks((2, None), (1,))]
    )
    np.testing.assert_allclose(np.exp(first), [0.9 / 2 + 0.1 / 3, 0.9 / 2 + 0.1 / 3, 0.1 / 3, 0])
    np.testing.assert_allclose(np.exp(second), [0.9 * 5 / 8 + 0.1 / 3, 0.9 * 3 / 8 + 0.1 / 3, 0.1 / 3, 0])
    np.testing.assert_allclose(np.exp(after), [0.9 / 4 + 0.1 / 3, 0.9 * 3 / 4 + 0.1 / 3, 0.1 / 3, 0])
    np.testing.assert_allclose(np.exp(none), [1 / 3, 1 / 3, 1 / 3, 0])  # no text agrees


@pytest.mark.parametrize(
    ("change", "said"),
    (
        ({"rows": {}}, "no entry 'rows'"),
        ({"flat": 0}, "'flat' is not a share above 0"),
        ({"texts": []}, "not a list of texts"),
        ({"texts": [{"tokens": ["x"]}]}, "'x' is not one of the tokens"),
        ({"texts": [{"tokens": ["a"], "weight": -1}]}, "-1 is not a weight"),
        ({"texts": [{"tokens": ["a"]}, {"tokens": ["a"]}]}, "listed twice"),
        ({"texts": [{"token": ["a"]}]}, "is not {"),
        ({"tokens": ["a", "a"]}, "listed twice"),
    ),
)
def test_a_table_that_is_wrong_says_where(change: dict[str, object], said: str) -> None:
    with pytest.raises(ModelError, match="PLM514") as problem:
        MaskedTable.from_dict({**TABLE, **change})
    assert said in str(problem.value)


# ------------------------------------------------------------------------------- folders


def folder_of(where: Path, model: torch.nn.Module, mask_id: int | None = 1024) -> Path:
    """A model of 1,025 ids with tiny's tokenizer in front of the mask."""
    model.save_pretrained(where)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(WEIGHTS / name, where)
    config = json.loads((where / "config.json").read_text())
    config["mask_token_id"] = mask_id
    (where / "config.json").write_text(json.dumps(config))
    return where


SIZES = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 1025,
    "max_position_embeddings": 64,
}  # fmt: skip


def modern(size: int = 1025) -> ModernBertForMaskedLM:
    torch.manual_seed(0)
    special = dict.fromkeys(("pad_token_id", "bos_token_id", "cls_token_id", "sep_token_id"))
    return ModernBertForMaskedLM(ModernBertConfig(**{**SIZES, "vocab_size": size}, **special, eos_token_id=1))


@pytest.fixture(scope="module")
def masked_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(tmp_path_factory.mktemp("masked"), modern())


def test_a_folder_says_what_its_model_says(masked_folder: Path) -> None:
    model = load_masked(str(masked_folder))
    own = load_model("tiny").tokenizer
    assert same_tokens(own, model.tokenizer) and not same_tokens(
        model.tokenizer, TabularModel.random("ab").tokenizer
    )
    texts = [
        Blanks((20, None, 30), (1,)),
        Blanks((20, None, None, 31, 32), (1, 2)),
        Blanks((None, 9, 8), (0,)),
    ]
    module = modern().eval()
    for text, found in zip(texts, model.fill([*texts, texts[0]]), strict=False):
        ids = [*own.start_ids, *(1024 if i is None else i for i in text.ids)]
        logits = module(input_ids=torch.tensor([ids])).logits[0, [1 + place for place in text.asked]]
        logits[:, 1024] = -torch.inf
        wanted = torch.log_softmax(logits, -1).detach().numpy()
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(("kind", "window"), (("bert", 63), ("roberta", 61)))
def test_older_encoders_fill_as_much_as_fits(kind: str, window: int, tmp_path: Path) -> None:
    """One place of 64 is for the token that begins a text; RoBERTa numbers places from behind that of padding."""
    torch.manual_seed(1)
    module = (
        BertForMaskedLM(BertConfig(**SIZES)) if kind == "bert" else RobertaForMaskedLM(RobertaConfig(**SIZES))
    )
    model = load_masked(str(folder_of(tmp_path, module)))
    (found,) = model.fill([Blanks((None, *range(2, window + 1)), (0,))])
    assert np.exp(found).sum() == pytest.approx(1, abs=1e-5) and found[0, 1024] == -np.inf
    with pytest.raises(ModelError, match="PLM520"):
        model.fill([Blanks((None, *range(2, window + 2)), (0,))])


def refused(folder: Path) -> str:
    with pytest.raises(ModelError, match="PLM514") as problem:
        load_masked(str(folder))
    return str(problem.value)


def test_what_fills_nothing_is_refused(masked_folder: Path, tmp_path: Path) -> None:
    assert "no token for a masked place" in refused(folder_of(tmp_path / "none", modern(), None))
    assert "is no masked language model" in refused(folder_of(tmp_path / "llama", LlamaForCausalLM.from_pretrained(WEIGHTS)))  # fmt: skip
    assert "tiny is no masked model" in refused(Path("tiny"))


def test_an_encoder_that_is_to_score_is_told_of_masked(masked_folder: Path, tmp_path: Path) -> None:
    bert = folder_of(tmp_path, BertForMaskedLM(BertConfig(**SIZES)))
    for folder in (masked_folder, bert):
        with pytest.raises(ModelError, match="PLM514") as problem:
            load_model(str(folder))
        assert "lm d = masked(" in str(problem.value)


# ------------------------------------------------------------------------------- the language

PROGRAM = """lm base = tabular("t.json")
lm d = masked("m.json")

program p(a: text, b: text) {
  latent z: text(tokens=1..3, stop=".") ~ base(a)
  guide z ~ d(a, z, b)
  observe b ~ base(a, z)
}
"""


def codes(change: tuple[str, str]) -> list[str]:
    return [d.code for d in compile_source(Source("p", PROGRAM.replace(*change))).errors]


@pytest.mark.parametrize(
    ("change", "wanted"),
    (
        (("", ""), []),
        (("d(a, z, b)", "d([a, z], b)"), []),
        (("d(a, z, b)", "d(a, b)"), ["PLM416"]),
        (("d(a, z, b)", "d(z, z)"), ["PLM416"]),
        (("d(a, z, b)", "d(user(a), z)"), ["PLM416", "PLM323"]),
        (("d(a, z, b)", "d(a, z) ^ 2"), ["PLM415", "PLM409", "PLM407"]),
        (("guide z ~ d(a, z, b)", "let y = [z]\n  guide z ~ d(y, b)"), ["PLM416"]),
        (("~ base(a)\n", "~ d(a)\n"), ["PLM415"]),
        (("observe b ~ base(a, z)", "factor log_prob(b, d(a))"), ["PLM415"]),
        (("observe b ~ base(a, z)", 'latent o: one_of("a", "b") ~ choice(d(a))'), ["PLM415"]),
        (("~ base(a)\n", "~ mix(0.5, base(a), d(a))\n"), ["PLM415"]),
        (('stop="."', 'grammar="g.lark"'), ["PLM416"]),
        (('stop="."', "canonical=true"), ["PLM416"]),
        (("text(tokens=1..3, stop=\".\") ~ base(a)", "int(0..3) ~ uniform()"), ["PLM416"]),
        (("z: text(tokens=1..3, stop=\".\")", "z: list(text(tokens=1..3, stop=\".\"), 0..2, end=\"a\")"), ["PLM416"]),
        (("z: text(tokens=1..3, stop=\".\")", "z: record(a: text(tokens=1..3, stop=\".\"))"), ["PLM416"]),
        (("  latent z", "  guide z ~ d(z)\n  latent z"), ["PLM401", "PLM406"]),
        (('masked("m.json")', 'masked("m.json", model="x")'), ["PLM206"]),
    ),
)  # fmt: skip
def test_where_a_masked_model_may_stand(change: tuple[str, str], wanted: list[str]) -> None:
    assert codes(change) == wanted


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = {"": {"a": 0.4, "b": 0.3, ".": 0.2, "<eos>": 0.1}, "b": {"a": 0.9, ".": 0.1}}
    table = {"tokens": TABLE["tokens"], "order": 1, "max_tokens": 9, "rows": rows}
    for name, content in (("t.json", table), ("m.json", TABLE), ("other.json", {**TABLE, "flat": 0.9})):
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "p.plm").write_text(PROGRAM)
    return tmp_path


def test_a_run_names_the_model_and_the_proposal(here: Path) -> None:
    query = plm.load("p.plm").given(a="a", b="b")
    posterior = query.using("importance", proposal="guide").draw(200)
    assert posterior.reason == "importance was asked for, proposing with the masked model d"
    assert posterior.lm["d"].kind == "masked table" and list(posterior.lm) == ["base", "d"]
    mixture = query.using("mixture").draw(200)
    assert "drawn from the prior" in mixture.verdict and "the masked model d" in mixture.verdict
    exact = query.using("exact").draw()
    for found in (posterior, mixture):
        assert found.log_evidence == pytest.approx(exact.log_evidence, abs=0.3)


def test_another_masked_model_on_the_command_line(here: Path) -> None:
    asked = ("run", "p.plm", "-g", "a=a", "-g", "b=b", "--format", "json", "--method", "mixture", "-n", "40")
    plain, other = (json.loads(command(*asked, *more).stdout) for more in ((), ("--lm", "d=other.json")))
    assert plain["lm"]["d"]["name"] == "m.json" and other["lm"]["d"]["name"] == "other.json"
    assert plain["fingerprint"] == other["fingerprint"]
    wrong = command(*asked, "--lm", "d=t.json")
    assert wrong.exit_code == 1 and "PLM514" in wrong.stderr and "no entry 'max_tokens'" in wrong.stderr


def test_an_object_has_to_be_of_its_kind(here: Path) -> None:
    query = plm.load("p.plm").given(a="a", b="b").using("importance", proposal="guide")
    assert query.lm(d=MaskedTable.from_dict(TABLE)).draw(5).lm["d"].name == "masked table"
    with pytest.raises(ModelError, match="PLM514"):
        query.lm(d=TabularModel.random("ab.")).draw(5)
    with pytest.raises((ModelError, DataError), match="PLM512"):
        query.lm(base=MaskedTable.from_dict(TABLE)).draw(5)


def test_a_report_draws_the_guide_without_going_round(here: Path) -> None:
    query = plm.load("p.plm")
    graph = query.graph() if callable(query.graph) else query.graph
    (latent,) = [f"n{i}" for i, _ in graph.latents()]
    arrows = {(a, b) for a, b, _ in picture(graph).arrows}
    assert ("g-z", latent) in arrows and (latent, "g-z") not in arrows


def test_tiny_is_proposed_for_by_a_folder(masked_folder: Path) -> None:
    query = plm.loads(
        'lm base = "tiny"\nlm d = masked("x")\nprogram p(a: text, b: text) {\n'
        '  latent z: text(tokens=2..4, stop=".") ~ base(a)\n  guide z ~ d(a, z, " ", b)\n  observe [" ", b] ~ base(a, z)\n}'
    )
    asked = (
        query.lm(d=masked_folder)
        .given(a="Tom has a dog.", b="It is big.")
        .using("importance", proposal="guide")
    )
    draws = asked.draw(20, seed=1).draws
    assert all(2 <= len(value.ids) <= 4 and value.text.endswith(".") for value in draws.values["z"])
    assert np.isfinite(draws.log_weights).all()
