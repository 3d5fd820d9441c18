"""A policy as a LoRA proposal in genlm-control: its next tokens, its draws and its weights are ours.

What is ours is the model, the support and the adapter's files; loading the adapter,
asking for next tokens, drawing and weighing are genlm-control's, by the potentials of
`docs/how-to/genlm-control.md`. Skipped where genlm-control is not installed.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from attrs import frozen
from scipy import stats

import posterior_lm as plm
from posterior_lm.infer.importance import log_weights
from posterior_lm.infer.weights import ess, log_evidence
from posterior_lm.lm.tiny import WEIGHTS
from posterior_lm.target.target import Target
from posterior_lm.target.values import Value
from posterior_lm.train.adapter import Adapter
from posterior_lm.train.guide import PolicyGuide, paths_of
from posterior_lm.train.policy import Manifest, save_policy
from tests.conftest import ROOT
from tests.test_docs import snippets

control = pytest.importorskip("genlm.control", reason="genlm-control is not installed")

PAGE = ROOT / "docs" / "how-to" / "genlm-control.md"
PROGRAM = ROOT / "programs" / "story_infilling.plm"
ROW = {"opening": "Tom played in the park. It was a windy day.", "ending": "The doctor took care of it."}
LIMITS = {"as in the program": "tokens=1..25", "where both limits bind": "tokens=4..7"}
CLOSE = {"rtol": 0, "atol": 1e-4}
"""Nats, of one token."""
LONG = {"rtol": 0, "atol": 1e-3}
"""Nats, of a whole value: up to 25 tokens and the observed text, each rounded to float32."""
DRAWN = 1500
LISTED = 10
SEED = 11


@frozen(eq=False)
class Scene:
    """One target on both sides: ours, and the potentials that stand for it there."""

    target: Target
    guide: PolicyGuide
    prior: Any
    policy: Any
    inside: Any
    observed: Any

    def drawn(self, sampler: Any, n: int, **options: Any) -> tuple[list[Value], np.ndarray]:
        """Values that their sampler drew, all inside the support, and their log weights (N,), nats."""
        support = self.target.latent("middle").support
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            found = asyncio.run(sampler.smc(n, ess_threshold=0.0, max_tokens=support.max_tokens, **options))
        assert all(context[-1] is control.EOS for context in found.contexts)
        ids = [tuple(t.token_id for t in context[:-1]) + support.stop_ids for context in found.contexts]
        assert all(support.accepts(one) for one in ids)
        made = {one: self.target.value_of("middle", one) for one in dict.fromkeys(ids)}
        return [made[one] for one in ids], found.log_weights

    def tokens(self, ids: tuple[int, ...]) -> list[Any]:
        return self.policy.decode_tokens(ids)

    def likeliest(self, n: int = LISTED) -> tuple[list[Value], np.ndarray]:
        """The likeliest of many draws of ours, and their log probability; their draws have no say in it."""
        found = self.guide.sample(np.random.default_rng(SEED), DRAWN)
        seen = {v.ids: (lq, v) for v, lq in zip(found.values["middle"], found.log_prob, strict=True)}
        top = sorted(seen.values(), key=lambda pair: -pair[0])[:n]
        return [v for _, v in top], np.array([lq for lq, _ in top])


@pytest.fixture(scope="module")
def base() -> plm.LanguageModel:
    return plm.load_model("tiny")


@pytest.fixture(scope="module")
def folder(base: plm.LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy of the program, moved far from the base by chance and saved as a fit saves it."""
    query = plm.load(PROGRAM)
    adapter = Adapter.new(base, rank=4, seed=1)
    rng = torch.Generator().manual_seed(0)
    moved = {k: v + 0.1 * torch.randn(v.shape, generator=rng) for k, v in adapter.tensors().items()}
    adapter.restore(moved)
    place = tmp_path_factory.mktemp("interop") / "policy"
    save_policy(place, adapter, Manifest.new(query.prepared, "base", [ROW]))
    adapter.close()
    return place


