"""`plm serve`: what each address answers, who may ask, and what a program that is sent may not do."""

from __future__ import annotations

import json
import math
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

import posterior_lm as plm
from posterior_lm.lm.protocol import Request
from posterior_lm.lm.resolve import load_model
from posterior_lm.lm.tabular import TabularModel
from tests.cli import plm as command
from tests.conftest import ROOT
from tests.serving import Served, serving

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

STORY = (ROOT / "programs" / "story_infilling.plm").read_text(encoding="utf-8")
ROW = json.loads((ROOT / "programs" / "data" / "story_infilling.jsonl").read_text("utf-8").split("\n", 1)[0])
COIN = 'lm base = "tiny"\nprogram coin() { latent z: int(0..3) ~ uniform(0, 3) condition z > 1 }'
SLOW = {"program": STORY, "rows": [ROW], "method": "mcmc", "options": {"steps": 10_000}}


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny")


@pytest.fixture(scope="module")
def served(tiny) -> Iterator[Served]:
    with serving({"tiny": tiny}) as found:
        yield found


# ---------------------------------------------------------------- completions


def test_every_place_of_a_prompt_is_scored_as_the_model_scores_it(served: Served, tiny) -> None:
    prompts = [[0, 790, 646, 520], [0, 283, 15]]
    body = {"prompt": prompts, "max_tokens": 0, "prompt_logprobs": 0, "return_token_ids": True}
    status, answer = served.ask("/v1/completions", body)
    assert status == 200
    for prompt, choice in zip(prompts, answer["choices"], strict=True):
        first, *rows = choice["prompt_logprobs"]
        [scores] = tiny.score([Request(tuple(prompt), 1)])
        assert first is None and [list(row) for row in rows] == [[str(i)] for i in prompt[1:]]
        assert np.allclose(
            [row[str(i)]["logprob"] for row, i in zip(rows, prompt[1:], strict=True)], scores.tokens
        )
        assert choice["prompt_token_ids"] == prompt and choice["token_ids"] == [] and choice["text"] == ""


@pytest.mark.parametrize("others", [[1], [5, 1, 7]])
def test_other_tokens_of_a_place_are_told_of_too(served: Served, tiny, others: list[int]) -> None:
    prompt = [0, 790, 646, 520]
    body = {"prompt": prompt, "max_tokens": 0, "prompt_logprobs": 0, "prompt_logprob_token_ids": others,
            "prompt_logprob_start": 2}  # fmt: skip
    rows = served.ask("/v1/completions", body)[1]["choices"][0]["prompt_logprobs"]
    assert rows[:2] == [None, None] and tiny.tokenizer.eos_ids == (1,)
    for place in (2, 3):
        expected = tiny.open([tuple(prompt[:place])]).log_probs[0]
        assert rows[place].keys() == {str(prompt[place]), *map(str, others)}
        for token, found in rows[place].items():
            assert found["logprob"] == pytest.approx(expected[int(token)], abs=1e-4)


def test_the_whole_vocabulary_is_told_of(served: Served, tiny) -> None:
    prompt = [0, 790, 646]
    asked = {
        "prompt": prompt,
        "max_tokens": 1,
        "prompt_logprobs": -1,
        "logprobs": -1,
        "return_token_ids": True,
    }
    choice = served.ask("/v1/completions", asked)[1]["choices"][0]
    size = tiny.tokenizer.vocabulary_size
    last = choice["logprobs"]["top_logprobs"][0]
    expected = tiny.open([tuple(prompt)]).log_probs[0]
    assert np.allclose([last[f"token_id:{i}"] for i in range(size)], expected, atol=1e-4)
    for row in choice["prompt_logprobs"][1:]:
        assert len(row) == size and np.logaddexp.reduce(
            [p["logprob"] for p in row.values()]
        ) == pytest.approx(0, abs=1e-4)
    top = served.ask("/v1/completions", {**asked, "prompt_logprobs": 3})[1]["choices"][0]["prompt_logprobs"][
        2
    ]
    whole = sorted((p["logprob"] for p in choice["prompt_logprobs"][2].values()), reverse=True)
    told = [p["logprob"] for t, p in top.items() if t != "646"]
    assert np.allclose(told, whole[:3], atol=1e-4), "the likeliest first"


