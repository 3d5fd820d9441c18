"""Everything that the documentation shows is run: snippets, examples, programs, links, lists of names.

`docs/snippets.py` says which blocks are run and how their output is compared.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

import posterior_lm
from posterior_lm.cli.main import COMMANDS, cli
from posterior_lm.infer.methods import METHODS, OBJECTIVES, losses
from posterior_lm.lang.codes import CODES
from posterior_lm.lang.format import format_module
from posterior_lm.lang.parser import parse
from posterior_lm.lang.signatures import DISTRIBUTIONS, FUNCTIONS, LMS, TOOLS
from posterior_lm.lang.source import Source
from posterior_lm.lang.value_types import VALUE_TYPES
from tests.conftest import ROOT


def _load(name: str) -> ModuleType:
    """A module of `docs/`, which is no package."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


snippets = _load("snippets")
refresh = _load("refresh")
generated = _load("generated")
PAGES = snippets.pages()
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
TRAINING = {"04_fit_and_use", "05_planted_failure", "06_resume_after_kill", "10_em"}
"""Examples that train, for half a minute each."""
PROGRAMS = sorted((ROOT / "programs").glob("*.plm"))


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


# ---------------------------------------------------------------- pages


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_a_page_shows_what_happens(path: Path, tmp_path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    shown = snippets.shown_outputs(page)
    with snippets.inside(snippets.working_folder(tmp_path)):
        for done in snippets.run_page(page, tmp_path):
            where = f"{relative(path)}, the block on line {done.block.line}"
            expected = shown.get(done.block.start, [])
            asked = snippets.commands(done.block.text) if done.codes else []
            for k, (command, code) in enumerate(zip(asked, done.codes, strict=True)):
                if command.line != "echo $?":
                    _check_code(where, code, expected[k], expected[k + 1] if k + 1 < len(expected) else None)
            for one, found in zip(expected or [""] * len(done.outputs), done.outputs, strict=True):
                if one:
                    problem = snippets.difference(one, found)
                    assert problem is None, f"{where}: {problem}\n(python docs/refresh.py writes pages anew)"


def _check_code(where: str, code: int, shown: str, after: str | None) -> None:
    """A command fails exactly where the page shows its error, or its exit code right after it."""
    if after is not None and re.fullmatch(r"\d+", after):
        assert code == int(after), f"{where}: exit code {code}"
    elif not shown.startswith("error["):
        assert code == 0, f"{where}: exit code {code}"
    else:
        assert code in (1, 2), f"{where}: exit code {code}"


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_programs_on_pages_are_laid_out(path: Path) -> None:
    for block in snippets.blocks(path.read_text(encoding="utf-8")):
        if block.kind == "plm" and block.note("wrong") is None and block.note("with") is None:
            module, _ = parse(Source(relative(path), block.text))
            assert module is not None and format_module(module) == block.text, (
                f"the block on line {block.line}"
            )


def test_the_readme_shows_what_make_run_prints() -> None:
    shown = [
        c.line for b in snippets.blocks((ROOT / "README.md").read_text()) for c in snippets.commands(b.text)
    ]
    assert shown[0] == "make run"


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        there = (path.parent / name).resolve() if name else path
        assert there.exists(), f"{relative(path)} links to {target}"
        if anchor:
            assert anchor in _anchors(there), f"{relative(path)} links to {target}"


def _anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


# ---------------------------------------------------------------- examples and programs


@pytest.mark.parametrize(
    "script",
    [pytest.param(s, marks=[pytest.mark.slow] * (s.stem in TRAINING)) for s in EXAMPLES],
    ids=relative,
)
def test_an_example_prints_what_stands_beside_it(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [str(script)])
    found = refresh.example_output(script, tmp_path)
    problem = snippets.difference(script.with_suffix(".out").read_text(encoding="utf-8"), found)
    assert problem is None, problem


def test_examples_are_short() -> None:
    assert len(EXAMPLES) == 10
    for script in EXAMPLES:
        assert len(script.read_text(encoding="utf-8").splitlines()) < 80, script.name


def needs_smollm2(program: Path) -> bool:
    return 'lm base = "smollm2"' in program.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "program",
    [pytest.param(p, marks=[pytest.mark.real] if needs_smollm2(p) else [], id=relative(p)) for p in PROGRAMS],
)
def test_a_program_runs_on_its_data(program: Path, request: pytest.FixtureRequest) -> None:
    if needs_smollm2(program):
        request.getfixturevalue("smollm2")  # skips without it
    data = program.parent / "data" / f"{program.stem}.jsonl"
    arguments = ["run", str(program), "--data", str(data), "--row", "0", "-n", "20", "--format", "json"]
    result = CliRunner().invoke(cli, arguments, prog_name="plm")
    whole = json.loads(result.output)
    assert result.exit_code == 0
    assert abs(sum(d["weight"] for d in whole["draws"]) - 1) < 1e-9


