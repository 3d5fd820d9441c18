"""Product-level meaning for three families of tokenizers, against transformers by hand.

Byte-level BPE (GPT-2's, with random weights), two SentencePiece-like ones with a dummy
prefix (one falls back to bytes and has two ends of text, one writes spaces at the end of
its pieces), and the packaged model. The oracle knows only `AutoTokenizer`'s own files
and a full forward pass over ids that stand here; nothing of `target`, `support`
or `posterior_lm.lm.hf.transformers` is read.
"""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

import posterior_lm as plm
from posterior_lm.infer.guide import PriorGuide
from tests.cli import ROOT
from tests.cli import plm as command
from tests.conftest import shared_model

Ids = tuple[int, ...]
FAMILIES = ("gpt2", "stories260k", "tinystories656k", "tiny")
CLOSE = 2e-4
"""Nats: float32 sums in another order, over up to about 60 tokens."""


@dataclass(frozen=True)
class Family:
    """A model folder, and log-probs of its tokens by the book."""

    name: str
    folder: Path
    start: Ids
    """What the tokenizer puts before a text."""
    empty: Ids
    """What an empty context is."""
    eos: Ids

    @cached_property
    def module(self):
        return AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32).eval()

    @cached_property
    def whole(self):
        return AutoTokenizer.from_pretrained(self.folder)

    @cached_property
    def bare(self) -> Tokenizer:
        """The tokenizer without its dummy prefix, from its file."""
        spec = json.loads((self.folder / "tokenizer.json").read_text("utf-8"))
        normalizer = copy.deepcopy(spec["normalizer"])
        if normalizer is not None and normalizer["type"] == "Sequence":
            normalizer["normalizers"] = [n for n in normalizer["normalizers"] if n["type"] != "Prepend"]
        found = Tokenizer.from_str(json.dumps({**spec, "normalizer": normalizer}))
        found.encode_special_tokens = True
        return found

    def open(self, text: str) -> Ids:
        """A text that begins a sequence, with what the tokenizer puts before it."""
        return tuple(self.whole(text).input_ids)

    def on(self, text: str) -> Ids:
        """A text that follows something."""
        return tuple(self.bare.encode(text, add_special_tokens=False).ids)

    def log_probs(self, ids: Sequence[int]) -> np.ndarray:
        with torch.no_grad():
            logits = self.module(torch.tensor([list(ids)])).logits[0].double()
        return torch.log_softmax(logits, dim=-1).numpy()

    def score(self, context: Ids, text: Ids, *, ends: bool = False) -> float:
        """log p(text | context), and of any end-of-text after it."""
        ids = context + text
        rows = self.log_probs(ids)
        value = sum(rows[i - 1, ids[i]] for i in range(len(context), len(ids)))
        return float(value + (np.logaddexp.reduce(rows[-1, list(self.eos)]) if ends else 0.0))


