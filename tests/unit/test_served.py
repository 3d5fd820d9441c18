"""A model behind a server: the same numbers as beside it, and what is said of servers that cannot be used."""

from __future__ import annotations

import base64
import json
import math
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import posterior_lm as plm
from posterior_lm.lang.diagnostics import ModelError
from posterior_lm.lm.protocol import Branch, LanguageModel, Request, Scores
from posterior_lm.lm.resolve import load_model, peek_tokenizer
from posterior_lm.lm.score_cache import ScoreCache
from posterior_lm.lm.served import ServedModel, _close, serve
from tests.cli import FOLDER, ROWS, WALK
from tests.cli import plm as command
from tests.serving import Moody, moody

LETTERS = str(FOLDER / "letters.json")
Answer = dict[str, Any]


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTERIOR_LM_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def letters() -> LanguageModel:
    return load_model(LETTERS)


def well(handler: Moody, body: Answer | None, answer: Answer) -> Answer:
    return answer


def plain(handler: Moody, body: Answer | None, answer: Answer) -> Answer | None:
    """A server that scores no other tokens than a prompt's own, and sends no dense rows."""
    for choice in answer.get("choices", ()):
        choice.pop("dense_logprobs", None)
    return answer


@pytest.fixture(scope="module")
def running(letters: LanguageModel) -> Iterator[Any]:
    with moody(letters, well) as server:
        yield server


def opened(server: Any, model: str = LETTERS, **more: Any) -> ServedModel:
    return serve(server.url, None, lambda name: peek_tokenizer(model), **{"timeout": 5.0, **more})


def assert_same(a: Scores, b: Scores) -> None:
    np.testing.assert_allclose(a.tokens, b.tokens, atol=1e-5)
    np.testing.assert_allclose(a.eos, b.eos, atol=1e-5)
    assert a.tokens.dtype == a.eos.dtype == np.float64 and len(a.branches) == len(b.branches)
    for one, other in zip(a.branches, b.branches, strict=True):
        assert_same(one, other)


REQUESTS = [
    Request((0, 1, 2), 1),
    Request((0, 1, 2, 0, 0), 2, 1, (Branch(3, (2, 2)), Branch(5, ()), Branch(2, (1,)))),
    Request((1,), 1),
    Request((0, 1, 2), 3),
]


# ---------------------------------------------------------------- the same numbers


def without_other_tokens(body: Answer | None) -> None:
    if body is not None:
        body.pop("prompt_logprob_token_ids", None)


def old(handler: Moody, body: Answer | None, answer: Answer) -> Answer:
    """vLLM before it had `prompt_logprob_token_ids`: a place tells of its own token."""
    for choice in answer.get("choices", ()):
        choice.pop("dense_logprobs", None)
        own = [str(i) for i in choice.get("prompt_token_ids", ())]
        rows = choice.get("prompt_logprobs") or []
        choice["prompt_logprobs"] = (
            [row and {i: row[i]} for i, row in zip(own, rows, strict=True)] if rows else None
        )
    return answer


def echoing(handler: Moody, body: Answer | None, answer: Answer) -> Answer:
    """A server as OpenAI's was: it echoes prompts with their log-probs, and knows no token ids."""
    for choice in answer.get("choices", ()):
        for name in ("prompt_logprobs", "prompt_token_ids", "token_ids", "dense_logprobs"):
            choice.pop(name, None)
    return answer


def in_any_order(handler: Moody, body: Answer | None, answer: Answer) -> Answer:
    answer.get("choices", []).reverse()
    return answer


@pytest.mark.parametrize("mood", [well, old, echoing, in_any_order], ids=lambda mood: mood.__name__)
@pytest.mark.filterwarnings("ignore:.*scores end-of-text only")
def test_scores_and_rows_are_those_of_the_model(letters: LanguageModel, mood: Any) -> None:
    with moody(letters, mood) as server:
        model = opened(server)
        assert isinstance(model, LanguageModel)
        for one, other in zip(model.score(REQUESTS), letters.score(REQUESTS), strict=True):
            assert_same(one, other)
        server.asked.clear()
        model.score(REQUESTS)
        assert not server.asked, "the cache has them"


