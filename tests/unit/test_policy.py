"""Policies on disk: saved whole, refused where they do not belong, and used by name."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from attrs import evolve

import posterior_lm as plm
from posterior_lm.api.query import Query, loads
from posterior_lm.infer.weights import logsumexp
from posterior_lm.lm.protocol import ModelIdentity
from posterior_lm.lm.resolve import load_model
from posterior_lm.train import policy as policies
from posterior_lm.train.adapter import CONFIG, WEIGHTS, Adapter
from posterior_lm.train.certificate import PolicyReport, RowCheck, Simulated
from posterior_lm.train.checkpoint import clean
from posterior_lm.train.policy import (
    MANIFEST,
    Manifest,
    data_digest,
    guide_digest,
    load_policy,
    read_manifest,
    save_policy,
)
from tests.cli import plm as command
from tests.serving import moody

PROGRAM = """
lm base = "tiny"

program middle(opening: text, ending: text) {
  latent middle: text(tokens=1..12, stop=".") ~ base(opening)
  observe [" ", ending] ~ base(opening, middle)
}
"""
GUIDED = PROGRAM.replace("\n}\n", '\n  guide middle ~ base("End: ", ending, " Start: ", opening)\n}\n')
ROW = {"opening": "Tom played in the park.", "ending": "He went home."}
RATED = """
lm base = "tiny"

program rated(review: text, label: one_of("good", "bad")) {
  latent reason: text(tokens=1..6, stop=".") ~ base(review)
  observe [" It was ", label] ~ base(review, reason)
}
"""

CHECK = RowCheck(row=0, ess=0.8, khat=0.4, elbo=-5.0, log_evidence=-4.8, dead=0.0, prior_ess=0.1)
GOOD = PolicyReport(200, (CHECK,), Simulated(32, (0.2, 0.3), (0.1, 0.2), 0.4, 0, 0.3))
POOR = PolicyReport(200, (evolve(CHECK, ess=0.001),), GOOD.simulated)


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    for held in policies._held.values():
        held.adapter.close()
    policies._held.clear()


def adapter_of(query: Query, noise: float = 0.02, seed: int = 1) -> Adapter:
    """An adapter of the query's model that was moved by chance."""
    adapter = Adapter.new(query.prepared.models["base"], rank=2, seed=seed)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters.values():
            parameter += noise * torch.randn(parameter.shape, generator=random)
    return adapter


def manifest_of(query: Query, certificate: PolicyReport | None = GOOD, **more: object) -> Manifest:
    found = None if certificate is None else certificate.to_json()
    settings: dict = {"certificate": found, "settings": {"rank": 2}, "steps": 7} | more
    return Manifest.new(query.prepared, "base", [ROW], **settings)


def saved(folder: Path, query: Query, certificate: PolicyReport | None = GOOD, **more: object) -> Path:
    adapter = adapter_of(query, **more)  # type: ignore[arg-type]
    save_policy(folder, adapter, manifest_of(query, certificate))
    adapter.close()
    return folder


def refused(code: str, folder: Path, query: Query, **models: object) -> str:
    """The message and notes of the one diagnostic that refuses the folder."""
    with pytest.raises(plm.DataError) as caught:
        load_policy(folder, query.prepared.with_models(models or {}))  # type: ignore[arg-type]
    (found,) = caught.value.diagnostics
    assert found.code == code and found.help
    return "\n".join((found.message, *found.notes))


# ------------------------------------------------------------------------------- saving and loading


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    query = loads(PROGRAM)
    adapter = adapter_of(query)
    manifest = save_policy(tmp_path / "new" / "p", adapter, manifest_of(query, note="interrupted at step 7"))
    assert sorted(os.listdir(tmp_path / "new" / "p")) == sorted((CONFIG, WEIGHTS, MANIFEST))
    found = load_policy(tmp_path / "new" / "p", query.prepared)
    assert found.manifest == manifest and found.manifest.note == "interrupted at step 7"
    assert found.verdict == "good" and found.certificate == GOOD
    assert found.manifest.fingerprint == query.fingerprint and found.manifest.rows == 1
    assert set(found.manifest.versions) == {"python", "posterior_lm", "torch", "transformers", "peft"}
    target = query.given(ROW).target()
    one, other = (a.guide(target) for a in (found, policies.Policy(tmp_path, manifest, adapter)))
    drawn = one.sample(np.random.default_rng(3), 8)
    again = other.sample(np.random.default_rng(3), 8)
    assert drawn.values == again.values and np.array_equal(drawn.log_prob, again.log_prob)
    prior = plm_prior_log_prob(query, drawn.values)
    assert np.abs(prior - drawn.log_prob).max() > 0.1, "the noise is on"
    for each in (found.adapter, adapter):
        each.close()