@pytest.fixture(scope="module")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GPT-2 with the real vocabulary, skewed so that some tokens are much likelier."""
    source = shared_model("gpt2-tokenizer")
    folder = tmp_path_factory.mktemp("gpt2")
    for file in source.glob("tokenizer*.json"):
        shutil.copy(file, folder)
    torch.manual_seed(7)
    module = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=50257,
            n_positions=128,
            n_embd=16,
            n_layer=2,
            n_head=2,
            bos_token_id=50256,
            eos_token_id=50256,
        )
    )
    with torch.no_grad():
        module.transformer.wte.weight.mul_(40.0)
        module.transformer.wte.weight[50256] *= 2.0
    module.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def families(gpt2_folder: Path) -> dict[str, Family]:
    tiny = ROOT / "posterior_lm" / "lm" / "tiny" / "weights"
    found = {
        "gpt2": Family("gpt2", gpt2_folder, (), (50256,), (50256,)),
        "stories260k": Family("stories260k", shared_model("stories260k-hf"), (1,), (1,), (1, 2)),
        "tinystories656k": Family("tinystories656k", shared_model("tinystories656k-hf"), (1,), (1,), (2,)),
    }
    whole = AutoTokenizer.from_pretrained(tiny)
    start = tuple(whole("").input_ids)
    found["tiny"] = Family("tiny", tiny, start, start or (whole.eos_token_id,), (whole.eos_token_id,))
    return found


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest, families: dict[str, Family]) -> Family:
    return families[request.param]


def program(family: Family, body: str, params: str = "", **given: object) -> plm.Query:
    """A program over one model, bound."""
    return plm.loads(f"lm base = {json.dumps(str(family.folder))}\nprogram p({params}) {{\n{body}\n}}").given(
        given
    )


def terms(query: plm.Query, **values: str | int | Ids) -> list[float]:
    """The terms for values given as texts, integers, or tokens."""
    target = query.target()
    column = {
        name: [target.value_of(name, v) if isinstance(v, tuple) else target.value(name, v)]
        for name, v in values.items()
    }
    found = target.terms(column)
    assert target.log_reward(column)[0] == pytest.approx(found.sum(), abs=1e-12)
    return found[0].tolist()


def close(found: Sequence[float], expected: Sequence[float]) -> None:
    assert found == pytest.approx(expected, abs=CLOSE)


# ------------------------------------------------------------------ one text latent


def test_a_latent_with_a_stop_and_what_follows_it(family: Family) -> None:
    query = program(
        family,
        """latent z: text(tokens=1..12, stop=".") ~ base("Tom had ", who)
           observe [" ", last, "!"] ~ base("Tom had ", who, z)
           observe z ~ base("A", " cat")
           factor 0.5 * log_prob([z, " ", last], base(who))""",
        "who: text, last: text",
        who="a dog",
        last="It ran",
    )
    score = query.score({"z": " and he was sad."})
    opened, z = family.open("Tom had a dog"), family.on(" and he was sad.")
    expected = [
        family.score(opened, z),
        family.score(opened + z, family.on(" It ran!")),
        family.score(family.open("A cat"), z),
        0.5 * family.score(family.open("a dog"), z + family.on(" It ran")),
    ]
    close([x for _, x in score.terms], expected)
    assert score.log_reward == pytest.approx(sum(expected), abs=CLOSE)


def test_end_of_text_is_the_sum_over_its_tokens_and_is_not_passed_on(family: Family) -> None:
    query = program(
        family,
        """latent z: text(tokens=1..9) ~ base("Once")
           observe z ~ base("He")
           observe [z] ~ base("He")
           observe [" He ran", eos] ~ base("Once", z)
           observe [" He ran"] ~ base("Once", z)
           let y = z
           factor log_prob(y, base())""",
    )
    z, ran = family.on(" upon a time"), family.on(" He ran")
    once, he = family.open("Once"), family.open("He")
    close(
        terms(query, z=z),
        [
            family.score(once, z, ends=True),
            family.score(he, z, ends=True),
            family.score(he, z),
            family.score(once + z, ran, ends=True),
            family.score(once + z, ran),
            family.score(family.empty, z, ends=True),
        ],
    )


def test_a_free_end_scores_no_terminator(family: Family) -> None:
    query = program(
        family,
        """latent z: text(tokens=1..9, end="free") ~ base("Once")
           observe z ~ base("He")
           observe "." ~ base("He", z)""",
    )
    z, he = family.on(" was a"), family.open("He")
    close(
        terms(query, z=z),
        [family.score(family.open("Once"), z), family.score(he, z), family.score(he + z, family.on("."))],
    )


def test_an_unusual_spelling_is_kept_as_its_tokens(family: Family) -> None:
    query = program(
        family,
        """latent z: text(tokens=1..9, stop=".") ~ base("The")
           observe " Yes" ~ base("The", z, " So", ".")""",
    )
    z = tuple(i for c in " cat." for i in family.on(c))
    assert z != family.on(" cat.")
    the = family.open("The")
    close(
        terms(query, z=z),
        [family.score(the, z), family.score(the + z + family.on(" So."), family.on(" Yes"))],
    )


def test_an_empty_context_and_one_that_begins_with_a_latent(family: Family) -> None:
    query = program(
        family,
        """latent z: text(tokens=1..9, stop=".") ~ base()
           observe " Then" ~ base(z)
           observe "Hello" ~ base()
           observe "Hello" ~ base("")
           observe "Hello" ~ base(bos)
           observe z ~ base(bos)""" if family.start else
        """latent z: text(tokens=1..9, stop=".") ~ base()
           observe " Then" ~ base(z)
           observe "Hello" ~ base()
           observe "Hello" ~ base("")
           observe "Hello" ~ base(eos)
           observe z ~ base(eos)""",
    )  # fmt: skip
    z, hello = family.on("A dog."), family.open("Hello")
    start, hello = hello[: len(family.start)], hello[len(family.start) :]
    assert start == family.start
    first = family.score(family.empty, hello)
    close(
        terms(query, z=z),
        [
            family.score(family.empty, z),
            family.score(start + z, family.on(" Then")),
            first,
            first,
            first,
            family.score(family.empty, z),
        ],
    )


def test_begin_and_end_of_text_by_hand(family: Family) -> None:
    if not family.start:
        pytest.skip("no begin-of-text token of its own")
    query = program(
        family,
        """latent z: text(tokens=1..9, stop=".") ~ base(bos, "The")
           observe z ~ base("The", bos, "Yes")
           observe z ~ base("The", eos, "Yes")
           observe z ~ base("The")""",
    )
    z, the, yes = family.on(" cat."), family.open("The"), family.on("Yes")
    close(
        terms(query, z=z),
        [
            family.score(the, z),
            family.score(the + family.start + yes, z),
            family.score(the + family.eos[:1] + yes, z),
            family.score(the, z),
        ],
    )


def test_powers(family: Family) -> None:
    query = program(
        family,
        """temper b {
             latent z: text(tokens=1..9) ~ base("The") ^ 0.5
             observe " So" ~ base("The", z)
             condition contains(z, "cat")
           }
           observe z ~ base("My") ^ -1.5""",
        "b: real = 1.25",
    )
    z, the = family.on(" cat"), family.open("The")
    close(
        terms(query, z=z),
        [
            1.25 * 0.5 * family.score(the, z, ends=True),
            1.25 * family.score(the + z, family.on(" So")),
            0.0,
            -1.5 * family.score(family.open("My"), z, ends=True),
        ],
    )


# ------------------------------------------------------------------ finite types


def test_integers_with_a_lead(family: Family) -> None:
    query = program(
        family,
        """latent n: int(-3..12, lead=" ") ~ base("I have")
           observe " cats" ~ base("I have", n)
           observe [n, " cats"] ~ base("You have")
           latent m: int(0..12, lead=" ") ~ choice(base("He has", n))
           latent k: int(0..9, lead=" ") ~ uniform(0, 9)
           observe "." ~ base("We", k, " more")
           factor 0.1 * n""",
    )
    have = family.open("I have")
    for n, m, k in ((3, 12, 0), (-2, 1, 9)):
        ids = family.on(f" {n}")
        past = family.open("He has") + ids
        all_m = [family.score(past, family.on(f" {i}")) for i in range(13)]
        close(
            terms(query, n=n, m=m, k=k),
            [
                family.score(have, ids),
                family.score(have + ids, family.on(" cats")),
                family.score(family.open("You have"), ids + family.on(" cats")),
                all_m[m] - np.logaddexp.reduce(all_m),
                -math.log(10),
                family.score(family.open("We") + family.on(f" {k}") + family.on(" more"), family.on(".")),
                0.1 * n,
            ],
        )


def test_choices_and_chosen_parameters(family: Family) -> None:
    words = (" dog", " cat", " cat sat")
    query = program(
        family,
        """latent a: one_of(" dog", " cat", " cat sat") ~ base("The")
           latent b: one_of(" dog", " cat", " cat sat") ~ choice(base("The", a))
           observe c ~ choice(base("My", b))
           observe n ~ choice(base("My", b)) ^ 2
           observe c ~ base("My", b)
           observe n ~ base("My", b)""",
        'c: one_of(" red", " blue"), n: int(5..11, lead=" ")',
        c=" blue",
        n=10,
    )
    the, my = family.open("The"), family.open("My")
    a, b = family.on(" cat sat"), family.on(" cat")
    bs = {w: family.score(the + a, family.on(w)) for w in words}
    cs = {w: family.score(my + b, family.on(w)) for w in (" red", " blue")}
    ns = {i: family.score(my + b, family.on(f" {i}")) for i in range(5, 12)}
    close(
        terms(query, a=" cat sat", b=" cat"),
        [
            family.score(the, a),
            bs[" cat"] - np.logaddexp.reduce(list(bs.values())),
            cs[" blue"] - np.logaddexp.reduce(list(cs.values())),
            2 * (ns[10] - np.logaddexp.reduce(list(ns.values()))),
            cs[" blue"],
            family.score(my + b, family.on("10")),
        ],
    )


# ------------------------------------------------------------------ several latents, plates, models


def test_latents_in_a_row_and_segments_that_depend_on_them(family: Family) -> None:
    query = program(
        family,
        """latent x: text(tokens=1..6, stop=",") ~ base("The")
           latent y: text(tokens=1..6) ~ base("The", x)
           latent k: int(0..3, lead=" ") ~ uniform()
           let both = [x, " then", y]
           observe " End" ~ base("A", both, k, "!")
           observe " End" ~ base("A", if k > 1 then " big" else " small", " one", k)
           observe [if contains(x, "cat") then " miaow" else " woof", "."] ~ base("It said")""",
    )
    the, a = family.open("The"), family.open("A")
    x, y, k = family.on(" cat,"), family.on(" ran"), family.on(" 2")
    close(
        terms(query, x=x, y=y, k=2),
        [
            family.score(the, x),
            family.score(the + x, y, ends=True),
            -math.log(4),
            family.score(a + x + family.on(" then") + y + k + family.on("!"), family.on(" End")),
            family.score(a + family.on(" big") + family.on(" one") + k, family.on(" End")),
            family.score(family.open("It said"), family.on(" miaow") + family.on(".")),
        ],
    )


def test_a_plate_with_latents_of_its_own(family: Family) -> None:
    query = program(
        family,
        """latent rule: text(tokens=1..6, stop=".") ~ base("Rule:")
           plate e in rows {
             temper 0.5 { latent why: text(tokens=1..6, stop=",") ~ base("Rule:", rule, " For ", e.x) }
             observe [" ", e.y] ~ base("Rule:", rule, " For ", e.x, why)
           }""",
        "rows: table(x: text, y: int)",
        rows=[{"x": "a cat", "y": 3}, {"x": "", "y": 12}],
    )
    rule = family.open("Rule:") + family.on(" be good.")
    whys = (family.on(" so,"), family.on(" as he ran,"))
    pasts = (rule + family.on(" For a cat"), rule + family.on(" For "))
    close(
        terms(query, rule=family.on(" be good."), **{"why[0]": whys[0], "why[1]": whys[1]}),
        [
            family.score(family.open("Rule:"), family.on(" be good.")),
            0.5 * sum(family.score(p, w) for p, w in zip(pasts, whys, strict=True)),
            sum(
                family.score(p + w, family.on(f" {y}")) for p, w, y in zip(pasts, whys, (3, 12), strict=True)
            ),
        ],
    )


@pytest.mark.parametrize(
    ("drawn", "judge"), [("stories260k", "gpt2"), ("tiny", "tinystories656k"), ("gpt2", "tiny")]
)
def test_two_models_with_other_tokenizers(families: dict[str, Family], drawn: str, judge: str) -> None:
    a, b = families[drawn], families[judge]
    query = plm.loads(
        f"""lm a = {json.dumps(str(a.folder))}
        lm b = {json.dumps(str(b.folder))}
        program p() {{
          latent z: text(tokens=1..12) ~ a("The")
          latent n: int(1..12, lead=" ") ~ a("The", z)
          observe z ~ b("The")
          observe " He" ~ b("The", z, n)
          factor log_prob([z, "."], b(n))
          factor tokens(z)
        }}"""
    )
    z = tuple(i for c in " big dog" for i in a.on(c))
    z_b, n_b, the = b.on(" big dog"), b.on(" 7"), b.open("The")
    close(
        terms(query, z=z, n=7),
        [
            a.score(a.open("The"), z, ends=True),
            a.score(a.open("The") + z, a.on(" 7")),
            b.score(the, z_b, ends=True),
            b.score(the + z_b + n_b, b.on(" He")),
            b.score(b.start + n_b, z_b + b.on(".")),
            float(len(z)),
        ],
    )


def test_special_strings_in_a_parameter_are_plain_characters(family: Family) -> None:
    text = "a <s> <|endoftext|> <|end_story|> b"
    if family.name != "tinystories656k":  # it has no slash
        text += "</s>"
    query = program(
        family, 'latent z: text(tokens=1..9, stop=".") ~ base(t)\n observe t ~ base("A")', "t: text", t=text
    )
    target = query.target()
    tokenizer = target.models["base"].tokenizer
    ids = tokenizer.encode(text)
    assert all(tokenizer.token_bytes[i] is not None for i in ids)
    assert b"".join(tokenizer.token_bytes[i] or b"" for i in ids) == text.encode()
    z = family.on(" so.")
    opened = family.start + tokenizer.encode_start(text)
    close(terms(query, z=z), [family.score(opened, z), family.score(family.open("A"), ids)])


# ------------------------------------------------------------------ inference

SMALL = """latent z: text(tokens=1..2, chars=" aet", {end}) ~ base("The cat w")
           observe " dog" ~ base("The cat w", z) ^ 0.2"""
"""The power keeps the weights light, so that their standard error can be relied on."""


def by_hand(family: Family, end: str) -> dict[Ids, float]:
    """Every value of `SMALL` with its log reward."""
    stop, ends = ("t" if "stop" in end else None), "eos" in end
    usable = {}
    for token in range(family.module.config.vocab_size):
        piece = family.bare.id_to_token(token)
        if piece is None:
            continue
        text = piece.replace("Ġ", " ").replace("▁", " ")
        if family.name == "stories260k" and piece.startswith("<0x"):
            text = chr(int(piece[3:5], 16))
        if text.strip(" aet") == "":
            usable[token] = text
    context, dog = family.open("The cat w"), family.on(" dog")
    found = {}
    singles = [(i,) for i in usable]
    for ids in singles + [(i, j) for i in usable for j in usable]:
        text = "".join(usable[i] for i in ids)
        if stop is not None and text.find(stop) != len(text) - len(stop):
            continue
        found[ids] = family.score(context, ids, ends=ends) + 0.2 * family.score(context + ids, dog)
    return found


@pytest.mark.parametrize("end", ['stop="t"', 'end="eos"'])
def test_exact_lists_the_support_and_importance_agrees(family: Family, end: str) -> None:
    query = program(family, SMALL.format(end=end))
    if family.name == "gpt2" and "eos" in end:
        pytest.skip("2,000 forward passes by hand; the case with a stop covers it")
    exact = query.using("exact", mass=1, values=20_000).draw(seed=0)
    hand = by_hand(family, end)
    found = {v.ids: r for v, r in zip(exact.draws.values["z"], exact.draws.log_reward, strict=True)}
    assert found.keys() == hand.keys()
    close([found[k] for k in hand], list(hand.values()))
    truth = float(np.logaddexp.reduce(list(hand.values())))
    assert exact.log_evidence == pytest.approx(truth, abs=CLOSE)
    guide = PriorGuide(query.target())
    assert np.logaddexp.reduce(guide.log_prob(exact.draws.values)) == pytest.approx(0, abs=1e-5)
    drawn = query.using("importance").draw(400, seed=1)
    assert {v.ids for v in drawn.draws.values["z"]} <= hand.keys()
    assert drawn.draws.log_prob == pytest.approx(guide.log_prob(drawn.draws.values), abs=CLOSE)
    if "stop" in end:  # where it is the unlikely end of text that ends a value, weights are too heavy for it
        assert drawn.log_evidence_se is not None
        assert abs(drawn.log_evidence - truth) <= 4 * drawn.log_evidence_se + CLOSE


@pytest.mark.parametrize("options", ['stop=" a"', 'stop=".", chars=" abcdefghijklmnop"', "canonical=true"])
def test_draws_obey_their_type_and_are_scored_as_by_hand(family: Family, options: str) -> None:
    if family.name == "gpt2" and "canonical" in options:
        options = 'canonical=true, chars=" aet"'  # the whole vocabulary takes long
    query = program(
        family,
        f"""latent z: text(tokens=2..7, {options}) ~ base("One day Tom and ", who)
            latent n: int(8..12, lead=" ") ~ base("One day Tom and ", who, z)
            observe " It was fun" ~ base("One day Tom and ", who, z, n)""",
        "who: text",
        who="his friend Sue went to the big park to play with the dog and the red ball" * 2,
    )
    draws = query.using("importance").draw(24, seed=3).draws
    opened = family.open("One day Tom and " + query.data["who"])
    for d, (z, n) in enumerate(zip(draws.values["z"], draws.values["n"], strict=True)):
        text = z.text
        assert 2 <= len(z.ids) <= 7
        assert n.ids == family.on(f" {n.datum}")
        if "stop" in options:
            stop = " a" if " a" in options[:10] else "."
            assert text.find(stop) == len(text) - len(stop)
        if "chars" in options:
            assert set(text.removesuffix(".")) <= set(" abcdefghijklmnopt")
        if "canonical" in options:
            assert family.on(text) == z.ids
        if d % 6 == 0:
            past = opened + z.ids
            by_hand = [
                family.score(opened, z.ids, ends="stop" not in options),
                family.score(past, n.ids),
                family.score(past + n.ids, family.on(" It was fun")),
            ]
            assert draws.log_reward[d] == pytest.approx(sum(by_hand), abs=1e-3)


@pytest.mark.parametrize("end", ['stop="\\n"', 'end="eos"', 'end="free"', 'stop=" a"', "canonical=true"])
def test_packed_prefixes_are_the_plain_ones(family: Family, end: str) -> None:
    query = program(
        family,
        f"""latent z: text(tokens=2..8, {end}) ~ base("The")
            observe [" dog", eos] ~ base("My", z, " so")
            observe z ~ base("A") ^ 0.5
            factor log_prob(z, base())""",
    )
    target = query.target()
    info = target.latent("z")
    tails = {'stop="\\n"': " big cat\n", 'stop=" a"': " big cat a"}
    ids = family.on(tails.get(end, " big cat."))[-8:]
    if not info.support.accepts(ids):
        ids = tuple(i for c in tails.get(end, " big cat.")[-8:] for i in family.on(c))[-8:]
    values = {"z": [target.value_of("z", ids)]}
    packed = target.log_reward_prefixes(values)
    plain = target.log_reward_prefixes(values, packed=False)
    assert np.isfinite(plain).any()
    assert packed.shape == plain.shape == (1, len(ids) + 1)
    assert np.array_equal(np.isfinite(packed), np.isfinite(plain))
    inside = np.isfinite(plain)
    assert packed[inside] == pytest.approx(plain[inside], abs=1e-4)
    if info.support.accepts(ids):
        assert plain[0, -1] == pytest.approx(target.log_reward(values)[0], abs=1e-4)


def test_predict_is_bayes_by_hand(family: Family, tmp_path: Path) -> None:
    file = tmp_path / "p.plm"
    file.write_text(
        f"""lm base = {json.dumps(str(family.folder))}
        program p(label: one_of(" good", " bad"), n: int(2..4)) {{
          latent why: one_of(" big", " sad") ~ choice(base("It was"))
          observe [label, n] ~ base("It was", why, " so")
        }}""",
        "utf-8",
    )
    was = family.open("It was")
    prior = {w: family.score(was, family.on(w)) for w in (" big", " sad")}
    total = np.logaddexp.reduce(list(prior.values()))

    def mass(label: str, n: int) -> float:
        parts = [
            prior[w] - total + family.score(was + family.on(w) + family.on(" so"), family.on(f"{label}{n}"))
            for w in prior
        ]
        return float(np.logaddexp.reduce(parts))

    def asked(name: str, given: str) -> dict[object, float]:
        run = command("predict", file, name, "--given", given, "--format", "json")
        assert run.exit_code == 0, run.output
        return {p["value"]: p["prob"] for p in json.loads(run.output)["predictions"]}

    def wanted(masses: dict[object, float]) -> dict[object, float]:
        evidence = np.logaddexp.reduce(list(masses.values()))
        return {k: math.exp(v - evidence) for k, v in masses.items()}

    labels = wanted({c: mass(c, 3) for c in (" good", " bad")})
    numbers = wanted({n: mass(" bad", n) for n in (2, 3, 4)})
    assert asked("label", "n=3") == pytest.approx(labels, abs=1e-4)
    assert asked("n", "label= bad") == pytest.approx(numbers, abs=1e-4)


# ------------------------------------------------------------------ values at the edge


def test_a_numpy_number_is_spelled_as_a_number(families: dict[str, Family]) -> None:
    query = program(
        families["tiny"],
        'observe ["x", r, n] ~ base("a")\n observe "x0.13" ~ base("a")',
        "r: real, n: int",
        r=np.float64(0.1),
        n=np.int64(3),
    )
    first, second = terms(query)
    assert first == second


def test_a_value_that_rules_out_everything_has_probability_zero(families: dict[str, Family]) -> None:
    query = program(families["tiny"], "latent u: int(0..n) ~ uniform()\n condition u == 2", "n: int(0..3)")
    assert dict(query.predict("n").probs) == pytest.approx({0: 0.0, 1: 0.0, 2: 4 / 7, 3: 3 / 7})


def test_a_pattern_from_the_data_that_is_none(families: dict[str, Family]) -> None:
    query = program(families["tiny"], "condition matches(p, p)", "p: text", p="(")
    with pytest.raises(plm.InferenceError, match="PLM317"):
        query.score({})


def test_a_power_that_no_number_holds(families: dict[str, Family]) -> None:
    query = program(families["tiny"], 'observe "a" ~ base("b") ^ b', "b: real", b=1e308)
    with pytest.raises(plm.InferenceError, match="PLM705"):
        query.score({})


def test_latents_with_the_names_of_columns(families: dict[str, Family]) -> None:
    query = program(
        families["tiny"], "latent weight: int(3..4) ~ uniform()\n latent draw: int(7..8) ~ uniform()"
    )
    posterior = query.draw()
    frame = posterior.to_pandas()
    assert set(frame["weight"]) == {3, 4}
    assert frame["weight_"].sum() == pytest.approx(1)
    assert set(posterior.to_arviz()["posterior"]["draw_"].values.ravel()) == {7, 8}
