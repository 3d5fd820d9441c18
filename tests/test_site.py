"""The site: what the code writes of it is there, and `make docs` warns of nothing.

That every page and public name is on it stands in `test_docs.py`.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from posterior_lm.cli.main import COMMANDS
from posterior_lm.lang.codes import CODES
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "docs"))
import generated

DOCS = ROOT / "docs"
INDEX = DOCS / "index.md"


def test_generated_pages_have_a_place() -> None:
    headings = generated.contents(INDEX.read_text(encoding="utf-8"))
    assert set(generated.UNDER) <= set(headings)
    below = {f"generated/{name}" for name in ("commands", "programs", "examples", *generated.PYTHON)}
    assert {name for names in generated.UNDER.values() for name in names} == below


def test_every_command_shows_its_help() -> None:
    page = generated.commands_page()
    for name, line in COMMANDS.items():
        section = page.split(f"## plm {name}\n")[1].split("\n## ")[0]
        assert section.startswith(f"\n```text\nUsage: plm {name} ")
        assert " ".join(line.split()) in " ".join(section.split())


def test_every_code_has_a_page() -> None:
    files = (ROOT / "posterior_lm" / "lang" / "codes").glob("*.md")
    headings = {
        code for path in files for code in re.findall(r"^## (PLM\d{3}):", path.read_text(), re.MULTILINE)
    }
    assert headings == set(CODES)


def test_examples_show_their_text_their_pictures_and_what_they_print() -> None:
    made = generated.example_pages()
    for path in sorted((ROOT / "examples").glob("*.py")):
        page = made[f"examples/{path.stem}"]
        assert path.read_text() in page and path.with_suffix(".out").read_text() in page
        programs = list(generated.programs_of(path.read_text()))
        assert page.count("<svg ") == len(programs) >= (path.stem != "08_tools")
        for name in re.findall(r'"(\w+\.plm)"', path.read_text()):
            assert (ROOT / "programs" / name).read_text() in programs


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(importlib.util.find_spec("furo") is None, reason="needs the extra docs")
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-c", "docs", ".", tmp_path, "-d", tmp_path / "kept"]
    done = subprocess.run(
        [*command, *["-n", "-W", "--keep-going", "-q"]], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr

    def read(name: str) -> str:
        return (tmp_path / f"{name}.html").read_text(encoding="utf-8")

    assert 'url=docs/index.html"' in read("index")
    links = set(
        re.findall(r'href="([^"#]+)\.html"', read("docs/index").split("sidebar-tree")[1].split("</div>")[0])
    )
    for names in generated.contents(INDEX.read_text(encoding="utf-8")).values():
        assert set(names) <= links
    assert '<span class="k">latent</span>' in read("docs/language")  # our lexer's keyword
    assert 'id="plm101"' in read("posterior_lm/lang/codes/1-syntax")
    story = read("docs/generated/programs/story_infilling")
    assert story.count('<svg class="graph"') == 1 and "log evidence -5." in story
    assert 'href="../docs/generated/programs/story_infilling.html"' in read("programs/README")
    assert "/tree/main/tests/laws" in read("docs/how-to/your-own-model")
    python = read("docs/generated/python")
    assert 'id="posterior_lm.Query.draw"' in python
    assert 'href="#posterior_lm.Posterior"' in python  # named by an annotation, imported only to check types
    assert (tmp_path / "searchindex.js").stat().st_size > 10_000
