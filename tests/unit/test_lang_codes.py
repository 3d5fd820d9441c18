"""Every code explains itself, and its examples do what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import posterior_lm
from posterior_lm.lang import codes
from posterior_lm.lang.codes import CODES
from posterior_lm.lang.diagnostics import InternalError
from posterior_lm.lang.driver import compile_source
from posterior_lm.lang.source import Source
from tests.conftest import ROOT

FILES = sorted(Path(codes.__file__).parent.glob("*.md"))


def _codes(text: str) -> set[str]:
    return {d.code for d in compile_source(Source("example.plm", text), lint=True).diagnostics}


@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
def test_a_code_is_complete(code) -> None:
    assert re.fullmatch(r"PLM[1-9]\d\d", code.code)
    assert code.title and not code.title.endswith(".")
    assert code.explanation.endswith((".", "…")), "whole sentences"
    assert code.wrong and code.right


@pytest.mark.parametrize(
    "code", [c for c in CODES.values() if "program " in c.right and "{" in c.right], ids=lambda c: c.code
)
def test_examples_do_what_they_say(code) -> None:
    wrong, right = _codes(code.wrong), _codes(code.right)
    assert code.code in wrong
    assert code.code not in right
    assert all(other.startswith("PLM9") for other in right), "the right example is right"


def test_examples_that_must_be_programs() -> None:
    """Syntax, names and structure can be shown in a program, but for a few that need a size or a model."""
    described = {c.code for c in CODES.values() if c.code[3] in "1249" and "{" not in c.right}
    assert described <= {"PLM109", "PLM490"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_holds_its_hundred_in_order(path: Path) -> None:
    digit, about, found = codes.read(path.name, path.read_text(encoding="utf-8"))
    assert path.name.startswith(f"{digit}-") and about == codes.GROUPS[digit]
    names = [code.code for code in found]
    assert names == sorted(set(names)) and set(names) == {name for name in CODES if name[3] == digit}


SECTION = """# 1xx: syntax

## PLM101: a title

An explanation
over two lines.

Wrong:

```plm
program p() { factor 1 }
```

Right:

```
said "␀" in words
```
"""


def test_a_section_is_read() -> None:
    (only,) = codes.read("1-syntax.md", SECTION)[2]
    assert (only.code, only.title, only.explanation) == (
        "PLM101",
        "a title",
        "An explanation over two lines.",
    )
    assert only.wrong == "program p() { factor 1 }\n" and only.right == 'said "\0" in words'


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# 1xx", "# xx"), ("## PLM101: ", "## PLM201: "), ("## PLM101: ", "## PLM101 "),
        ("two lines.\n", "two\n\nlines.\n"), ("Wrong:", "wrong:"), ("Right:\n", ""), ("```plm", "```python"),
        ("words\n```", "words"), ("words\n", "words\n```\n\n```\n"), ('said "␀" in words\n', ""),
    ],
)  # fmt: skip
def test_a_malformed_section_is_a_mistake_of_ours(old: str, new: str) -> None:
    assert SECTION.count(old) == 1
    with pytest.raises(InternalError, match=r"1-syntax\.md"):
        codes.read("1-syntax.md", SECTION.replace(old, new))


def test_checking_a_good_program_reads_none_of_them() -> None:
    script = (
        "import sys\n"
        "from posterior_lm.lang.diagnostics import PlmError\n"
        "from posterior_lm.cli.main import cli\n"
        "try:\n    cli(['check', 'programs/story_infilling.plm'])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "assert 'posterior_lm.lang.codes' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_every_code_in_the_sources_is_listed() -> None:
    root = Path(posterior_lm.__path__[0])
    found = set()
    for path in root.rglob("*.py"):
        found |= set(re.findall(r"\bPLM\d{3}\b", path.read_text(encoding="utf-8")))
    assert found <= set(CODES)
