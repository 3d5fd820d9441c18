"""What earlier versions stored is read, stored again as it was, and refused by name where a field is wrong."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch

import posterior_lm as plm
from posterior_lm.em import saved as em_saved
from posterior_lm.infer.draws import MixtureReport
from posterior_lm.lang.diagnostics import DataError, ModelError
from posterior_lm.report.page import write
from posterior_lm.train import checkpoint, progress
from posterior_lm.train.adapter import Adapter
from posterior_lm.train.policy import Manifest, load_policy, read_manifest, save_policy
from tests.conftest import ROOT
from tests.unit.test_em_split_model import RATED

STORED = ROOT / "tests" / "golden" / "stored"
POSTERIORS = sorted(path.name for path in (STORED / "posterior").iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def check_adapters(mine: Path, theirs: Path) -> bool:
    """That adapters are stored as they were; whether to the byte: another version of peft has other options."""
    configs = [p.relative_to(theirs) for p in theirs.rglob("adapter_config.json")]
    same = True
    for path in configs:
        weights = path.with_name("adapter_model.safetensors")
        assert (mine / weights).read_bytes() == (theirs / weights).read_bytes()
        ours, before = (json.loads((folder / path).read_text()) for folder in (mine, theirs))
        same = same and ours.keys() == before.keys()
        assert {n: v for n, v in before.items() if n in ours or v} == {
            n: ours[n] for n in ours if n in before
        }
    assert configs
    return same


# ------------------------------------------------------------------------------- stored before, stored again


@pytest.mark.parametrize("name", POSTERIORS)
def test_a_posterior_is_stored_again_to_the_byte(name: str, tmp_path: Path) -> None:
    found = plm.Posterior.load(STORED / "posterior" / name)
    path = found.save(tmp_path / "new" / name)
    assert path.read_bytes() == (STORED / "posterior" / name / "posterior.json").read_bytes()


def test_the_values_of_stored_posteriors() -> None:
    found = {name: plm.Posterior.load(STORED / "posterior" / name) for name in POSTERIORS}
    assert {name: p.method for name, p in found.items()} == {
        "dead": "importance", "exact": "exact", "importance": "importance", "listed": "exact", "mcmc": "mcmc",
        "smc": "smc", "stuck": "mcmc",
    }  # fmt: skip
    dead = found["dead"].draws
    assert [v.datum for v in dead.values["n"]] == [4, 1, 0, 0, 5, 6, 4, 5]
    assert dead.values["n"][0].text == " 4" and dead.values["n"][0].ids == (4,)
    assert dead.log_weights.dtype == np.float64
    assert np.flatnonzero(np.isneginf(dead.log_weights)).tolist() == [1, 2, 3]
    assert found["exact"].draws.certificate.rest == -math.inf and found["exact"].draws.certificate.complete
    listed = found["listed"].draws.certificate
    assert (listed.rest, listed.complete, listed.estimate, listed.estimate_se) == (
        math.inf,
        False,
        0.01,
        0.002,
    )
    assert found["stuck"].draws.chains.rhat == math.inf and found["stuck"].draws.chains.bulk_ess is None
    assert found["mcmc"].draws.chains.of_draw.tolist() == list(range(8))
    assert found["smc"].draws.particles.origin.dtype == np.int64
    story = found["importance"]
    assert story.seed == 1 and story.types == {"middle": "text"} and story.lm["base"].name == "tiny"
    assert story.log_evidence == pytest.approx(-12.982051189359883)


@pytest.mark.parametrize("gone", [("decoded",), ("particles", "chains", "decoded")])
def test_a_posterior_from_before_a_field_was_there(gone: tuple[str, ...], tmp_path: Path) -> None:
    whole = json.loads((STORED / "posterior" / "dead" / "posterior.json").read_text())
    (tmp_path / "posterior.json").write_text(json.dumps({k: v for k, v in whole.items() if k not in gone}))
    found = plm.Posterior.load(tmp_path).draws
    assert not found.decoded and found.particles is None and found.chains is None


def test_a_policy_is_stored_again_to_the_byte(tmp_path: Path) -> None:
    query = plm.load(ROOT / "programs" / "latent_rationale.plm")
    folder = STORED / "policy"
    manifest = read_manifest(folder)
    assert manifest.settings["rank"] == 1 and manifest.steps == 2 and manifest.checked is not None
    assert manifest.checked.rows[0].ess == 0.835880190950767 and manifest.checked.rows[0].khat is None
    if query.fingerprint == manifest.fingerprint:
        found = load_policy(folder, query.prepared)
        adapter = found.adapter
        assert found.verdict == "usable"
    else:
        adapter = Adapter.load(query.prepared.models["base"], folder)
    again = save_policy(tmp_path, adapter, attrs.evolve(manifest, files={}))
    assert (
        attrs.evolve(again, files=manifest.files) == manifest and again.files.keys() == manifest.files.keys()
    )
    if check_adapters(tmp_path, folder):
        assert contents(tmp_path) == {k: v for k, v in contents(folder).items() if k != "metrics.jsonl"}
    adapter.close()


def test_a_result_of_em_is_stored_again_to_the_byte(tmp_path: Path) -> None:
    folder = STORED / "em"
    record = em_saved.read_record(folder)
    assert record.best == 1 and [r.raised is None for r in record.rounds] == [True, False]
    assert record.rounds[1].bound.elbo == -14.018319163167211 and record.rounds[1].raised.kept is True
    query = plm.loads(RATED)
    base = query.prepared.models["base"]
    model, guide = Adapter.load(base, folder / "model"), Adapter.load(base, folder / "guide")
    again = em_saved.save(
        tmp_path, model, guide, read_manifest(folder / "guide"), attrs.evolve(record, files={})
    )
    assert attrs.evolve(again, files=record.files) == record
    if check_adapters(tmp_path, folder):
        wanted = {k: v for k, v in contents(folder).items() if k != "metrics.jsonl"}
        # Nobody counted the steps of an M-step then, and now 0 says so.
        assert wanted["em.json"].count(b'"kept": true') == 1
        wanted["em.json"] = wanted["em.json"].replace(b'"kept": true', b'"kept": true,\n        "steps": 0')
        assert contents(tmp_path) == wanted
    model.close()
    guide.close()


def test_an_adapter_of_another_peft(tmp_path: Path) -> None:
    """What a later version writes does no harm where it is off, and is no guess where it is on."""
    model = plm.load_model("tiny")
    folder = shutil.copytree(STORED / "policy", tmp_path / "p")
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"use_sorcery": False, "sorcery_config": None}))
    Adapter.load(model, folder).close()
    path.write_text(json.dumps(config | {"use_sorcery": True}))
    with pytest.raises(DataError, match="use_sorcery is not known to the peft that is installed"):
        Adapter.load(model, folder)
    with pytest.raises(ModelError, match="use_sorcery is not known"):
        plm.load_model("tiny", adapter=folder)


def test_a_checkpoint_is_stored_again_to_the_byte(tmp_path: Path) -> None:
    found = checkpoint.load(STORED / "checkpoint")
    assert found is not None and found.step == 3
    assert found.state == {"stage": "compile", "loss": 0.25, "names": ["a", "b"]}
    assert found.tensors["w"].tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert found.arrays["log_w"].tolist() == [0.5, -math.inf]
    checkpoint.save(tmp_path, step=3, tensors=found.tensors, arrays=found.arrays, state=found.state)
    mine, theirs = contents(tmp_path), contents(STORED / "checkpoint")
    assert set(mine) == set(theirs)
    again = checkpoint.load(tmp_path)
    assert (
        again is not None
        and again.state == found.state
        and torch.equal(again.tensors["w"], found.tensors["w"])
    )
    name = "checkpoints/step-000003/tensors.safetensors"
    assert mine[name] == theirs[name]


# ------------------------------------------------------------------------------- permissions


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(umask: int, mode: int, tmp_path: Path) -> None:
    query = plm.load(ROOT / "programs" / "latent_rationale.plm")
    adapter = Adapter.load(query.prepared.models["base"], STORED / "policy")
    manifest, record = read_manifest(STORED / "policy"), em_saved.read_record(STORED / "em")
    before = os.umask(umask)
    try:
        plm.Posterior.load(STORED / "posterior" / "dead").save(tmp_path / "posterior")
        save_policy(tmp_path / "policy", adapter, manifest)
        em_saved.save(tmp_path / "em", adapter, adapter, manifest, record)
        checkpoint.save(tmp_path / "run", step=1, tensors={}, arrays={"a": np.zeros(2)}, state={})
        for step in (1, 2):
            progress.append_metrics(tmp_path / "run" / checkpoint.METRICS, step, {})
        progress.cut_metrics(tmp_path / "run" / checkpoint.METRICS, 1)
        write(tmp_path / "page.html", "<p>")
    finally:
        os.umask(before)
        adapter.close()
    found = {
        str(p.relative_to(tmp_path)): p.stat().st_mode & 0o7777 for p in tmp_path.rglob("*") if p.is_file()
    }
    assert {Path(name).name for name in found} == {
        "posterior.json", "manifest.json", "adapter_model.safetensors", "adapter_config.json", "em.json",
        "state.json", "arrays.npz", "tensors.safetensors", "metrics.jsonl", "page.html",
    }  # fmt: skip
    assert {name: oct(m) for name, m in found.items() if m != mode} == {}


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path: Path) -> None:
    found = plm.Posterior.load(STORED / "posterior" / "dead")
    path = found.save(tmp_path)
    path.chmod(0o640)
    found.save(tmp_path)
    assert path.stat().st_mode & 0o7777 == 0o640


# ------------------------------------------------------------------------------- fields that are wrong


def refused(tmp_path: Path, kind: str, change: Callable[[dict[str, Any]], None]) -> str:
    """The message of the one diagnostic for a stored posterior that was changed."""
    whole = json.loads((STORED / "posterior" / kind / "posterior.json").read_text())
    change(whole)
    (tmp_path / "posterior.json").write_text(json.dumps(whole))
    with pytest.raises(DataError) as caught:
        plm.Posterior.load(tmp_path)
    (found,) = caught.value.diagnostics
    assert found.code == "PLM611" and found.where == str(tmp_path / "posterior.json")
    return found.message


def put(*way: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(whole: Any) -> None:
        for step in way[:-1]:
            whole = whole[step]
        whole[way[-1]] = value

    return change


@pytest.mark.parametrize(
    ("kind", "way", "value", "words"),
    [
        ("dead", ("log_weights", 0), math.nan, "NaN is no number that JSON has"),
        ("dead", ("log_weights", 0), math.inf, "Infinity is no number that JSON has"),
        ("dead", ("log_weights", 0), "inf", "`log_weights[0]` is a text, not a finite number"),
        ("dead", ("log_weights", 0), "nan", "`log_weights[0]`"),
        ("dead", ("log_weights", 0), "-Infinity", "`log_weights[0]`"),
        ("dead", ("log_weights", 2), None, "`log_weights[2]` is null"),
        ("dead", ("log_weights", 0), True, "`log_weights[0]` is true or false"),
        ("dead", ("log_weights", 0), 10**400, "more than 308 digits"),
        ("dead", ("log_weights",), ["-inf"] * 8, "`log_weights` has none above zero"),
        ("dead", ("log_weights",), [], "`log_reward` has 8 entries, and `log_weights` 0"),
        ("dead", ("log_weights",), "12345678", "`log_weights` is a text, not a list"),
        ("dead", ("log_reward", 1), "inf", "`log_reward[1]`"),
        ("dead", ("log_reward",), [0.0], "`log_reward` has 1 entries"),
        ("dead", ("log_prob", 7), "inf", "`log_prob[7]`"),
        ("dead", ("log_prob",), [0.0] * 7, "`log_prob` has 7"),
        ("dead", ("values", "n", 0, 2), {}, "`values.n[0].datum` is an object, not a text"),
        ("dead", ("values", "n", 0, 2), True, "`values.n[0].datum`"),
        ("dead", ("values", "n", 0, 2), None, "`values.n[0].datum` is null"),
        ("dead", ("values", "n", 0, 2), 1.5, "`values.n[0].datum`"),
        ("dead", ("values", "n", 0, 1), 4, "`values.n[0].text` is a whole number, not a text"),
        ("dead", ("values", "n", 0, 0), [-1], "`values.n` has a token below 0"),
        ("dead", ("values", "n", 0, 0), "4", "`values.n[0].ids`"),
        ("dead", ("values", "n", 0), [[4], " 4"], "`values.n[0]` has 2 parts, not 3"),
        ("dead", ("values", "n"), [[[4], " 4", 4]], "`values.n` has 1"),
        ("dead", ("values", "n"), {}, "`values.n` is an object, not a list"),
        ("dead", ("values",), [], "`values` is a list, not an object"),
        ("exact", ("certificate", 3), -5, "`certificate.listed` is -5, below 0"),
        ("exact", ("certificate", 3), 1.5, "`certificate.listed`"),
        ("exact", ("certificate", 2), 1, "`certificate.complete` is a whole number, not true or false"),
        ("exact", ("certificate", 0), "inf", "`certificate.covered`"),
        ("exact", ("certificate", 1), "rest", "`certificate.rest`"),
        ("listed", ("certificate", 4), -0.5, "`certificate.estimate`"),
        ("listed", ("certificate", 5), "x", "`certificate.estimate_se`"),
        ("exact", ("certificate",), [0.0, 0.0], "`certificate` has 2 parts, not 6"),
        ("exact", ("certificate",), {}, "`certificate`"),
        ("smc", ("particles", "least_ess"), -1, "`particles.least_ess`"),
        ("smc", ("particles", "ancestors"), 1.5, "`particles.ancestors`"),
        ("smc", ("particles", "resampled"), -1, "`particles.resampled`"),
        ("smc", ("particles", "variance"), None, "`particles.variance`"),
        ("smc", ("particles", "origin", 3), 10**15, "`particles.origin` has 1000000000000000, and there are 8 particles"),
        ("smc", ("particles", "origin", 3), -1, "`particles.origin[3]`"),
        ("smc", ("particles", "origin"), [0], "`particles.origin` has 1"),
        ("smc", ("particles",), "x", "`particles` is a text, not an object"),
        ("smc", ("particles", "more"), 1, "`particles` has an unknown `more`"),
        ("mcmc", ("chains", "number"), 0, "`chains.number`"),
        ("mcmc", ("chains", "number"), 7, "`chains.of_draw` has 7, and there are 7 chains"),
        ("mcmc", ("chains", "of_draw", 0), "0", "`chains.of_draw[0]`"),
        ("mcmc", ("chains", "of_draw"), [0] * 9, "`chains.of_draw` has 9"),
        ("mcmc", ("chains", "rhat"), 1.0, "`chains.rhat`"),
        ("mcmc", ("chains", "rhat", 0), "-inf", "`chains.rhat[0]`"),
        ("mcmc", ("chains", "bulk_ess"), -1, "`chains.bulk_ess`"),
        ("mcmc", ("chains", "acceptance"), 1.5, "`chains.acceptance` is 1.5, above 1"),
        ("dead", ("seed",), -1, "`seed`"),
        ("dead", ("seed",), "0", "`seed`"),
        ("dead", ("seed",), True, "`seed`"),
        ("dead", ("seconds",), -1, "`seconds`"),
        ("dead", ("seconds",), "1", "`seconds`"),
        ("dead", ("decoded",), 0, "`decoded`"),
        ("dead", ("program",), None, "`program`"),
        ("dead", ("fingerprint",), 5, "`fingerprint`"),
        ("dead", ("method",), [], "`method`"),
        ("dead", ("reason",), 0, "`reason`"),
        ("dead", ("types",), [], "`types`"),
        ("dead", ("types", "n"), 1, "`types.n`"),
        ("smc", ("lm", "base"), "tiny", "`lm.base`"),
        ("smc", ("lm", "base"), ["tiny"], "`lm.base` has 1 parts, not 5"),
        ("smc", ("lm", "base", 3), 0, "`lm.base.revision`"),
        ("smc", ("lm",), None, "`lm`"),
        ("dead", ("format",), "plm-posterior-2", "its format is 'plm-posterior-2'"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(
    kind: str, way: tuple[str | int, ...], value: Any, words: str, tmp_path: Path
) -> None:
    assert words in refused(tmp_path, kind, put(*way, value=value))


def test_a_field_that_is_gone_is_named(tmp_path: Path) -> None:
    whole = json.loads((STORED / "posterior" / "smc" / "posterior.json").read_text())
    for name in set(whole) - {"particles", "chains", "decoded", "format"}:
        assert f"lacks `{name}`" in refused(tmp_path, "smc", lambda w, name=name: w.pop(name))


ODD: tuple[Any, ...] = (None, True, -5, 1.5, "text", [], {}, [[]], {"a": 1}, "inf", 10**30, [None] * 8)


def places(value: Any, way: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The way to everything in a JSON value, of lists only to the first and the last."""
    if way:
        yield way
    if isinstance(value, Mapping):
        for key in value:
            yield from places(value[key], (*way, key))
    elif isinstance(value, list) and value:
        for i in sorted({0, len(value) - 1}):
            yield from places(value[i], (*way, i))


