"""Programs with conversations: what is scored, drawn, fitted and refused, on small random models."""

from __future__ import annotations

import itertools
import math
import shutil
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import posterior_lm as plm
from posterior_lm.api.query import Query, loads
from posterior_lm.decode.prompts import guide_readings, with_examples
from posterior_lm.infer.exact import Exact
from posterior_lm.infer.guide import PriorGuide, contexts_of
from posterior_lm.infer.prefix_expansion import Branching, Partial
from posterior_lm.infer.weights import logsumexp
from posterior_lm.lang.diagnostics import DataError, ModelError, PlmError
from posterior_lm.lang.driver import compile_source
from posterior_lm.lang.format import format_module
from posterior_lm.lang.source import Source
from posterior_lm.lm.protocol import Message
from posterior_lm.report.picture import spelled
from posterior_lm.target.resources import _load
from posterior_lm.target.target import Target
from posterior_lm.train.adapter import Adapter
from posterior_lm.train.gflownet_batch import score_draws, walk
from posterior_lm.train.guide import PolicyGuide, readings_of
from tests.chats import FAMILIES, write_chat_model, write_family
from tests.cli import ROOT
from tests.cli import plm as command
from tests.laws.models import byte_level_tokenizer

CLOSE = 3e-4
"""Nats: float32 sums in another order."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of each kind of template: with and without a system message, trimming, ending in other tokens."""
    scratch = tmp_path_factory.mktemp("models")
    names = ("smollm2", "llama3", "gemma2", "mistral")
    return {
        name: write_chat_model(scratch / name, name, byte_level_tokenizer(bos=name != "smollm2"), seed=k)
        for k, name in enumerate(names)
    }


class Oracle:
    """Sums over the sequences that `apply_chat_template` writes, by plain forward passes."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        self.module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.log_probs = lru_cache(maxsize=None)(self._log_probs)

    def ids(self, *messages: tuple[str, str], prompt: bool = True) -> tuple[int, ...]:
        said = [{"role": role, "content": content} for role, content in messages]
        return tuple(
            self.tokenizer.apply_chat_template(said, add_generation_prompt=prompt, return_dict=False)
        )

    def _log_probs(self, ids: tuple[int, ...]) -> np.ndarray:
        with torch.inference_mode():
            return torch.log_softmax(self.module(torch.tensor([ids])).logits[0].double(), dim=-1).numpy()

    def score(self, ids: tuple[int, ...], start: int) -> float:
        table = self.log_probs(ids)
        return math.fsum(table[i - 1, ids[i]] for i in range(start, len(ids)))

    def text(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def end(oracle: Oracle, name: str) -> int:
    return oracle.tokenizer.convert_tokens_to_ids(FAMILIES[name].end)


ANSWERS = ["".join(letters) for n in range(1, 3) for letters in itertools.product("ab", repeat=n)]
"""Every text of one or two letters: each letter is a token of its own."""

ANSWER = """
lm base = "MODEL"

program answer(question: text, reply: text) {
  latent z: text(tokens=1..2, chars="ab") ~ base(user("Q: ", question))
  observe reply ~ base(user("Q: ", question), assistant(z), user("ok"))
}
"""


def query(folder: Path, program: str) -> Query:
    return loads(program.replace("MODEL", str(folder)))


def values_of(target: Target, texts: list[str]) -> dict[str, list]:
    return {"z": [target.value("z", text) for text in texts]}


@pytest.mark.parametrize("name", ["smollm2", "llama3", "gemma2"])
def test_exact_enumeration_is_the_sum_over_transformers_sequences(name: str, folders: dict) -> None:
    """Every answer's tokens and its end of turn, then the reply after the next turn."""
    oracle = Oracle(folders[name])
    reply = oracle.text("yes")
    asked = ("user", "Q: why")
    want = {}
    for z in ANSWERS:
        begun = oracle.ids(asked)
        whole = oracle.ids(asked, ("assistant", z), prompt=False)
        to_end = whole.index(end(oracle, name), len(begun)) + 1
        assert whole[: len(begun)] == begun
        later = oracle.ids(asked, ("assistant", z), ("user", "ok"))
        want[z] = oracle.score(whole[:to_end], len(begun)) + oracle.score(later + reply, len(later))
    asking = query(folders[name], ANSWER).given(question="why", reply="yes")
    found = asking.using("exact").draw(100)
    assert found.log_evidence == pytest.approx(logsumexp(np.array([*want.values()])), abs=CLOSE)
    target = asking.target()
    rewards = target.log_reward(values_of(target, ANSWERS))
    assert rewards == pytest.approx([want[z] for z in ANSWERS], abs=CLOSE)
    assert np.ptp(rewards) > 1, "a skewed target"
    # "a" and "b" are cuts here, and no values of their own.
    for packed in (True, False):
        cut = target.log_reward_prefixes(values_of(target, ["ab", "ba"]), "z", packed=packed)
        assert cut[:, 1:] == pytest.approx(
            np.array([[want["a"], want["ab"]], [want["b"], want["ba"]]]), abs=CLOSE
        )