@pytest.mark.parametrize("program", PROGRAMS, ids=relative)
def test_every_row_of_a_program_fits_it(program: Path) -> None:
    from posterior_lm import load
    from posterior_lm.target.rows import read_rows
    from posterior_lm.target.validate import validate_data

    rows = read_rows(program.parent / "data" / f"{program.stem}.jsonl")
    graph = load(program).graph
    assert len(rows) >= 5
    for row in rows:
        validate_data(graph, row)


# ---------------------------------------------------------------- the reference is complete

LANGUAGE = (ROOT / "docs" / "language.md").read_text(encoding="utf-8")


def test_the_reference_names_everything_the_language_knows() -> None:
    known = {f"{name}(" for name in (*FUNCTIONS, *DISTRIBUTIONS, *LMS, *TOOLS)}
    known |= {f"`{name}`" for name in METHODS}
    known |= {f"{option}=" for type_ in VALUE_TYPES.values() for option in type_.options}
    known |= {f"{option}=" for entry in (*LMS.values(), *TOOLS.values()) for option in entry.options}
    known |= {f"`plm {name}`" for name in ("score", "run", "predict", "check")}
    assert {name for name in known if name not in LANGUAGE} == set()


def test_the_reference_states_the_defaults_of_methods() -> None:
    table = LANGUAGE[LANGUAGE.index("| method | options |") :].split("\n\n", 1)[0]
    assert {line.split("`")[1] for line in table.splitlines()[2:]} == set(METHODS)
    for method in METHODS.values():
        row = next(line for line in table.splitlines() if f"`{method.name}`" in line.split("|")[1])
        for name, option in method.options.items():
            written = json.dumps(option.default) if isinstance(option.default, str) else f"{option.default}"
            assert (f"{name}={written}" if option.default is not None else f"`{name}`") in row
            assert all(f'"{choice}"' in table for choice in option.choices), name