@pytest.mark.parametrize("kind", POSTERIORS)
def test_whatever_stands_in_a_field_is_read_or_refused(kind: str, tmp_path: Path) -> None:
    """Each field in turn holds each odd value: what is read can be asked and stored again."""
    text = (STORED / "posterior" / kind / "posterior.json").read_text()
    read = 0
    for way in places(json.loads(text)):
        for odd in ODD:
            whole = json.loads(text)
            put(*way, value=odd)(whole)
            (tmp_path / "posterior.json").write_text(json.dumps(whole))
            try:
                found = plm.Posterior.load(tmp_path)
            except DataError as problem:
                assert [d.code for d in problem.diagnostics] == ["PLM611"]
                continue
            read += 1
            json.dumps(found.to_json(), allow_nan=False)
            assert found.verdict and math.isfinite(found.weights.sum())
            found.save(tmp_path / "again")
    assert read > 10


@pytest.mark.parametrize("name", ["manifest.json", "em.json"])
def test_whatever_stands_in_a_record_is_read_or_refused(name: str, tmp_path: Path) -> None:
    source = STORED / ("policy" if name == "manifest.json" else "em")
    shutil.copytree(source, tmp_path / "copy")
    whole, code = (
        json.loads((source / name).read_text()),
        {"manifest.json": "PLM622", "em.json": "PLM795"}[name],
    )
    for way in places(whole):
        for odd in ODD:
            changed = json.loads(json.dumps(whole))
            put(*way, value=odd)(changed)
            (tmp_path / "copy" / name).write_text(json.dumps(changed))
            try:
                if name == "em.json":
                    em_saved.read_record(tmp_path / "copy")
                else:
                    found = read_manifest(tmp_path / "copy")
                    assert Manifest.from_json(found.to_json()) == found
            except DataError as problem:
                assert [d.code for d in problem.diagnostics] == [code]