@pytest.mark.parametrize("name", ["llama3", "gemma2"])
def test_what_is_not_listed_is_bounded_by_the_end_of_the_turn(name: str, folders: dict) -> None:
    """Of a program that is its prior alone the bound of a whole answer is its log reward, and nothing is missed."""
    program = ANSWER.replace("1..2", "1..3").replace("\n  observe reply", "\n  # observe reply")
    asking = query(folders[name], program).given(question="why", reply="yes")
    target = asking.target()
    branching = Branching(target, PriorGuide(target))
    root, _ = branching.open([Partial()])
    families, _ = branching.open([root[0].child(rank) for rank in range(len(root[0]))])
    stopped = [c for f in families for c in map(f.child, range(len(f))) if c.values]
    assert sorted(c.values[0].text for c in stopped) == ["a", "b"]
    rewards = target.log_reward({"z": [c.values[0] for c in stopped]})
    assert [c.bound for c in stopped] == pytest.approx(rewards.tolist(), abs=CLOSE)
    some = Exact(values=10**6, mass=0.3)
    state, rng = some.init(np.random.default_rng(0), target, None), np.random.default_rng(0)
    for _ in range(2):
        state, _ = some.step(rng, state)
    bound = some.certificate(state)
    whole = asking.using("exact").draw(100).log_evidence
    assert not bound.complete and whole is not None
    assert bound.covered < whole <= np.logaddexp(bound.covered, bound.rest) + CLOSE


def test_the_end_of_a_turn_is_no_end_of_text(folders: dict) -> None:
    """Llama 3 and Gemma end a text and a turn with different tokens: an answer ends with the latter, once."""
    for name in ("llama3", "gemma2"):
        oracle = Oracle(folders[name])
        family = FAMILIES[name]
        assert family.end != family.eos
        plain = query(folders[name], 'lm base = "MODEL"\nprogram p(q: text) {\n'
                      '  latent z: text(tokens=1..2, chars="ab") ~ base(q)\n}\n')  # fmt: skip
        chat = query(folders[name], 'lm base = "MODEL"\nprogram p(q: text) {\n'
                     '  latent z: text(tokens=1..2, chars="ab") ~ base(user(q))\n}\n')  # fmt: skip
        for asking, context, last in (
            (plain, tuple(oracle.tokenizer("why")["input_ids"]), family.eos),
            (chat, oracle.ids(("user", "why")), family.end),
        ):
            target = asking.given(q="why").target()
            ids = context + oracle.text("ab") + (oracle.tokenizer.convert_tokens_to_ids(last),)
            want = oracle.score(ids, len(context))
            assert target.log_reward(values_of(target, ["ab"])) == pytest.approx([want], abs=CLOSE)


