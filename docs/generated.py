"""The pages of the site that the code itself writes: the gallery, the commands, the Python interface.

They are written into `docs/generated`, which is not committed, before Sphinx looks for pages.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

PAGES = [
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/**.md", "posterior_lm/**.md"),
    *("programs/README.md", "posteriors/README.md", "grammar/README.md", "editors/vscode/README.md"),
    *("benchmarks/README.md", "benchmarks/unseen/README.md", "benchmarks/results/paper.md"),
]
"""What is a page, from the top of the repository, as Sphinx writes patterns."""

UNDER = {
    "Reference": ["generated/python", "generated/results", "generated/commands"],
    "Gallery": ["generated/programs", "generated/examples"],
}
"""Generated pages, by the heading of the first page that they belong to."""

PYTHON: Mapping[str, tuple[str, str, Mapping[str, Sequence[str]]]] = {
    "python": (
        "Python",
        "What `import posterior_lm as plm` offers; [compose programs](../how-to/compose-programs.md) shows it at work.",
        {
            "Programs": ("load", "loads", "program", "Query"),
            "Answers": ("Posterior", "Prediction", "Target", "reliability", "results"),
            "Models": ("load_model", "TabularModel", "LanguageModel", "MaskedTable", "MaskedModel"),
            "Errors": ("PlmError", "CompileError", "DataError", "ModelError", "InferenceError"),
        },
    ),
    "results": (
        "Results and protocols",
        "What [the Python interface](python.md) returns and asks for. Whatever implements a protocol has to obey its laws "
        "in [`tests/laws`](../../tests/laws). Only what the page before names is promised to stay.",
        {
            "Protocols": (
                "lm.protocol.Tokenizer", "lm.protocol.Rollout", "lm.protocol.Chat", "support.base.Support",
                "infer.base.InferenceAlgorithm", "infer.guide.Guide",
            ),
            "Results": (
                "api.posterior.Estimate", "api.posterior.Draw", "api.posterior.Merged", "api.posteriors.Posteriors", "predict.prediction.Predictions", "api.engine.Score", "train.fit.Fitted",
                "train.certificate.PolicyReport", "api.query.EmResult", "em.rounds.Round",
                "validate.calibration.Calibration", "validate.comparison.Comparison", "validate.reliability.Reliability", "lang.diagnostics.Diagnostic",
            ),
            "Parts of results": (
                "infer.draws.Draws", "infer.draws.EnumerationBound", "infer.draws.SmcReport", "infer.draws.MixtureReport",
                "infer.draws.SecondLook", "infer.draws.Respelled", "infer.draws.Chains", "train.policy.Manifest", "train.certificate.Bounds",
                "train.certificate.RowCheck", "train.certificate.Simulated", "train.certificate.Verdict",
                "em.rounds.Bound", "em.rounds.Raised", "validate.comparison.Measured", "validate.reliability.Bin", "lang.diagnostics.Label",
                "lang.source.Span",
            ),
            "What protocols speak of": (
                "infer.base.Info", "infer.guide.Proposal", "target.values.Value", "target.target.LatentInfo",
                "graph.nodes.TermInfo", "lm.protocol.Request", "lm.protocol.Branch", "lm.protocol.Scores",
                "lm.protocol.ModelIdentity", "lm.protocol.Message",
            ),
        },
    ),
}  # fmt: skip
"""Pages of the Python interface: title, introduction, and by heading the names below `posterior_lm`."""

_INNER = (
    "Adapter", "Axes", "CheckedModule", "Count", "Course", "Datum", "Declaration", "Evaluator", "FitProgress", "Module",
    "PreparedProgram", "Progress", "RewardGraph", "Rows", "Severity", "Shown", "Source", "State", "Stored", "TabularRollout", "TabularTokenizer", "Tick",
    "Values", "Vote",
)  # fmt: skip
_LIBRARIES = ("collections", "datasets", "matplotlib", "np", "numpy", "pandas", "pathlib", "xarray")

ELSEWHERE = [
    ("py:.*", rf"({'|'.join(_LIBRARIES)})\..*|Path|([\w.]+\.)?({'|'.join(_INNER)})"),
    ("py:.*", r"posterior_lm\.infer\.request\.Request"),
    ("py:.*", r"inf|\d+\.\d+"),  # bounds of an annotated number
]
"""Types that the site does not explain, as patterns of role and name: other libraries', and inner ones."""


def write(folder: Path) -> None:
    """Writes every generated page that has changed, and takes away those that are none any more."""
    pages = {**python_pages(), "commands": commands_page(), **program_pages(), **example_pages()}
    for name, text in pages.items():
        path = folder / f"{name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    for path in folder.rglob("*.md"):
        if path.relative_to(folder).with_suffix("").as_posix() not in pages:
            path.unlink()


def contents(index: str) -> dict[str, list[str]]:
    """The pages below each heading of the first page, by their names without ending."""
    sections = [section.split("\n", 1) for section in index.split("\n## ")[1:]]
    return {
        heading: re.findall(r"\]\(([^)#]+)\.md\)", text) + UNDER.get(heading, [])
        for heading, text in sections
    }