def plm_prior_log_prob(query: Query, values: object) -> np.ndarray:
    from posterior_lm.infer.guide import PriorGuide

    return PriorGuide(query.given(ROW).target()).log_prob(values)  # type: ignore[arg-type]


def test_peft_itself_reads_the_folder(tmp_path: Path) -> None:
    from peft import LoraConfig

    saved(tmp_path, loads(PROGRAM))
    assert LoraConfig.from_pretrained(str(tmp_path)).r == 2


def test_without_a_certificate_it_is_uncertified(tmp_path: Path) -> None:
    query = loads(PROGRAM)
    found = load_policy(saved(tmp_path, query, None), query.prepared)
    assert found.verdict == "uncertified" and found.certificate is None
    found.adapter.close()


@pytest.mark.parametrize("broken", ["adapter.save", "to_json"])
def test_a_failed_save_leaves_the_earlier_policy(
    tmp_path: Path, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = loads(PROGRAM)
    saved(tmp_path, query)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    adapter = adapter_of(query, seed=2)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*{"adapter.save": (adapter, "save"), "to_json": (Manifest, "to_json")}[broken], full)
    with pytest.raises(plm.DataError) as caught:
        save_policy(tmp_path, adapter, manifest_of(query))
    assert caught.value.diagnostics[0].code == "PLM612" and "No space left" in str(caught.value)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    adapter.close()