@pytest.mark.parametrize("name", ["smollm2", "llama3"])
def test_drawing_adds_up_to_what_is_scored(name: str, folders: dict) -> None:
    """Importance and smc propose with the end of the turn: their evidence is the exact one."""
    asking = query(folders[name], ANSWER).given(question="why", reply="yes")
    exact = asking.using("exact").draw(100).log_evidence
    assert exact is not None
    for method in ("importance", "smc"):
        found = asking.using(method).draw(2000, seed=1)
        assert found.log_evidence is not None and found.log_evidence_se is not None
        assert abs(found.log_evidence - exact) < 4 * found.log_evidence_se + 1e-3
    target = asking.target()
    guide = PriorGuide(target)
    drawn = guide.sample(np.random.default_rng(0), 20)
    node = guide.priors["z"].node
    assert drawn.scores[node] == pytest.approx(target.evaluator.node(node, drawn.values, 20), abs=CLOSE)


SEVERAL = """
lm base = "MODEL"

program several(name: text, rows: table(question: text, answer: text)) {
  let who = ["I am ", name]
  latent trait: text(tokens=1..1, chars="ab") ~ base(user("Describe ", who))
  latent topic: one_of("a", "b") ~ choice(base(user("Topic?"), assistant(trait), user("And?")))
  plate r in rows {
    latent hint: text(tokens=1..1, chars="ab") ~ base(user(r.question, ": ", "=", trait))
    observe [r.answer, eos] ~ base(user("Hints=", hint, topic), assistant("ok"), user(r.question))
  }
  factor 0.5 * log_prob(trait, base(user("Who?"), assistant("x")))
}
"""


def test_turns_plates_choices_and_holes(folders: dict) -> None:
    name = "llama3"
    oracle = Oracle(folders[name])
    rows = [{"question": "q1", "answer": "yes"}, {"question": "q2", "answer": "no"}]
    target = query(folders[name], SEVERAL).given(name="Bo", rows=rows).target()
    stop = (end(oracle, name),)
    a, b = oracle.text("a"), oracle.text("b")

    def answer(text: tuple[int, ...], *messages: tuple[str, str]) -> float:
        ids = oracle.ids(*messages)
        return oracle.score(ids + text, len(ids))

    want = []
    for trait, topic, hints in itertools.product("ab", "ab", itertools.product("ab", repeat=2)):
        value = {"a": a, "b": b}
        total = answer(value[trait] + stop, ("user", "Describe I am Bo"))
        options = [answer(v, ("user", "Topic?"), ("assistant", trait), ("user", "And?")) for v in (a, b)]
        total += options["ab".index(topic)] - float(np.logaddexp(*options))
        for row, hint in zip(rows, hints, strict=True):
            total += answer(value[hint] + stop, ("user", f"{row['question']}: ={trait}"))
            asked = [("user", f"Hints={hint}{topic}"), ("assistant", "ok"), ("user", row["question"])]
            total += answer(oracle.text(row["answer"]) + stop, *asked)
        said = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "x"}]
        begun = tuple(
            oracle.tokenizer.apply_chat_template(said, continue_final_message=True, return_dict=False)
        )
        # An answer that is begun goes on, and ends as any other.
        total += 0.5 * oracle.score(begun + value[trait] + stop, len(begun))
        values = {
            "trait": [target.value("trait", trait)], "topic": [target.value("topic", topic)],
            "hint[0]": [target.value("hint[0]", hints[0])], "hint[1]": [target.value("hint[1]", hints[1])],
        }  # fmt: skip
        want.append((total, float(target.log_reward(values)[0])))
    theirs, ours = np.array(want).T
    # " a" is one token of this tokenizer, and a hole keeps its own: "is ", "a".
    assert np.ptp(ours) > 1
    assert ours == pytest.approx(theirs, abs=CLOSE)


def test_scores_of_a_conversation_share_one_pass(folders: dict) -> None:
    """The reply's pass holds the answer and its end of turn, so the answer's score rides on it."""
    target = query(folders["llama3"], ANSWER).given(question="why", reply="yes").target()
    riding = [n.rides for n in target.graph.nodes.values() if n.KIND == "lm_score"]  # type: ignore[attr-defined]
    assert sum(r is not None for r in riding) == 1
    model = target.models["base"]
    asked = []
    original = type(model).score

    def score(self: object, requests: list) -> list:
        asked.extend(requests)
        return original(self, requests)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model), "score", score)
        target.log_reward(values_of(target, ["ab", "ba"]))
    assert len(asked) == 2


# ------------------------------------------------------------------------------- policies and decoders