def test_a_number_that_overflows_is_refused(tmp_path: Path) -> None:
    text = (STORED / "posterior" / "dead" / "posterior.json").read_text()
    (tmp_path / "posterior.json").write_text(text.replace("-2.7725887222397807", "-1e999"))
    with pytest.raises(DataError, match=r"PLM611.*\n?.*`log_weights\[0\]`"):
        plm.Posterior.load(tmp_path)


@pytest.mark.parametrize("kind", ["pipe", "deep", "folder", "large"])
def test_what_is_no_file_of_json_is_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "posterior.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "deep":
        path.write_text("[" * 100_000)
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_text("{}")
        monkeypatch.setattr("posterior_lm.storage.read_bytes.__defaults__", (1,))
        monkeypatch.setattr("posterior_lm.storage.read_object.__defaults__", (1,))
    with pytest.raises(DataError) as caught:
        plm.Posterior.load(tmp_path)
    assert caught.value.diagnostics[0].code == "PLM611"
    words = {
        "pipe": "no regular file",
        "deep": "nested too deeply",
        "folder": "no regular file",
        "large": "more than 1",
    }
    assert words[kind] in caught.value.diagnostics[0].message


def test_a_mixture_is_stored_with_its_shares(tmp_path: Path) -> None:
    found = plm.Posterior.load(STORED / "posterior" / "importance")
    report = MixtureReport(("prior", "the policy"), (0.25, 0.75), 1)
    mixed = attrs.evolve(found, draws=attrs.evolve(found.draws, method="mixture", mixture=report))
    mixed.save(tmp_path)
    again = plm.Posterior.load(tmp_path)
    assert again.draws.mixture == report and "the prior (25%) and the policy (75%)" in again.verdict
    text = (tmp_path / "posterior.json").read_text().replace("[0.25, 0.75]", "[0.25]")
    (tmp_path / "posterior.json").write_text(text)
    with pytest.raises(plm.DataError, match="PLM611"):
        plm.Posterior.load(tmp_path)