@pytest.mark.parametrize("moves", [1, 2])
def test_a_kill_between_two_moves_is_found_out(
    tmp_path: Path, moves: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = loads(PROGRAM)
    saved(tmp_path, query)
    new = tmp_path / "new"
    adapter = Adapter.new(query.prepared.models["base"], rank=2, alpha=9.0, seed=2)
    real, left = os.replace, [moves]

    def replace(one: Path, other: Path) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        real(one, other)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        save_policy(tmp_path, adapter, manifest_of(query))
    left[0] = moves
    with pytest.raises(KeyboardInterrupt):
        save_policy(new, adapter, manifest_of(query))
    monkeypatch.undo()
    assert not (new / MANIFEST).exists(), "what has a manifest is a whole policy"
    assert "of another save" in refused("PLM622", tmp_path, query)
    save_policy(tmp_path, adapter, manifest_of(query))
    load_policy(tmp_path, query.prepared).adapter.close()
    adapter.close()


def test_what_a_kill_leaves_is_cleaned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    query = loads(PROGRAM)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # as a kill would
    saved(tmp_path, query)
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 4
    clean(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted((CONFIG, WEIGHTS, MANIFEST))


# ------------------------------------------------------------------------------- refusing


def test_a_policy_of_another_program_is_refused(tmp_path: Path) -> None:
    query = loads(PROGRAM)
    saved(tmp_path, query)
    said = refused("PLM625", tmp_path, loads(PROGRAM.replace("middle)", "middle) ^ 2")))
    assert "another program" in said and query.fingerprint[:12] in said and "guides" not in said
    renamed = loads(PROGRAM.replace("middle", "link").replace("base", "story"))
    found = load_policy(tmp_path, renamed.prepared)
    found.adapter.close()


def test_a_policy_of_another_guide_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, loads(PROGRAM))
    said = refused("PLM625", tmp_path, loads(GUIDED))
    assert "another guide" in said and "fingerprint" not in said, "a guide is no part of the log reward"


def test_a_policy_of_another_model_is_refused(tmp_path: Path) -> None:
    query = loads(PROGRAM)
    saved(tmp_path, query)
    other = query.prepared.models["base"]
    changed = evolve_identity(other, digest="f" * 64)
    said = refused("PLM625", tmp_path, query, base=changed)
    assert "another model" in said and "ffffffffffff" in said and other.identity.digest[:12] in said
    same = evolve_identity(other, name="elsewhere/tiny", dtype="bfloat16")
    load_policy(tmp_path, query.prepared.with_models({"base": same})).adapter.close()


def test_a_policy_beside_another_model_is_refused(tmp_path: Path) -> None:
    """A model that the policy does not adapt takes part in the log reward, which no fingerprint shows."""
    text = PROGRAM.replace("program", 'lm scorer = "tiny"\n\nprogram', 1)
    query = loads(text.replace("~ base(opening, middle)", "~ scorer(opening, middle)"))
    models = query.prepared.models
    other = evolve_identity(models["scorer"], digest="e" * 64)
    query = query.lm(scorer=other)  # type: ignore[arg-type]
    adapter = adapter_of(query)
    save_policy(tmp_path, adapter, manifest_of(query))
    adapter.close()
    assert read_manifest(tmp_path).others == ("e" * 64,)
    changed = {"scorer": evolve_identity(models["base"], digest="f" * 64)}
    said = refused("PLM625", tmp_path, query, **changed)
    assert "another model" in said and "eeeeeeeeeeee; here is ffffffffffff" in said
    load_policy(tmp_path, query.prepared).adapter.close()


def evolve_identity(model: object, **changes: str) -> object:
    from copy import copy

    made = copy(model)
    made.identity = evolve(made.identity, **changes)  # type: ignore[attr-defined]
    return made


def test_everything_that_differs_is_named_at_once(tmp_path: Path) -> None:
    query = loads(PROGRAM)
    saved(tmp_path, query)
    changed = evolve_identity(query.prepared.models["base"], digest="f" * 64)
    said = refused("PLM625", tmp_path, loads(GUIDED.replace("middle)", "middle) ^ 2")), base=changed)
    assert "another program and another guide and another model" in said


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        (MANIFEST, None, "no manifest.json"),
        (MANIFEST, b"{", "expecting"),
        (MANIFEST, b"[]", "not a JSON object"),
        (MANIFEST, b"\xff", "byte 0 is not UTF-8"),
        (WEIGHTS, None, WEIGHTS),
        (WEIGHTS, b"junk", "damaged"),
        (CONFIG, b"{}", "damaged"),
    ],
)
def test_a_damaged_folder_is_refused(tmp_path: Path, file: str, content: bytes | None, words: str) -> None:
    query = loads(PROGRAM)
    saved(tmp_path, query)
    (tmp_path / file).unlink() if content is None else (tmp_path / file).write_bytes(content)
    assert words in refused("PLM622", tmp_path, query)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "plm-policy-2"}, "plm-policy-2"),
        ({"more": 1}, "unknown `more`"),
        ({"rows": "5"}, "`rows`"),
        ({"seed": True}, "`seed`"),
        ({"identity": {}}, "lacks `digest`"),
        ({"certificate": {"draws": 3}}, "`certificate` lacks `note`"),
        ({"seconds": ...}, "lacks `seconds`"),
    ],
)
def test_a_wrong_manifest_is_refused(tmp_path: Path, change: dict, words: str) -> None:
    query = loads(PROGRAM)
    saved(tmp_path, query)
    whole = {**json.loads((tmp_path / MANIFEST).read_text()), **change}
    (tmp_path / MANIFEST).write_text(json.dumps({k: v for k, v in whole.items() if v is not ...}))
    with pytest.raises(plm.DataError) as caught:
        read_manifest(tmp_path)
    assert caught.value.diagnostics[0].code == "PLM622" and words in str(caught.value)


def test_a_manifest_comes_back_as_it_was() -> None:
    one = Manifest("text", "n", "f", "g", "base", ModelIdentity("m", "k", "d"), "x", 3, {"a": [1, None]})
    assert Manifest.from_json(one.to_json()) == one
    with pytest.raises(ValueError):
        evolve(one, seconds=float("nan")).to_json()