GUIDED = ANSWER.replace("\n}\n", '\n  guide z ~ base(user("Q: ", question, " Later: ", reply))\n}\n')
ROWS = [{"question": q, "reply": r} for q in ("why", "who") for r in ("yes", "no")]


@pytest.mark.parametrize("program", [ANSWER, GUIDED], ids=["default", "guided"])
def test_a_policy_belongs_to_a_template(program: str, folders: dict, tmp_path: Path) -> None:
    """It is trained, certified and used; where the model writes conversations another way it is refused."""
    folder = tmp_path / "model"
    shutil.copytree(folders["smollm2"], folder)
    asking = query(folder, program)
    asking.fit(
        ROWS,
        tmp_path / "policy",
        steps=4,
        pairs=8,
        rows=2,
        draws=4,
        seeds=4,
        held_out=0,
        certify_draws=10,
        certify_rows=2,
    )
    row = asking.given(**ROWS[0])
    exact = row.using("exact").draw(100).log_evidence
    found = row.policy(tmp_path / "policy").using("importance").draw(400, seed=0)
    assert found.log_evidence is not None and found.log_evidence_se is not None and exact is not None
    assert abs(found.log_evidence - exact) < 5 * found.log_evidence_se + 1e-3
    source = (folder / "tokenizer_config.json").read_text(encoding="utf-8")
    assert "assistant named SmolLM" in source
    (folder / "tokenizer_config.json").write_text(
        source.replace("named SmolLM", "named Sam"), encoding="utf-8"
    )
    _load.cache_clear()
    with pytest.raises(DataError) as caught:
        query(folder, program).given(**ROWS[0]).policy(tmp_path / "policy").draw(10)
    (problem,) = caught.value.diagnostics
    assert problem.code == "PLM625" and "chat template is another one" in " ".join(problem.notes)


@pytest.mark.parametrize("name", ["gemma2", "llama3"])
def test_a_policy_ends_an_answer_as_the_conversation_does(name: str, folders: dict) -> None:
    """An adapter that changes nothing yet is the model that reads the guide, the end of the turn included."""
    target = query(folders[name], GUIDED).given(question="why", reply="yes").target()
    model, guide = target.models["base"], PriorGuide(target, reads="guide")
    assert model.tokenizer.chat.end_ids != model.tokenizer.eos_ids
    adapter = Adapter.new(model, rank=2)
    try:
        policy = PolicyGuide.of(target, adapter)
        drawn = guide.sample(np.random.default_rng(0), 40)
        np.testing.assert_allclose(policy.log_prob(drawn.values), drawn.log_prob, atol=CLOSE)
        own = policy.sample(np.random.default_rng(1), 40)
        np.testing.assert_allclose(guide.log_prob(own.values), own.log_prob, atol=CLOSE)
        walked = [walk(target, policy.readings, {"z": value}) for value in drawn.values["z"]]
        scores = score_draws(adapter.model(), walked, columns=512).log_prob.detach().numpy()
        np.testing.assert_allclose(scores, drawn.log_prob, atol=CLOSE)
    finally:
        adapter.close()


LISTED = """
lm base = "MODEL"

program answer(question: text) {
  latent z: list(text(tokens=1..2, stop=".", chars="ab"), 1..2, end="bb") ~ base("So")
  guide z ~ base(user("Q: ", question))
  latent c: record("It is", a: text(tokens=1..1, chars="ab"), b: int(0..1)) ~ base(z)
  guide c ~ base(user(question), assistant("Well", z))
}
"""


@pytest.mark.parametrize("name", ["smollm2", "gemma2"])
def test_a_guided_list_is_the_answer_piece_by_piece(name: str, folders: dict) -> None:
    oracle = Oracle(folders[name])
    target = query(folders[name], LISTED).given(question="why").target()
    drawn = PriorGuide(target, reads="guide").sample(np.random.default_rng(0), 30)
    asked, readings = oracle.ids(("user", "Q: why")), guide_readings(target)
    later = oracle.ids(("user", "why"))
    for d in range(30):
        mine = {n: (column[d],) for n, column in drawn.values.items()}
        pieces = [value.ids for (value,) in mine.values()]
        ended = len(pieces[1]) and pieces[1][-1] == oracle.text(".")[-1]
        listed = pieces[0] + pieces[1] + (oracle.text("bb") if ended else ())
        begun = later + oracle.text("Well") + listed + oracle.text("It is")
        wanted = {"z[0]": asked, "z[1]": asked + pieces[0], "c.a": begun, "c.b": begun + pieces[2]}
        for latent, context in wanted.items():
            reading = readings[latent]
            assert contexts_of(target, reading.lm, reading.segments, mine, 1)[0] == [context]