def test_draws_have_a_seed_and_a_temperature(served: Served, tiny) -> None:
    asked = {
        "prompt": "Mia has a cat.",
        "max_tokens": 8,
        "n": 3,
        "seed": 5,
        "return_token_ids": True,
        "logprobs": 0,
    }
    one, same, other = (served.ask("/v1/completions", {**asked, "seed": s})[1]["choices"] for s in (5, 5, 6))
    drawn = [c["token_ids"] for c in one]
    assert drawn == [c["token_ids"] for c in same] != [c["token_ids"] for c in other]
    assert len({tuple(d) for d in drawn}) > 1 and [c["index"] for c in one] == [0, 1, 2]
    prompt = (*tiny.tokenizer.start_ids, *tiny.tokenizer.encode_start("Mia has a cat."))
    assert one[0]["prompt_token_ids"] == list(prompt)
    for choice in one:
        [scores] = tiny.score([Request(prompt + tuple(choice["token_ids"]), len(prompt))])
        assert np.allclose(choice["logprobs"]["token_logprobs"], scores.tokens, atol=1e-4)
        assert (choice["token_ids"][-1] == 1) == (choice["finish_reason"] == "stop")
    greedy = served.ask("/v1/completions", {**asked, "temperature": 0, "max_tokens": 1})[1]["choices"]
    assert {c["token_ids"][0] for c in greedy} == {int(np.argmax(tiny.open([prompt]).log_probs[0]))}
    echoed = served.ask("/v1/completions", {**asked, "n": 1, "echo": True, "max_tokens": 0})[1]["choices"][0]
    assert echoed["text"] == "Mia has a cat." and echoed["logprobs"]["token_logprobs"][0] is None


def test_minus_infinity_is_written_as_others_write_it() -> None:
    table = {
        "tokens": ["a", "b"],
        "order": 1,
        "max_tokens": 3,
        "bos": False,
        "rows": {"": {"a": 0.5, "<eos>": 0.5}},
    }
    with serving({"table": TabularModel.from_dict(table)}) as served:
        answer = served.ask(
            "/v1/completions", {"prompt": [0, 1], "max_tokens": 1, "prompt_logprobs": 0, "logprobs": -1}
        )
        [choice] = answer[1]["choices"]
        assert choice["prompt_logprobs"][1]["1"]["logprob"] == -9999.0
        assert sorted(choice["logprobs"]["top_logprobs"][0].values())[0] == -9999.0


BAD = [
    ({"prompt": [1, 99999]}, 400, "the token 99999"),
    ({"prompt": []}, 400, "`prompt` is a text"),
    ({"prompt": [[]]}, 400, "at least one token"),
    ({"prompt": [1, True]}, 400, "`prompt`"),
    ({"prompt": "a", "max_tokens": -1}, 400, "below 0"),
    ({"prompt": "a", "top_p": 0.5}, 400, "no field `top_p`"),
    ({"prompt": "a", "temperature": "hot"}, 400, "`temperature` is a text"),
    ({"prompt": "a", "logprobs": 2.5}, 400, "not a whole number"),
    ({"prompt": "a", "prompt_logprob_token_ids": [-1], "prompt_logprobs": 0}, 400, "the token -1"),
    ({"prompt": "a", "model": "tinny"}, 422, "does not serve the model 'tinny'"),
    ({"prompt": "a", "max_tokens": 4000}, 422, "window"),
    ({}, 400, "lacks `prompt`"),
    ([1], 400, "a JSON object"),
    (b"{", 400, "no JSON"),
    (b"[" * 100_000, 400, "no JSON"),
]


@pytest.mark.parametrize(("body", "status", "said"), BAD, ids=[said for _, _, said in BAD])
def test_bad_requests_are_told_of(served: Served, body: object, status: int, said: str) -> None:
    found, answer = served.ask("/v1/completions", body)
    assert (found, said in answer["error"]["message"]) == (status, True), answer
    assert answer["diagnostics"][0]["code"] == answer["error"]["code"]


# ---------------------------------------------------------------- programs


def test_a_posterior_is_that_of_the_library(served: Served) -> None:
    asked = {"program": STORY, "rows": [ROW, ROW], "method": "importance", "n": 20, "seed": 3}
    status, answer = served.ask("/v1/posterior", asked)
    here = plm.loads(STORY).given(ROW).using("importance").draw(20, seed=3).to_json()
    first, second = answer["results"]
    assert status == 200 and first["row"] == 0 and first.keys() - {"row", "verdict"} == here.keys()
    assert first["log_evidence"] == pytest.approx(here["log_evidence"], abs=1e-4)
    assert [d["values"] for d in first["draws"]] == [d["values"] for d in here["draws"]]
    assert second["row"] == 1 and second["seed"] != 3 and second["draws"] != first["draws"]


