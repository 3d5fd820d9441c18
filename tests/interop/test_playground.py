"""The page of `plm playground` in a real browser: two widths, light and dark, by keyboard."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("starlette", reason="the extra `serve` is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")

WRONG = 'lm base = "tiny"\nprogram p() {\n  latent z: int(0..3) ~ unform()\n}\n'
COIN = 'lm base = "tiny"\nprogram p(k: int(0..3)) {\n  latent z: int(0..3) ~ categorical([0.1, 0.2, 0.3, 0.4])\n  condition z >= k # é 😀\n}\n'


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with subprocess.Popen(
        [sys.executable, "-m", "posterior_lm", "playground", "--port", "0", "--no-open"],
        stderr=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:  # fmt: skip
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        yield next(found[0] for line in lines if (found := re.search(r"http://\S+/", line)))
        process.terminate()


@pytest.fixture(params=[(1200, "light"), (400, "dark")], ids=["wide", "narrow and dark"])
def page(request: pytest.FixtureRequest, address: str) -> Iterator[sync_api.Page]:
    width, scheme = request.param
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda problem: said.append(str(problem)))
        page.goto(address)
        page.wait_for_selector("#graph svg")
        yield page
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert said == []
        browser.close()


def run(page: sync_api.Page) -> None:
    page.keyboard.press("Control+Enter")
    sync_api.expect(page.locator("#status")).to_have_text(re.compile("^done in"), timeout=60_000)


def test_a_program_is_mended_run_and_shared(page: sync_api.Page) -> None:
    page.fill("#program", WRONG)
    page.wait_for_selector("#problems button.error")
    assert "line 3: unknown distribution 'unform' (PLM201)" in page.inner_text("#problems")
    assert page.inner_text("#shade .wrong") == "unform"
    page.click("#problems button.error")
    assert page.evaluate("document.getElementById('program').selectionStart") == WRONG.index("unform")

    page.fill("#program", COIN)
    page.wait_for_selector("#shade .keyword")
    assert page.inner_text("#shade").rstrip() == COIN.rstrip()
    page.fill("#rows", '{"k": 2}\n{"k": 3}')
    run(page)
    assert page.locator(".answer").count() == 2
    first = page.locator(".answer").first
    assert "Exact" in first.locator(".verdict").inner_text()
    assert first.locator(".share").all_inner_texts() == ["57.1 %", "42.9 %"]
    assert first.locator(".text").all_inner_texts() == ["3", "2"]
    wide = [box["width"] for box in map(lambda bar: bar.bounding_box(), first.locator(".bar").all()) if box]
    assert wide[1] / wide[0] == pytest.approx(3 / 4, abs=0.02)

    page.click("#share")
    assert "#p=" in page.url
    page.reload()
    page.wait_for_selector("#graph svg")
    assert page.input_value("#program") == COIN and page.input_value("#rows") == ""


def test_texts_are_coloured_token_by_token(page: sync_api.Page) -> None:
    page.fill("#n", "20")
    run(page)
    first = page.locator(".bars li").first
    tokens = first.locator(".text .tok")
    assert tokens.count() > 2 and "".join(tokens.all_inner_texts()) == first.locator(".text").inner_text()
    assert all(
        re.fullmatch(r"p = \S+, -?[\d.]+ nats", one.get_attribute("title") or "") for one in tokens.all()
    )
    shades = {
        one.evaluate("e => getComputedStyle(e).backgroundColor") for one in page.locator("p .tok").all()
    }
    assert len(shades) == 6


def test_what_cannot_be_run_is_said(page: sync_api.Page) -> None:
    page.fill("#rows", "{not json")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#status.bad")
    assert "row 1 of the parameters is no JSON" in page.inner_text("#status")
    page.fill("#rows", "{}")
    page.keyboard.press("Control+Enter")
    sync_api.expect(page.locator("#status")).to_have_text(re.compile("opening"), timeout=60_000)