# ------------------------------------------------------------------------------- digests

TWO = """
lm base = "tiny"
program two(x: text) {
  latent a: text(tokens=1..4, stop=".") ~ base(x)
  latent b: text(tokens=1..4, stop=".") ~ base(x)
  latent c: text(tokens=1..4, stop=".") ~ base(x)
  guide c ~ base(x, a)
}
"""


def test_the_guide_digest_knows_what_is_read_and_no_names() -> None:
    plain = guide_digest(loads(TWO).graph)
    assert loads(TWO).fingerprint == loads(TWO.replace("base(x, a)", "base(x, b)")).fingerprint
    for old, new in (("base(x, a)", "base(x, b)"), ("base(x, a)", "base(a, x)"), ("guide c", "guide b")):
        assert guide_digest(loads(TWO.replace(old, new)).graph) != plain
    assert guide_digest(loads(TWO.replace("  guide c ~ base(x, a)\n", "")).graph) != plain
    assert (
        guide_digest(
            loads(
                TWO.replace(
                    'latent b: text(tokens=1..4, stop=".") ~ base(x)',
                    'latent b: text(tokens=1..4, stop=".") ~ base(x) ^ 2',
                )
            ).graph
        )
        == plain
    )
    renamed = TWO.replace(" c ~", " d ~").replace("latent c:", "latent d:").replace("base", "lm0")
    assert guide_digest(loads(renamed).graph) == plain


def test_the_data_digest_knows_rows_and_their_order() -> None:
    one, other = {"a": "x", "b": ({"c": 1},)}, {"a": "y", "b": ()}
    assert data_digest([one, other]) == data_digest([{"b": [{"c": 1}], "a": "x"}, other])
    assert len({data_digest(r) for r in ([one, other], [other, one], [one], [])}) == 4


# ------------------------------------------------------------------------------- asking


def test_a_query_draws_with_its_policy(tmp_path: Path) -> None:
    query = loads(PROGRAM).given(ROW)
    asked = query.policy(saved(tmp_path, query))
    assert query.policy_folder is None and asked.policy_folder == tmp_path
    forced = asked.using("importance").draw(40, seed=1)
    assert (
        forced.method == "importance" and f"the policy in {tmp_path}, whose verdict is good" in forced.reason
    )
    named = asked.using("gflownet").draw(40, seed=1)
    assert named.method == "gflownet" and np.array_equal(named.weights, forced.weights)
    plain = query.using("importance").draw(40, seed=1)
    assert not np.array_equal(plain.draws.log_weights, forced.draws.log_weights)
    values = {"middle": named.draws.values["middle"]}
    own = asked.target().log_reward(values) - named.draws.log_prob  # type: ignore[operator]
    assert np.allclose(named.draws.log_weights, own)
    assert logsumexp(named.draws.log_weights) > -np.inf


@pytest.mark.parametrize("verdict", ["poor", "good"])
def test_auto_draws_from_the_prior_and_the_policy_whatever_the_verdict(verdict: str, tmp_path: Path) -> None:
    query = loads(PROGRAM).given(ROW)
    folder = saved(tmp_path, query, **{} if verdict == "good" else {"certificate": POOR})
    auto = query.policy(folder).draw(20, seed=1)
    assert auto.method == "mixture" and auto.draws.mixture is not None
    assert f"the policy in {tmp_path}, whose verdict is {verdict}" in auto.reason
    assert auto.draws.mixture.names == ("prior", "the policy") and min(auto.draws.mixture.shares) >= 0.1
    assert len(policies._held) == 1
    query.policy(tmp_path).draw(20, seed=2)
    assert len(policies._held) == 1, "loaded once"


def test_a_policy_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    query = loads(PROGRAM).given(ROW)
    asked = query.policy(saved(tmp_path, query)).using("gflownet")
    first = asked.draw(20, seed=1)
    saved(tmp_path, query, noise=0.05, seed=8)
    assert not np.array_equal(first.draws.log_weights, asked.draw(20, seed=1).draws.log_weights)