def test_a_prediction_and_a_score_are_those_of_the_library(served: Served) -> None:
    asked = {"program": COIN, "action": "predict", "name": "z"}
    assert served.ask("/v1/posterior", asked)[1]["results"][0]["predictions"] == [
        {"value": 2, "prob": 0.5, "se": 0.0, "low": 0.5, "high": 0.5},
        {"value": 3, "prob": 0.5, "se": 0.0, "low": 0.5, "high": 0.5},
    ]
    asked = {"program": COIN, "action": "score", "values": {"z": 3}}
    assert served.ask("/v1/posterior", asked)[1]["results"][0]["log_reward"] == pytest.approx(-math.log(4))


def test_a_stream_tells_how_far_it_is(served: Served) -> None:
    asked = {"program": STORY, "rows": [ROW, ROW], "method": "importance", "n": 5, "stream": True}
    status, text, headers = served.raw("/v1/posterior", asked)
    assert status == 200 and headers["content-type"].startswith("text/event-stream")
    events = [dict(line.split(": ", 1) for line in e.split("\n")) for e in text.strip().split("\n\n")]
    names = [e["event"] for e in events]
    assert names[-1] == "done" and names.count("result") == 2 and names[0] == "progress"
    results = [json.loads(e["data"]) for e in events if e["event"] == "result"]
    whole = served.ask("/v1/posterior", {**asked, "stream": False})[1]["results"]
    assert [r["row"] for r in results] == [0, 1] and [r["seed"] for r in results] == [
        r["seed"] for r in whole
    ]
    assert [[d["values"] for d in r["draws"]] for r in results] == [
        [d["values"] for d in r["draws"]] for r in whole
    ]
    failed = served.raw("/v1/posterior", {**asked, "rows": [{"opening": "a"}]})[1]
    assert "event: error" in failed and "PLM601" in failed and "event: done" not in failed


def test_the_diagnostics_of_a_program(served: Served) -> None:
    assert served.ask("/v1/check", {"program": STORY}) == (200, {"diagnostics": []})
    wrong = served.ask("/v1/check", {"program": STORY.replace("base(opening)", "bsae(opening)")})[1]
    [found] = wrong["diagnostics"]
    assert (found["code"], found["line"], found["help"]) == ("PLM201", 5, "did you mean 'base'?")
    empty = 'lm base = "tiny"\nprogram p() { latent z: text(tokens=1..2, pattern="[^\\x00-\\U0010ffff]") ~ base() }'
    assert served.ask("/v1/check", {"program": empty})[1]["diagnostics"][-1]["severity"] == "error"


REACHING = {
    "another model": ('lm base = "smollm2"\nprogram p() { latent z: int(0..3) ~ base() }', "does not serve that model"),
    "a folder": ('lm base = transformers("tiny")\nprogram p() { latent z: int(0..3) ~ base() }', "does not serve"),
    "a file": ('lm base = "tiny"\nprogram p() { latent z: text(tokens=1..3, grammar="CONTRIBUTING.md") ~ base() }', "read files"),
    "a schema": ('lm base = "tiny"\nprogram p() { latent z: text(tokens=1..3, json="package.json") ~ base() }', "read files"),
    "a tool": ('lm base = "tiny"\ntool t = lookup("README.md", trigger="=")\nprogram p() { latent z: text(tokens=1..3, tools=t) ~ base() }', "use tools"),
    "python": ('lm base = "tiny"\nuse f from "os:getcwd"\nprogram p() { latent z: int(0..3) ~ base() factor f() }', "use Python"),
    "examples": (COIN.replace("condition", 'infer few_shot(examples="rows.jsonl") condition'), "read files"),
}  # fmt: skip


@pytest.mark.parametrize("name", REACHING)
def test_a_program_does_not_reach_beyond_the_server(served: Served, name: str) -> None:
    text, said = REACHING[name]
    checked = [
        d for d in served.ask("/v1/check", {"program": text})[1]["diagnostics"] if d["code"] == "PLM830"
    ]
    assert checked and said in checked[0]["message"] and checked[0]["line"] is not None
    status, answer = served.ask("/v1/posterior", {"program": text})
    assert status == 422 and answer["error"]["code"] == "PLM830" and said in answer["error"]["message"]