@pytest.mark.filterwarnings("ignore:.*scores end-of-text only")
def test_ends_that_nobody_reads_take_no_prompts_and_are_asked_for_when_somebody_does(
    letters: LanguageModel,
) -> None:
    with moody(letters, old) as server:
        model, ids = opened(server), (0, 1, 2, 1, 0)
        server.asked.clear()
        (found,) = model.score([Request(ids, 1, ends=False)])
        assert sum(len(body["prompt"]) for _, body, _ in server.asked) == 1 and np.isnan(found.eos).all()
        (own,) = letters.score([Request(ids, 1)])
        np.testing.assert_allclose(found.tokens, own.tokens, atol=1e-5)
        assert_same(model.score([Request(ids, 1)])[0], own)
        server.asked.clear()
        model.score([Request(ids, 1), Request(ids, 1, ends=False)])
        assert not server.asked, "the cache has them"


@pytest.mark.filterwarnings("ignore:.*scores end-of-text only")
def test_texts_that_end_with_end_of_text_are_asked_for_it(letters: LanguageModel) -> None:
    """Whole and cut short, beside one that a stop ends and an observed one."""
    query = plm.loads("""lm base = "unused"
program p() {
  latent z: text(tokens=1..3, end="eos") ~ base()
  latent s: text(tokens=1..3, stop="b") ~ base(z)
  observe "ab" ~ base(z, s)
}""")
    with moody(letters, old) as server:
        there, here = (query.lm(base=model).target() for model in (opened(server), letters))
        values = {
            "z": [here.value("z", text) for text in ("b", "ab", "bab")],
            "s": [here.value("s", "ab")] * 3,
        }
        expected = here.log_reward(values)
        assert np.isfinite(expected).all()
        np.testing.assert_allclose(there.log_reward(values), expected, atol=1e-5)
        for latent in ("z", "s"):
            cut = here.log_reward_prefixes(values, latent)
            np.testing.assert_allclose(there.log_reward_prefixes(values, latent), cut, atol=1e-5)


def test_a_rollout_is_that_of_the_model(running: Any, letters: LanguageModel) -> None:
    served, local = (model.open([(0,), (1, 2), (0,)]) for model in (opened(running), letters))
    for rows, tokens in (([2, 0, 1, 1], [1, 1, 0, 2]), ([3], [0]), ([], [])):
        np.testing.assert_allclose(served.log_probs, local.log_probs, atol=1e-6)
        rows, tokens = np.array(rows, int), np.array(tokens, int)
        served, local = served.extend(rows, tokens), local.extend(rows, tokens)
    assert served.log_probs.shape == (0, letters.tokenizer.vocabulary_size)


ASKED = [("exact", {}), ("importance", {}), ("smc", {"particles": 30}), ("mcmc", {"steps": 8, "chains": 2})]


@pytest.mark.parametrize(("method", "options"), ASKED, ids=lambda x: x if isinstance(x, str) else "")
def test_every_method_gives_what_it_gives_beside_the_model(running: Any, method: str, options: dict) -> None:
    query = plm.load(WALK).given(start="a", end="b").using(method, **options)
    there = query.lm(base=opened(running)).draw(40, seed=1)
    here = query.draw(40, seed=1)
    assert there.to_json()["draws"] and [m.values for m in there.merged()] == [
        m.values for m in here.merged()
    ]
    np.testing.assert_allclose(there.weights, here.weights, atol=1e-5)
    if here.log_evidence is not None:
        assert there.log_evidence == pytest.approx(here.log_evidence, abs=1e-5)


def test_a_transformer_is_the_same_behind_a_server() -> None:
    tiny = load_model("tiny")
    query = plm.load(FOLDER.parents[2] / "programs" / "story_infilling.plm").given(
        opening="Tom had a dog.", ending="He was happy."
    )
    with moody(tiny, well) as server:
        model = opened(server, "tiny")
        there = query.lm(base=model).using("importance").draw(8, seed=2)
    here = query.using("importance").draw(8, seed=2)
    assert there.log_evidence == pytest.approx(here.log_evidence, abs=1e-3)
    assert there.merged()[0].values == here.merged()[0].values