def test_a_policy_that_does_not_match_is_refused_whatever_the_method(tmp_path: Path) -> None:
    saved(tmp_path, loads(GUIDED))
    for method in ("auto", "importance", "gflownet"):
        with pytest.raises(plm.DataError) as caught:
            loads(PROGRAM).given(ROW).policy(tmp_path).using(method).draw(5)
        assert caught.value.diagnostics[0].code == "PLM625"


def test_prediction_refuses_a_default_guide_that_reads_what_is_predicted(tmp_path: Path) -> None:
    query = loads(RATED).given(review="A clever film.")
    with pytest.raises(plm.InferenceError) as caught:
        query.policy(saved(tmp_path, loads(RATED))).predict("label", n=20)
    (found,) = caught.value.diagnostics
    assert found.code == "PLM804" and "`label`" in found.message and "`reason`" in found.message
    assert query.predict("label", n=20).probs


def test_prediction_with_a_policy_that_may_be_asked(tmp_path: Path) -> None:
    guided = loads(RATED.replace("\n}\n", "\n  guide reason ~ base(review)\n}\n"))
    asked = guided.given(review="A clever film.").policy(saved(tmp_path, guided)).using("gflownet")
    found = asked.predict("label", n=200)
    assert found.posterior.method == "gflownet"
    plain = guided.given(review="A clever film.").using("importance").predict("label", n=200)
    assert found.prob("good") == pytest.approx(plain.prob("good"), abs=0.15)


# ------------------------------------------------------------------------------- on a server


def test_an_adapter_that_a_server_has_is_the_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTERIOR_LM_CACHE", str(tmp_path / "cache"))
    query = loads(PROGRAM).given(ROW)
    folder = saved(tmp_path / "policy", query, noise=0.2)
    here = query.policy(folder).using("gflownet").draw(12, seed=4)
    tiny, adapted = load_model("tiny"), load_model("tiny", adapter=folder)
    with moody(tiny, lambda handler, body, answer: answer, story=adapted) as server:
        asked = {"model": "model", "tokenizer": "tiny"}
        for digest in (None, tiny.identity.digest):  # vLLM does not say which weights it has
            server.listed["model"] = {} if digest is None else {"digest": digest}
            model = load_model(server.url, policy="story", **asked)
            there = query.lm(base=model).policy(folder).using("gflownet").draw(12, seed=4)
            assert [m.values for m in there.merged()] == [m.values for m in here.merged()]
            assert np.allclose(there.draws.log_weights, here.draws.log_weights, atol=1e-3)
            assert "proposing with the policy in" in there.reason
        server.listed["model"] = {"digest": "0" * 64}
        assert "the model: " in refused(
            "PLM625", folder, query, base=load_model(server.url, policy="story", **asked)
        )
        server.listed["model"] = {"digest": tiny.identity.digest}
        with pytest.raises(plm.ModelError) as caught:
            query.lm(base=load_model(server.url, **asked)).policy(folder).using("gflownet").draw(2)
        [found] = caught.value.diagnostics
        assert found.code == "PLM516" and "policy=ADAPTER" in str(found.help)
        with pytest.raises(plm.ModelError, match="it does not serve 'stori'"):
            load_model(server.url, policy="stori", **asked)


# ------------------------------------------------------------------------------- the command line


def test_commands_take_a_policy(tmp_path: Path) -> None:
    (tmp_path / "p.plm").write_text(PROGRAM)
    folder = saved(tmp_path / "policy", loads(PROGRAM))
    given = [f"-g{name}={value}" for name, value in ROW.items()]
    run = ["run", tmp_path / "p.plm", *given, "-n", 20]
    done = command(*run, "--policy", folder, "--method", "gflownet", "--format", "json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["method"] == "gflownet" and str(folder) in found["reason"]
    done = command(
        "predict", tmp_path / "p.plm", "middle", *run[2:], "--policy", folder, "--method", "importance"
    )
    assert done.exit_code == 0 and f"proposing with the policy in {folder}" in done.stdout
    done = command(*run, "--method", "gflownet")
    assert done.exit_code == 1 and "PLM627" in done.stderr and "plm fit" in done.stderr
    done = command(*run, "--policy", tmp_path / "none")
    assert done.exit_code == 1 and "PLM622" in done.stderr