ODD = [
    ({"program": COIN, "n": 100_000}, 400, "above 10000"),
    (
        {"program": COIN, "method": "mcmc", "options": {"chains": 100_000}},
        400,
        "`chains` of `mcmc` is at most",
    ),
    ({"program": COIN.replace("condition", "infer mcmc(steps=100000) condition")}, 400, "`steps` of `mcmc`"),
    ({"program": COIN, "method": "few_shot", "options": {"examples": "x"}}, 422, "not read on a server"),
    ({"program": COIN, "method": "magic"}, 422, "no method `magic`"),
    ({"program": COIN, "options": {"n": 3}}, 400, "none is named"),
    ({"program": COIN, "action": "train"}, 400, "`action` is one of"),
    ({"program": COIN, "action": "predict"}, 400, "`name`"),
    ({"program": COIN, "rows": [{"x": 1}]}, 422, "no parameter `x`"),
    ({"program": COIN, "rows": [3]}, 400, "`rows[0]`"),
    ({"program": COIN, "policy": "/tmp"}, 400, "no field `policy`"),
    ({"program": "program"}, 422, ""),
]


@pytest.mark.parametrize(("body", "status", "said"), ODD, ids=[f"{b} {s}" for b, _, s in ODD])
def test_odd_questions_are_told_of(served: Served, body: object, status: int, said: str) -> None:
    found, answer = served.ask("/v1/posterior", body)
    assert (found, said in answer["error"]["message"]) == (status, True), answer


# ---------------------------------------------------------------- who may ask, and how much


def test_who_may_ask(tiny) -> None:
    with serving({"tiny": tiny}, token="secret", hosts=("127.0.0.1",), most_bytes=500) as served:
        bearer = {"Authorization": "Bearer secret"}
        assert served.ask("/health")[0] == 200
        for wrong in ({}, {"Authorization": "Bearer secrets"}, {"Authorization": "secret"}):
            status, answer = served.ask("/v1/models", **wrong)
            assert status == 401 and "secret" not in json.dumps(answer)
        assert served.ask("/v1/models", **bearer)[1]["data"][0]["digest"] == tiny.identity.digest
        assert served.ask("/v1/models", **bearer, Host="evil.example")[0] == 421
        text = served.ask(
            "/v1/check", json.dumps({"program": COIN}).encode(), **bearer, Content_Type="text/plain"
        )
        assert text[0] == 415
        assert served.ask("/v1/check", {"program": "x" * 500}, **bearer)[0] == 413
        # Of a length that is not said before. In one write, as the answer comes before the whole was read.
        chunks = b"".join(
            b"%x\r\n%s\r\n" % (len(c), c) for c in (b'{"program": "', b"x" * 400, b"x" * 400, b"")
        )
        head = "POST /v1/check HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer secret\r\n"
        head += "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        with socket.create_connection(("127.0.0.1", int(served.url.rsplit(":", 1)[1]))) as connection:
            connection.sendall(head.encode() + chunks)
            assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_a_full_queue_sends_away_and_a_budget_is_capped(tiny) -> None:
    with serving({"tiny": tiny}, queue=1, budget=0.5) as served:
        begun = time.monotonic()
        answers: list[tuple[int, dict]] = []
        thread = threading.Thread(
            target=lambda: answers.append(served.ask("/v1/posterior", {**SLOW, "budget": 50}))
        )
        thread.start()
        while served.ask("/health")[1]["waiting"] == 0:
            time.sleep(0.02)
        for path, body in (("/v1/completions", {"prompt": "a"}), ("/v1/posterior", {**SLOW, "stream": True})):
            status, _, headers = served.raw(path, body)
            assert status == 429 and int(headers["retry-after"]) >= 1
        assert served.ask("/v1/check", {"program": COIN})[0] == 200
        thread.join()
        assert answers[0][0] == 200 and time.monotonic() - begun < 20
        assert served.ask("/v1/completions", {"prompt": "a"})[0] == 200


def test_a_program_is_shown_in_pieces_and_as_a_graph(served: Served) -> None:
    shown = served.ask("/v1/check", {"program": STORY, "show": True})[1]
    assert "".join(text for _, text in shown["pieces"]) == STORY
    assert ["keyword", "latent"] in shown["pieces"] and "<svg" in shown["graph"]
    wrong = STORY.replace("base(opening)", "bse(opening)") + "é¿"
    shown = served.ask("/v1/check", {"program": wrong, "show": True})[1]
    assert shown["diagnostics"] and shown["graph"] is None
    assert "".join(text for _, text in shown["pieces"]) == wrong
    assert "pieces" not in served.ask("/v1/check", {"program": STORY})[1]