def test_a_default_guide_shows_what_comes_later_inside_the_conversation(folders: dict) -> None:
    target = query(folders["smollm2"], ANSWER).given(question="why", reply="yes").target()
    reading = readings_of(target)["z"]
    contexts, _ = contexts_of(target, reading.lm, reading.segments, {}, 1)
    oracle = Oracle(folders["smollm2"])
    assert contexts[0] == oracle.ids(("user", "ok\nyes\nQ: why"))


def test_solved_examples_are_turns_of_the_conversation(folders: dict) -> None:
    program = """
lm base = "MODEL"
program named(question: text) {
  latent z: text(tokens=1..2, chars="ab") ~ base(system("Be brief."), user(question))
}
"""
    target = query(folders["smollm2"], program).given(question="why").target()
    rows = [{"question": "who", "z": "ab"}]
    readings = with_examples(target, guide_readings(target), rows, 1, np.random.default_rng(0))
    contexts, _ = contexts_of(target, "base", readings["z"].segments, {}, 1)
    said = [("system", "Be brief."), ("user", "who"), ("assistant", "ab"), ("user", "why")]
    assert contexts[0] == Oracle(folders["smollm2"]).ids(*said)
    found = query(folders["smollm2"], program).given(question="why")
    assert found.using("few_shot", n=1, shots=1, examples=rows).draw(seed=0).draws.values["z"]
    assert found.using("beam", beams=2).draw(2).draws.values["z"]


# ------------------------------------------------------------------------------- text, pages and errors


def test_programs_with_roles_are_printed_as_they_are_written() -> None:
    module = compile_source(Source("p.plm", SEVERAL)).without_errors().module
    again = compile_source(Source("q.plm", format_module(module))).without_errors().module
    assert again == module and 'assistant("ok"), user(r.question)' in format_module(module)
    built = (
        plm.program("answer", "question: text", "reply: text", lm={"base": "MODEL"})
        .latent("z", 'text(tokens=1..2, chars="ab")', 'base(user("Q: ", question))')
        .observe("reply", 'base(user("Q: ", question), assistant(z), user("ok"))')
    )
    assert built.fingerprint == loads(ANSWER).fingerprint
    plain = loads(ANSWER.replace('user("Q: ", question)', '"Q: ", question').replace(
        ', assistant(z), user("ok")', ', z, "ok"'))  # fmt: skip
    swapped = loads(ANSWER.replace("assistant(z)", "system(z)"))
    assert len({built.fingerprint, plain.fingerprint, swapped.fingerprint}) == 3
    both = str(built * loads(ANSWER.replace("program answer", "program other").replace('"MODEL"', '"tiny"')))
    assert 'base_2(user("Q: ", question), assistant(z), user("ok"))' in both


def test_a_model_may_be_called_as_a_role() -> None:
    text = """
lm assistant = "tiny"

program p(user: text) {
  latent z: text(tokens=1..2) ~ assistant(user)
  latent y: text(tokens=1..2) ~ assistant(user("Hi"), assistant(z), user(user))
  factor log_prob(z, assistant("x"))
}
"""
    assert not compile_source(Source("p.plm", text)).errors


def code(caught: pytest.ExceptionInfo[PlmError]) -> tuple[str, str]:
    (found,) = caught.value.diagnostics
    assert found.primary is not None
    return found.code, found.primary.span.text