def test_commands_ask_a_server(running: Any) -> None:
    base = f"base={running.url},model=model,tokenizer={LETTERS}"
    here = json.loads(command("predict", WALK, "end", "--given", "start=a", "--format", "json").stdout)
    found = command("predict", WALK, "end", "--given", "start=a", "--format", "json", "--lm", base)
    there = json.loads(found.stdout)
    assert [p["value"] for p in there["predictions"]] == [p["value"] for p in here["predictions"]]
    assert there["predictions"][0]["prob"] == pytest.approx(here["predictions"][0]["prob"], abs=1e-5)
    assert there["lm"]["base"]["kind"] == "served"
    refused = command("fit", WALK, "--data", ROWS, "--out", "never", "--lm", base)
    assert refused.exit_code == 1 and "PLM516" in refused.stderr and "no weights to adapt" in refused.stderr
    odd = command("run", WALK, "--given", "start=a", "--lm", f"base={running.url},dtype=float16")
    assert odd.exit_code == 2 and "is no option of a model" in odd.stderr


def test_a_program_names_a_server(running: Any, tmp_path: Path) -> None:
    text = (
        Path(WALK)
        .read_text()
        .replace('"letters.json"', f'server("{running.url}", model="model", tokenizer="l.json")')
    )
    (tmp_path / "l.json").write_text(Path(LETTERS).read_text())
    (tmp_path / "walk.plm").write_text(text)
    found = plm.load(tmp_path / "walk.plm").given(start="a", end="b").draw(10)
    here = plm.load(WALK).given(start="a", end="b").draw(10)
    assert found.log_evidence == pytest.approx(here.log_evidence, abs=1e-5)


# ---------------------------------------------------------------- servers that cannot be used


def spoiling(change: Callable[[Answer, Answer], object]) -> Any:
    """A mood that changes answers to completions."""

    def mood(handler: Moody, body: Answer | None, answer: Answer) -> Answer:
        if body is not None:
            change(answer, body)
        return answer

    return mood


def saying(status: int, text: str, **headers: str) -> Any:
    def mood(handler: Moody, body: Answer | None, answer: Answer) -> None:
        handler.say(status, text, **headers)

    return mood


def rows_of(answer: Answer) -> list[list]:
    return [c["prompt_logprobs"] for c in answer["choices"] if c.get("prompt_logprobs")]


def nan(answer: Answer, body: Answer) -> None:
    for rows in rows_of(answer):
        for entry in rows[-1].values():
            entry["logprob"] = math.nan


def shifted(answer: Answer, body: Answer) -> None:
    """Each place tells of the log-prob of the place before."""
    for choice in answer["choices"]:
        rows = choice.get("prompt_logprobs") or []
        values = [[e["logprob"] for e in row.values()] for row in rows if row]
        for row, value in zip([r for r in rows if r][1:], values, strict=False):
            for entry, v in zip(row.values(), value, strict=False):
                entry["logprob"] = v


def batch(answer: Answer, body: Answer) -> None:
    """What stands in one request with others is scored worse."""
    for rows in rows_of(answer) if len(body["prompt"]) > 1 else ():
        for entry in rows[1].values():
            entry["logprob"] -= 1.0


def begun_twice(answer: Answer, body: Answer) -> None:
    for choice in answer["choices"]:
        choice["prompt_token_ids"] = [0, *choice.get("prompt_token_ids", [])]


def no_scores(answer: Answer, body: Answer) -> None:
    for choice in answer["choices"]:
        choice["prompt_logprobs"], choice["logprobs"] = None, None