def test_what_names_of_a_program_hold_is_text_in_its_graph(served: Served) -> None:
    program = 'lm base = "tiny"\nprogram p() { latent z: text(tokens=1..2, stop="<script>") ~ base("<b>&") }'
    graph = served.ask("/v1/check", {"program": program, "show": True})[1]["graph"]
    assert "<script" not in graph and "<b>" not in graph and "&lt;b&gt;" in graph


def test_the_page_speaks_to_its_own_server_alone(served: Served) -> None:
    status, page, headers = served.raw("/")
    assert status == 200 and headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in headers["content-security-policy"]
    named = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(named) == 4 and all(name.startswith("/") or name == "data:," for name in named)
    for name in named:
        if name.startswith("/"):
            assert served.raw(name)[0] == 200
    assert not re.search(r"https?://", page + served.raw("/page.js")[1] + served.raw("/page.css")[1])


def test_a_drawn_result_has_its_verdict(served: Served) -> None:
    [found] = served.ask("/v1/posterior", {"program": COIN})[1]["results"]
    assert found["verdict"].startswith("Exact")


def test_draws_are_told_token_by_token(served: Served, tiny) -> None:
    asked = {"program": STORY, "rows": [ROW], "method": "importance", "n": 4, "tokens": True}
    [found] = served.ask("/v1/posterior", asked)[1]["results"]
    assert (
        "tokens" not in served.ask("/v1/posterior", {**asked, "tokens": False})[1]["results"][0]["draws"][0]
    )
    opening = (*tiny.tokenizer.start_ids, *tiny.tokenizer.encode_start(ROW["opening"]))
    for draw in found["draws"]:
        value, tokens = draw["values"]["middle"], draw["tokens"]["middle"]
        assert "".join(text for text, _, _ in tokens) == value
        ids = tiny.tokenizer.encode(value)
        if [tiny.tokenizer.decode([i]) for i in ids] == [text for text, _, _ in tokens]:
            [scores] = tiny.score([Request((*opening, *ids), len(opening))])
            assert np.allclose([nats for _, nats, _ in tokens], scores.tokens, atol=1e-4)
        assert all((shade == 0) == (nats >= math.log(0.5)) for _, nats, shade in tokens)
    coin = served.ask("/v1/posterior", {"program": COIN, "tokens": True})[1]["results"][0]
    assert [draw["tokens"] for draw in coin["draws"] if draw["weight"]] == [{}, {}]


def test_results_name_models_as_they_are_served(tiny) -> None:
    with serving({"mine": tiny}) as found:
        [model] = found.ask("/v1/models")[1]["data"]
        assert model["dtype"] == tiny.identity.dtype
        text = STORY.replace('"tiny"', '"mine"')
        for more in (
            {"n": 2},
            {"action": "score", "values": {"middle": " He ran."}},
            {"action": "predict", "name": "middle", "n": 2},
        ):
            [result] = found.ask("/v1/posterior", {"program": text, "rows": [ROW], **more})[1]["results"]
            assert result.get("lm", {"base": {"name": "mine"}})["base"]["name"] == "mine"


def test_the_command_serves_and_ends() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "posterior_lm", "serve", "small=tests/golden/cli/letters.json", "--port", "0"],
        stderr=subprocess.PIPE, text=True, cwd=ROOT,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("serving small on http://127.0.0.1:")
        served = Served(line.split()[-1].removesuffix("/v1"))
        assert served.ask("/v1/models")[1]["data"][0]["id"] == "small"
        port = served.url.rsplit(":", 1)[1]
        taken = command("serve", "tests/golden/cli/letters.json", "--port", port)
        assert taken.exit_code == 1 and "PLM832" in taken.stderr
        process.send_signal(signal.SIGINT)
        assert process.wait(20) in (0, 130) and "Traceback" not in process.stderr.read()


def test_elsewhere_than_on_this_machine_a_token_is_needed() -> None:
    found = command("serve", "tiny", "--host", "0.0.0.0", PLM_SERVER_TOKEN="")
    assert found.exit_code == 2 and "PLM_SERVER_TOKEN" in found.stderr