def test_models_and_templates_that_will_not_do(folders: dict, tmp_path: Path) -> None:
    one = 'lm base = "MODEL"\nprogram p(q: text) {\n  latent z: text(tokens=1..2) ~ base(CONTEXT)\n}\n'

    def asked(folder: object, context: str) -> Query:
        return loads(one.replace("MODEL", str(folder)).replace("CONTEXT", context)).given(q="Hi")

    for folder in ("tiny", ROOT / "tests" / "golden" / "cli" / "letters.json"):
        with pytest.raises(ModelError) as caught:
            asked(folder, "user(q)").draw(2)
        assert code(caught) == ("PLM550", "base(user(q))")
    with pytest.raises(ModelError) as caught:
        asked(folders["gemma2"], 'system("Be brief."), user(q)').draw(2)
    assert code(caught)[0] == "PLM552"
    guided = loads(
        one.replace("MODEL", str(folders["gemma2"])).replace("CONTEXT", "user(q)").replace(
            "\n}\n", '\n  guide z ~ base(user(q), user("again"))\n}\n'
        )
    )  # fmt: skip
    with pytest.raises(ModelError) as caught:
        guided.given(q="Hi").using("importance", proposal="guide").draw(2)
    assert code(caught) == ("PLM552", 'guide z ~ base(user(q), user("again"))')
    private = asked(folders["gemma2"], "user(q)").given(q="\U00108000")
    with pytest.raises(ModelError) as caught:
        private.draw(2)
    assert code(caught)[0] == "PLM553"


def test_check_asks_the_template_without_torch(tmp_path: Path) -> None:
    folder = write_family(tmp_path / "gemma", "gemma2", byte_level_tokenizer())
    file = tmp_path / "p.plm"
    file.write_text(
        """
lm base = "gemma"

program p(question: text, history: text) {
  let rules = ["Be ", "brief."]
  latent z: text(tokens=1..9) ~ base(user(question), assistant("<end_of_turn>"), user(history))
  observe "yes" ~ base(system(rules), user(question), assistant(z), user("Sure?"))
}
""",
        encoding="utf-8",
    )
    found = command("check", "--lint", "--format", "concise", file)
    assert found.exit_code == 1
    assert "7:24: error[PLM552]" in found.stderr and "System role not supported" in found.stderr
    assert "6:" in found.stderr and "warning[PLM554] '<end_of_turn>' is a special token" in found.stderr
    (folder / "chat_template.jinja").write_text("{% for", encoding="utf-8")
    assert "error[PLM551]" in command("check", "--format", "concise", file).stderr
    assert command("check", "--lint", "programs/direct_label.plm").exit_code == 0


def test_a_page_shows_roles(folders: dict) -> None:
    graph = query(folders["smollm2"], ANSWER).given(question="why", reply="yes").target().program
    shown = " ".join(spelled(graph, i) for i in graph.nodes)
    assert 'log base(reply | user("Q: ", question), assistant(z), user("ok"))' in shown


# ------------------------------------------------------------------------------- a real model


@pytest.mark.real
def test_smollm2_reads_and_answers_a_conversation(smollm2) -> None:
    """The tokens of its own template, which begins with a system message; and it knows the answer."""
    tokenizer = smollm2.tokenizer
    messages = [
        Message(
            "user",
            (
                "What is the capital of ",
                0,
                "? <|im_end|>",
            ),
        )
    ]
    before, place, behind = tokenizer.chat.render(messages)
    assert place == 0 and tokenizer.chat.end_ids == tokenizer.eos_ids
    start, stop = tokenizer.bos_id, tokenizer.eos_ids[0]
    assert [i for i in before if tokenizer.token_bytes[i] is None] == [start, stop, start]
    assert [i for i in behind if tokenizer.token_bytes[i] is None] == [stop, start]
    asking = plm.program("capital", "country: text", lm={"base": "smollm2"}).latent(
        "city", 'one_of("The capital of France is Paris.", "The capital of France is Rome.")',
        'choice(base(user("What is the capital of ", country, "?")))',
    ).lm(base=smollm2)  # fmt: skip
    found = asking.given(country="France").using("exact").draw(10)
    best = max(zip(found.weights, found.draws.values["city"], strict=True), key=lambda pair: pair[0])
    assert best[0] > 0.9 and "Paris" in best[1].text