@pytest.fixture(scope="module")
def adapter(base: plm.LanguageModel, folder: Path) -> Iterator[Adapter]:
    found = Adapter.load(base, folder)
    yield found
    found.close()


@pytest.fixture(scope="module")
def potentials(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The module that the page tells its readers to write."""
    (block,) = [b for b in snippets.blocks(PAGE.read_text(encoding="utf-8")) if b.note("file") is not None]
    path = tmp_path_factory.mktemp("page") / str(block.note("file"))
    path.write_text(block.text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Any:
    """Their copy of the packaged model, with the adapter beside it."""
    llm = control.PromptedLLM.from_name(
        str(WEIGHTS), backend="hf", eos_byte_strings=[b"."], batch_size=256, timeout=0.0
    )
    llm.model.add_new_lora(str(folder), "policy")
    return llm


@pytest.fixture(scope="module", params=list(LIMITS))
def scene(request: Any, adapter: Adapter, potentials: ModuleType, loaded: Any) -> Scene:
    text = PROGRAM.read_text(encoding="utf-8").replace("tokens=1..25", LIMITS[request.param])
    target = plm.loads(text).lm(base=adapter.base).given(ROW).target()
    spell = loaded.model.tokenizer.encode
    policy = control.PromptedLLM(
        loaded.model,
        prompt_ids=spell(f"Beginning: {ROW['opening']}\nEnding: {ROW['ending']}\nMiddle:"),
        token_maps=loaded.token_maps,
        lora_name="policy",
    )
    loaded.model.cache_kv(policy.prompt_ids, lora_name="policy")
    prior = loaded.spawn(prompt_ids=spell(ROW["opening"]))
    return Scene(
        target,
        PolicyGuide.of(target, adapter),
        prior,
        policy,
        potentials.Inside(loaded, target.latent("middle").support),
        potentials.Observed(prior, spell(" " + ROW["ending"], add_special_tokens=False)),
    )


def test_both_read_the_same_tokens(scene: Scene) -> None:
    value = scene.likeliest(1)[0]
    info = scene.target.latent("middle")
    (path,) = paths_of(scene.target, scene.guide.readings["middle"], info, {"middle": value}, 1)
    assert list(path.context) == scene.policy.prompt_ids


def test_next_tokens_have_our_log_probs_with_and_without_the_adapter(scene: Scene, adapter: Adapter) -> None:
    """Asked for together, so that neither's answers may come from the other's weights or caches."""
    prefixes = sorted({v.ids[:t] for v in scene.likeliest()[0] for t in range(len(v.ids))})
    assert len(prefixes) > 20 and () in prefixes

    async def ask() -> list[Any]:
        contexts = [scene.tokens(p) for p in prefixes]
        both = (scene.policy, scene.prior, scene.policy.spawn(), scene.prior.spawn())
        return await asyncio.gather(*(llm.batch_logw_next(contexts) for llm in both))

    found = [rows.weights.numpy() for rows in asyncio.run(ask())]
    order = [t.token_id for t in scene.policy.vocab] + list(scene.policy.token_maps.eos_idxs)
    assert sorted(order) == list(range(adapter.base.tokenizer.vocabulary_size))
    ours = []
    for model, prompt in ((adapter.model(), scene.policy.prompt_ids), (adapter.base, scene.prior.prompt_ids)):
        rows = [model.open([(*prompt, *p)]).log_probs[0] for p in prefixes]
        ours.append(np.array(rows)[:, order])
    for k, rows in enumerate(found):
        np.testing.assert_allclose(rows, ours[k % 2], **CLOSE)
    plain = np.array([adapter.base.open([(*scene.policy.prompt_ids, *p)]).log_probs[0] for p in prefixes])
    assert np.abs(plain[:, order] - ours[0]).max(axis=1).min() > 0.5  # the adapter says something of its own


def test_whole_values_have_our_log_prob(scene: Scene) -> None:
    values, log_prob = scene.likeliest(40)
    normalised = (scene.policy * scene.inside).normalize()

    async def ask() -> list[float]:
        return await asyncio.gather(*(normalised.complete(scene.tokens(v.ids[:-1])) for v in values))

    np.testing.assert_allclose(asyncio.run(ask()), log_prob, **LONG)


def test_draws_have_our_guides_distribution(scene: Scene) -> None:
    values, _ = scene.drawn(control.direct_token_sampler(scene.policy * scene.inside), DRAWN)
    listed, log_prob = scene.likeliest()
    counts = np.array([sum(v.ids == one.ids for v in values) for one in listed])
    expected = np.exp(log_prob)
    spread = np.sqrt(expected * (1 - expected) / DRAWN)
    assert (np.abs(counts / DRAWN - expected) < 4 * spread).all(), (SEED, counts / DRAWN, expected)
    cells = np.append(counts, DRAWN - counts.sum()), np.append(expected, 1 - expected.sum()) * DRAWN
    assert stats.chisquare(*cells).pvalue > 1e-4, (SEED, cells)
    # The tail too: the mean of log q over their draws is its mean over ours.
    theirs = scene.guide.log_prob({"middle": values})
    ours = scene.guide.sample(np.random.default_rng(SEED + 1), DRAWN).log_prob
    error = np.sqrt((theirs.var() + ours.var()) / DRAWN)
    assert abs(theirs.mean() - ours.mean()) < 4 * error, (SEED, theirs.mean(), ours.mean(), error)


def test_weights_are_ours(scene: Scene) -> None:
    """The adapter proposes, the base is the target, and the observed text a critic: the whole program."""
    sampler = control.direct_token_sampler(scene.prior * scene.inside, proposal=scene.policy * scene.inside)
    values, found = scene.drawn(sampler, 200, critic=scene.observed)
    drawn = {"middle": values}
    ours, _ = log_weights(scene.target, drawn, scene.guide.log_prob(drawn))
    assert ours.std() > 1 and len({v.ids for v in values}) > 50
    np.testing.assert_allclose(found, ours, **LONG)
    support = scene.target.latent("middle").support
    lengths = {len(v.ids) for v in values}
    assert support.max_tokens > 7 or lengths >= {4, 7}  # ends that are forced, and ends that are not


def test_the_page_draws_from_this_target(
    folder: Path, adapter: Adapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its code as it stands, with the adapter as the folder `policy`."""
    page = PAGE.read_text(encoding="utf-8")
    assert page.count("<!-- not run -->\n") == 1
    (tmp_path / "policy").symlink_to(folder)
    target = plm.load(PROGRAM).lm(base=adapter.base).given(ROW).target()
    guide, seen = PolicyGuide.of(target, adapter), []
    smc = control.SMC.__call__

    async def watched(*arguments: Any, **options: Any) -> Any:
        seen.append(await smc(*arguments, **options))
        return seen[-1]

    monkeypatch.setattr(control.SMC, "__call__", watched)
    with torch.random.fork_rng(devices=[]), snippets.inside(snippets.working_folder(tmp_path)):
        *_, done = snippets.run_page(page.replace("<!-- not run -->\n", ""), tmp_path)
    (found,) = seen
    stop = target.latent("middle").support.stop_ids
    ids = [tuple(t.token_id for t in context[:-1]) + stop for context in found.contexts]
    values = {"middle": [target.value_of("middle", one) for one in ids]}
    ours, _ = log_weights(target, values, guide.log_prob(values))
    np.testing.assert_allclose(found.log_weights, ours, **LONG)
    first, *rows = done.outputs[0].splitlines()
    assert first == f"log evidence {log_evidence(ours):.2f} nats, ESS {ess(ours):.0f} of 200"
    best: dict[str, float] = {}
    for value, weight in zip(values["middle"], np.exp(ours - np.logaddexp.reduce(ours)), strict=True):
        best[value.text] = best.get(value.text, 0.0) + weight
    assert rows[0] == f"{max(best.values()):.3f} {max(best, key=lambda text: best[text])}"