def toctree(names: Sequence[str], *options: str) -> str:
    """A table of contents that shows in the side bar alone."""
    return "\n".join(["\n```{toctree}", ":hidden:", *options, "", *names, "```\n"])


# ---- the Python interface and the commands


def python_pages() -> dict[str, str]:
    """By name, the pages of `PYTHON`."""
    pages = {}
    for page, (title, about, groups) in PYTHON.items():
        parts = [f"# {title}", about]
        for heading, names in groups.items():
            parts.append(f"## {heading}")
            for name in names:
                function = name.rpartition(".")[2].islower()
                directive = f".. {'autofunction' if function else 'autoclass'}:: posterior_lm.{name}"
                members = "" if function else "\n   :members:\n   :show-inheritance:"
                parts.append(f"```{{eval-rst}}\n{directive}{members}\n```")
        pages[page] = "\n\n".join(parts) + "\n"
    return pages


def commands_page() -> str:
    """What every command says for `--help`."""
    from click.testing import CliRunner

    from posterior_lm.cli.main import COMMANDS, cli

    parts = ["# Commands", "What `plm` and each of its commands say for `--help`."]
    for name in ("", *COMMANDS):
        said = CliRunner().invoke(cli, [*name.split(), "--help"], prog_name="plm").output
        parts.append(f"## plm {name}".rstrip() + f"\n\n```text\n{said.strip()}\n```")
    return "\n\n".join(parts) + "\n"


# ---- the gallery


def program_pages() -> dict[str, str]:
    """A page of every program, and one of all their pictures."""
    said = (ROOT / "programs" / "README.md").read_text(encoding="utf-8")
    pages, cards = {}, []
    for path in sorted((ROOT / "programs").glob("*.plm")):
        text = path.read_text(encoding="utf-8")
        about = next(part for part in said.split("\n\n") if f"**[`{path.name}`]" in part)
        about = re.sub(r"\]\((\w+)\.plm\)", r"](\1.md)", about)
        parts = [f"# {path.stem}", about, f"```plm\n{text}```", picture(text), _run(path, text)]
        pages[f"programs/{path.stem}"] = "\n\n".join(parts) + "\n"
        cards.append(f"## [{path.stem}](programs/{path.stem}.md)\n\n{picture(text)}")
    about = "What every program of [`programs/`](../../programs/README.md) makes a log reward of."
    return {**pages, "programs": "\n\n".join(["# Programs in pictures", about, *cards, toctree(list(pages))])}


def _run(path: Path, text: str) -> str:
    """What `plm run` prints for the first row of a program's data."""
    from click.testing import CliRunner

    from posterior_lm.cli.main import cli

    command = f"plm run programs/{path.name} --data programs/data/{path.stem}.jsonl --row 0 -n 200"
    if 'lm base = "tiny"' not in text:
        return f"The models that it names are not at hand where this page is made; with them, try\n\n```sh\n{command}\n```"
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        ran = CliRunner().invoke(cli, command.split()[1:], prog_name="plm", env={"NO_COLOR": "1"})
    finally:
        os.chdir(before)
    if ran.exit_code:
        raise RuntimeError(f"{command}: {ran.output}")
    return f"```console\n$ {command}\n{ran.output.strip()}\n```"


def example_pages() -> dict[str, str]:
    """A page of every example: its text, the pictures of the programs in it, and what it prints."""
    pages = {}
    for path in sorted((ROOT / "examples").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        title, about = (ast.get_docstring(ast.parse(text)) or "").split("\n", 1)
        shown = path.with_suffix(".out").read_text(encoding="utf-8")
        parts = [f"# {title}", f"[`examples/{path.name}`](../../../examples/{path.name})", f"```python\n{text}```",
                 "It prints", f"```text\n{shown}```", *map(picture, programs_of(text))]  # fmt: skip
        pages[f"examples/{path.stem}"] = "\n\n".join(parts) + "\n"
    listed = [f"- [{text.split(chr(10))[0][2:]}]({name}.md)" for name, text in pages.items()]
    about = "Scripts that run as they are, in the order in which to read them."
    return {**pages, "examples": "\n\n".join(["# Examples", about, "\n".join(listed), toctree(list(pages))])}


def programs_of(script: str) -> Iterator[str]:
    """The texts of the programs that a script loads from `programs/` or holds as literals."""
    from posterior_lm.lang.driver import compile_source
    from posterior_lm.lang.source import Source

    seen = set()
    for node in ast.walk(ast.parse(script)):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        text = node.value
        if re.fullmatch(r"\w+\.plm", text):
            text = (ROOT / "programs" / text).read_text(encoding="utf-8")
        if "program " in text and text not in seen and not compile_source(Source("<page>", text)).errors:
            seen.add(text)
            yield text


def picture(program: str) -> str:
    """The graph of a program as a drawing."""
    from posterior_lm.graph import lower, optimize
    from posterior_lm.lang.driver import compile_source
    from posterior_lm.lang.source import Source
    from posterior_lm.report import picture as report
    from posterior_lm.report.graph_svg import graph_svg

    graph = optimize(lower(compile_source(Source("<page>", program)).without_errors()))
    drawn = graph_svg(report.picture(graph), f"Graph of {graph.name}")
    return f'```{{raw}} html\n<div class="picture">{drawn}</div>\n```'