def test_the_page_on_fits_has_a_row_for_every_objective() -> None:
    page = (ROOT / "docs" / "how-to" / "fit-a-policy.md").read_text(encoding="utf-8")
    table = page[page.index("| name | compares |") :].split("\n\n", 1)[0]
    assert tuple(line.split("`")[1] for line in table.splitlines()[2:]) == losses()
    peers = (ROOT / "docs" / "how-to" / "baselines.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in peers for name, one in OBJECTIVES.items() if one.peer)


def test_reserved_words_are_those_of_the_grammar() -> None:
    grammar = (ROOT / "grammar" / "plm.lark").read_text(encoding="utf-8")
    words = set(re.findall(r'^[A-Z]+: "([a-z]+)"$', grammar, re.MULTILINE))
    listed = re.search(r"Reserved words: `(.*?)`", LANGUAGE, re.DOTALL)
    assert listed is not None and set(listed[1].split()) == words


def test_codes_and_commands_that_pages_name_exist() -> None:
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        assert set(re.findall(r"\bPLM\d{3}\b", text)) <= set(CODES), relative(path)
        assert set(re.findall(r"`plm ([a-z]+)", text)) <= set(COMMANDS), relative(path)


# ---------------------------------------------------------------- the site shows everything


def test_every_page_is_in_the_side_bar_once() -> None:
    docs = ROOT / "docs"
    pages = {path for pattern in generated.PAGES for path in ROOT.glob(pattern.replace("**.", "**/*."))}
    pages = {path for path in pages if docs / "generated" not in path.parents}
    index = (docs / "index.md").read_text(encoding="utf-8")
    names = [name for listed in generated.contents(index).values() for name in listed]
    listed = [(docs / f"{name}.md").resolve() for name in names if not name.startswith("generated/")]
    assert len(listed) == len(set(listed))
    missing = {relative(path) for path in pages - {docs / "index.md"} - set(listed)}
    assert not missing, f"docs/index.md does not list {missing}"
    assert set(listed) <= pages


def test_the_python_pages_name_what_is_public() -> None:
    _, _, groups = generated.PYTHON["python"]
    named = [name for names in groups.values() for name in names]
    assert sorted(named) == sorted(posterior_lm.__all__)
    page = generated.python_pages()["python"]
    assert all(f":: posterior_lm.{name}\n" in page for name in named)
    assert ".. autofunction:: posterior_lm.load\n" in page and ".. autoclass:: posterior_lm.Query\n" in page


# ---------------------------------------------------------------- the comparison itself


@pytest.mark.parametrize(
    ("shown", "found", "same"),
    [
        ("log evidence -5.9 ± 0.1 nats", "log evidence -6.2 ± 0.2 nats", True),
        ("log evidence -5.9 nats", "log reward -5.9 nats", False),
        ("ESS 5.1 of 100, k-hat -", "ESS 12.1 of 100, k-hat 0.31", True),
        (
            '  0.4  ####  -1.0  "a"\n  0.2  ##  -2.0  "b"',
            '  0.3  ###  -2.0  "b"\n  0.3  ###  -1.0  "a"',
            True,
        ),
        (
            '  0.4  ####  -1.0  "a"\n  0.2  ##  -2.0  "b"',
            '  0.3  ###  -2.0  "c"\n  0.3  ###  -1.0  "d"',
            False,
        ),
        ('  0.4  ####  -1.0  "a"', '  0.4  ####  -1.0  "a"\n  0.1  #  -2.0  "b"', False),
        ("fingerprint 0420be041dbd", "fingerprint 9a28d4767031", True),
        ("error[PLM401]: x", "error[PLM402]: x", False),
        ("  k-hat      not fitted", "  k-hat      at most 0.38, fitted on 2", True),
        ("  KL(posterior‖policy)  0.65 to 0.68 nats", "  KL(posterior‖policy)  0.66 nats", True),
        ("  KL(posterior‖policy)  0.65 to 0.68 nats", "  KL(policy‖posterior)  0.66 nats", False),
    ],
)
def test_what_counts_as_the_same_output(shown: str, found: str, same: bool) -> None:
    assert (snippets.difference(shown, found) is None) is same


def test_refreshing_changes_outputs_and_nothing_else(tmp_path: Path) -> None:
    page = (
        "# T\n\n```python\nx = 2\nprint(x + 1)\n```\n\n```text\nold\n```\n\n"
        "```console\n$ plm explain PLM401 | head -1\nold\nolder\n$ plm explain PLM402\n```\n\n"
        "```text\nkept\n```\n"
    )
    with snippets.inside(snippets.working_folder(tmp_path)):
        new = refresh.refreshed(page, tmp_path)
    assert new == page.replace("```text\nold\n", "```text\n3\n").replace(
        "old\nolder\n", "PLM401: used before it is drawn\n"
    )