SPOILT = {
    "a page of HTML": (saying(200, "<html>hello</html>"), "PLM561", "no JSON"),
    "a redirect": (saying(302, "", Location="http://elsewhere/"), "PLM561", "redirect, which is not followed"),
    "no access": (saying(401, "{}"), "PLM561", "PLM_SERVER_KEY"),
    "no such path": (saying(404, '{"detail": "Not Found"}'), "PLM561", "(status 404): Not Found"),
    "a list": (saying(200, "[]"), "PLM561", "no JSON object"),
    "always failing": (saying(500, "oh"), "PLM560", "status 500"),
    "chat only": (spoiling(no_scores), "PLM562", "it scores none"),
    "half of the rows": (spoiling(lambda a, b: a["choices"].pop() if len(b["prompt"]) > 1 else None), "PLM561", "2 of 3"),
    "half of a prompt": (spoiling(lambda a, b: [r.pop() for r in rows_of(a)]), "PLM562", "it scores"),
    "NaN": (spoiling(nan), "PLM561", "NaN"),
    "the begin token twice": (spoiling(begun_twice), "PLM562", "other tokens than"),
    "places that are shifted": (spoiling(shifted), "PLM562", "that it draws with log-prob"),
    "another batch": (spoiling(batch), "PLM562", "scored together"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILT)
@pytest.mark.filterwarnings("ignore:the server:posterior_lm.lm.notices.ModelNotice")
def test_what_is_wrong_with_a_server_is_said(letters: LanguageModel, name: str) -> None:
    mood, code, said = SPOILT[name]
    with moody(letters, mood) as server, pytest.raises(ModelError) as caught:
        opened(server, timeout=1.0)
    [found] = caught.value.diagnostics
    told = f"{found.message} {found.help}"
    assert (found.code, said in told) == (code, True), told


def test_servers_that_are_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        begun = time.monotonic()
        with pytest.raises(ModelError, match="it takes too long"):  # it listens, and says nothing
            serve(f"http://127.0.0.1:{port}/v1", None, lambda name: peek_tokenizer(LETTERS), timeout=0.3)
        assert time.monotonic() - begun < 3
    refused = command(
        *("run", WALK, "--given", "start=a", "--given", "end=b"),
        *("--lm", f"base=http://127.0.0.1:{port}/v1,tokenizer={LETTERS}"),
    )
    assert refused.exit_code == 1 and "PLM560" in refused.stderr and "refused" in refused.stderr
    for url in (
        "http://",
        "http://u:secret@host/v1",
        "http://host:port",
        "http://h/v1?key=secret",
        "http://a..b/\n",
        "http://[x",
    ):
        with pytest.raises(ModelError) as caught:
            serve(url, None, lambda name: peek_tokenizer(LETTERS))
        assert caught.value.diagnostics[0].code == "PLM561" and "secret" not in str(caught.value)


def test_models_and_tokenizers_that_a_server_lacks(running: Any, letters: LanguageModel) -> None:
    for absent in ("nowhere/at-all", "http://elsewhere"):
        with pytest.raises(ModelError) as caught:
            load_model(running.url, tokenizer=absent)
        [found] = caught.value.diagnostics
        assert found.message.startswith(f"the tokenizer '{absent}' was not found: ") and "tokenizer=…" in str(
            found.help
        )
    for model, help in (("modle", "did you mean `model`?"), ("x", "it serves model")):
        with pytest.raises(ModelError) as caught:
            serve(running.url, model, lambda name: letters.tokenizer)
        [found] = caught.value.diagnostics
        assert found.code == "PLM563" and help in str(found.help)

    def other(handler: Moody, body: Answer | None, answer: Answer) -> Answer:
        return answer if body is not None else {"data": [{"id": "model", "tokenizer": "0" * 64}]}

    with (
        moody(letters, other) as server,
        pytest.raises(ModelError, match="the tokenizer is not that of model"),
    ):
        opened(server)


def test_without_rows_of_the_vocabulary_nothing_is_drawn_inside_a_type(letters: LanguageModel) -> None:
    def few(answer: Answer, body: Answer) -> None:
        for choice in answer["choices"]:
            choice.pop("dense_logprobs", None)

    with moody(letters, spoiling(few)) as server:
        model = opened(server)
        query = plm.load(WALK).given(start="a", end="b").lm(base=model)
        assert query.score({"z": "ab."}).log_reward == pytest.approx(
            plm.load(WALK).given(start="a", end="b").score({"z": "ab."}).log_reward, abs=1e-5
        )
        with pytest.raises(ModelError) as caught:
            query.using("exact").draw(5)
        [found] = caught.value.diagnostics
        assert found.code == "PLM564" and "--max-logprobs -1" in str(found.help)


def test_a_row_with_what_is_no_number_is_no_row(letters: LanguageModel) -> None:
    """It sums to no number, which is no further from one than any limit."""

    def spoilt(answer: Answer, body: Answer) -> None:
        for choice in answer["choices"]:
            if "dense_logprobs" in choice:
                row = np.frombuffer(base64.b64decode(choice["dense_logprobs"]), "<f4").copy()
                row[1] = math.nan
                choice["dense_logprobs"] = base64.b64encode(row.tobytes()).decode()

    with moody(letters, spoiling(spoilt)) as server, pytest.raises(ModelError) as caught:
        _ = opened(server).open([(1, 2)]).log_probs
    [found] = caught.value.diagnostics
    assert found.code == "PLM561" and "not whole" in found.message


# ---------------------------------------------------------------- patience


def test_what_passes_is_waited_for(letters: LanguageModel) -> None:
    failures = iter([(500, {}), (429, {"Retry_After": "0"}), None])

    def failing(handler: Moody, body: Answer | None, answer: Answer) -> Answer | None:
        if body is None or (now := next(failures, ())) == ():
            return answer
        if now is None:  # in the middle of an answer
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
            handler.close_connection = True
            handler.connection.close()
            return None
        handler.say(now[0], "busy", **now[1])
        return None

    with moody(letters, failing) as server, pytest.warns(UserWarning, match="busy or unwell"):
        model = opened(server, timeout=20.0)
        for one, other in zip(model.score(REQUESTS), letters.score(REQUESTS), strict=True):
            assert_same(one, other)


def test_the_key_goes_to_its_server_alone(letters: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLM_SERVER_KEY", "secret")
    with moody(letters, well) as ours, moody(letters, saying(403, '{"error": "no"}')) as other:
        monkeypatch.setenv("PLM_SERVER_URL", ours.url)
        opened(ours)
        assert {headers.get("Authorization") for _, _, headers in ours.asked} == {"Bearer secret"}
        with pytest.raises(ModelError) as caught:
            opened(other)
        assert {headers.get("Authorization") for _, _, headers in other.asked} == {None}
        assert "secret" not in str(caught.value)


# ---------------------------------------------------------------- what is kept


def test_scores_of_another_model_are_not_used(letters: LanguageModel) -> None:
    with moody(letters, well) as server:
        first = opened(server)
        first.score(REQUESTS)
        server.asked.clear()
        again = opened(server)
        again.score(REQUESTS)
        scored = [body["prompt"] for _, body, _ in server.asked if body and [0, 1, 2, 3] in body["prompt"]]
        assert not scored, "kept from one start to the next"

        def colder(answer: Answer, body: Answer) -> None:
            """Another model of the same name: the same shape, and other numbers."""
            for rows in rows_of(answer):
                for row in filter(None, rows):
                    for entry in row.values():
                        entry["logprob"] -= 0.1

        server.mood = spoiling(colder)
        other = opened(server)
        found, before = other.score(REQUESTS[:1])[0], letters.score(REQUESTS[:1])[0]
        np.testing.assert_allclose(found.tokens, before.tokens - 0.1, atol=1e-5)


def test_the_cache_is_bounded_and_survives_what_is_no_cache(tmp_path: Path) -> None:
    probe = np.array([-1.0, -2.0])
    cache = ScoreCache.of("a", probe, tmp_path, most=20)
    scored = {((1, i), 1): np.array([-1.0, -2.0, -float(i)]) for i in range(30)}
    cache.keep(scored)
    kept = cache.find(list(scored))
    assert len(kept) == 18 and ((1, 29), 1) in kept and ((1, 0), 1) not in kept
    assert ScoreCache.of("b", probe, tmp_path).find(list(scored)) == {}
    assert len(ScoreCache.of("a", probe + 0.005, tmp_path).find(list(scored))) == 18
    assert ScoreCache.of("a", probe + 0.5, tmp_path).find(list(scored)) == {}
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "scores.sqlite3").write_bytes(b"no database at all" * 100)
    torn = ScoreCache.of("a", probe, tmp_path / "torn")
    torn.keep(scored)
    assert len(torn.find(list(scored))) == 30
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="scores of servers are not kept"):
        ScoreCache.of("a", probe, tmp_path / "file").keep(scored)


# ------------------------------------------------------------------------------- what rounding explains


@pytest.mark.parametrize(
    ("off", "close"),
    [((0.05, -0.1, 0.0, 0.3), True), ((0.3, -0.3, 0.3, -0.3), False), ((0.0, 0.0, 0.0, -0.8), False),
     ((0.1, 0.0, 0.0, math.nan), False)],
)  # fmt: skip
def test_one_token_may_move_more_than_all(off: tuple[float, ...], close: bool) -> None:
    """In bfloat16 an unlikely token moves by 0.25 nats between alone and in a batch; −∞ stays where it is."""
    alone = np.array([-1.0, -20.0, -np.inf, -7.0])
    assert _close(alone, alone + np.array(off)) is close


def test_a_drawn_token_has_its_log_prob() -> None:
    assert _close(-3.0, -3.15) and not _close(-3.0, -3.25)
