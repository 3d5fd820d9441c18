"""The code blocks of a page: found, run in order, and compared with what the page shows.

Kinds of block, by the word after the three backticks:

- `python`: run in one namespace per page; a `text` block right below it holds what
  it prints.
- `console`: lines that begin with `$ ` are commands, the lines below each one its
  output. `plm` runs in this process, and what `plm fit` writes while it trains is left
  out, since how often depends on the clock; `python -m benchmarks.paper` runs in it too;
  `make TARGET` stands for the `plm` line of that target; `cat FILE`, `echo $?`, `| head -N` and `> FILE` are understood, nothing else.
  A command that shows nothing is run, and has to succeed.
- `plm`: a program, or statements, that the checker must accept.
- `json`: JSON.

A comment on the line above a block says more: `<!-- file: NAME -->` writes the block to
a file of the page's working folder, `<!-- with: PARAMETERS -->` gives the statements of
a `plm` block a program around them, `<!-- wrong -->` says that the checker must not
accept it, `<!-- not run -->` leaves it alone. Several are divided by semicolons.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import define, field, frozen

if TYPE_CHECKING:
    import click

ROOT = Path(__file__).resolve().parent.parent
_FENCE = re.compile(
    r"(?:^<!-- (?P<note>.*?) -->\n)?^(?P<fence>```+)(?P<kind>\w*)\n(?P<text>.*?)^(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)

_TRAINING = re.compile(r"^ *(\d+%)?  [a-z_/, ]+( \d+%)?(: .*)?, \d+ s(, \d+ s left)?\n", re.MULTILINE)
"""A line of `plm fit` or `plm compare --db` where nobody watches its bar: when one comes depends on the machine."""


@frozen
class Block:
    """A block of a page: its kind, its notes, its text, and where that text stands."""

    kind: str
    notes: tuple[str, ...]
    text: str
    start: int
    end: int
    line: int

    def note(self, key: str) -> str | None:
        """What stands behind `key: ` in the notes, None where the key is absent; "" for a bare one."""
        for note in self.notes:
            name, _, rest = note.partition(":")
            if name.strip() == key:
                return rest.strip()
        return None


def blocks(page: str) -> list[Block]:
    """Every fenced block of a page, in order."""
    return [
        Block(
            kind=m["kind"],
            notes=tuple((m["note"] or "").split(";")),
            text=m["text"],
            start=m.start("text"),
            end=m.end("text"),
            line=page.count("\n", 0, m.start("fence")) + 1,
        )
        for m in _FENCE.finditer(page)
    ]


def pages() -> list[Path]:
    """Every page whose blocks are run, without those that are written when the site is built.

    The examples of the codes are wrong on purpose, and tested beside them.
    """
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    found += [ROOT / folder / "README.md" for folder in ("grammar", "posteriors", "programs")]
    found += (ROOT / "posterior_lm").rglob("*.md")
    made = ROOT / "docs" / "generated"
    return sorted(p for p in found if p.is_file() and p.parent.name != "codes" and made not in p.parents)


@frozen
class Command:
    """One command of a console block, and the output that the page shows for it."""

    line: str
    shown: str


def commands(text: str) -> list[Command]:
    """The commands of a console block in order."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if found and found[-1][0].endswith("\\") and not found[-1][1]:
            found[-1] = (found[-1][0][:-1].rstrip() + " " + line.strip(), [])
        elif line.startswith("$ "):
            found.append((line[2:], []))
        elif found:
            found[-1][1].append(line)
    return [Command(line, "\n".join(shown).strip("\n")) for line, shown in found]


# ---------------------------------------------------------------- running


@define
class Shell:
    """The few commands that pages use, run in one working folder."""

    folder: Path
    code: int = 0
    """The exit code of the last command."""

    def run(self, line: str) -> str:
        """What a command writes to standard output and standard error, in that order of time."""
        words = shlex.split(line)
        while "=" in words[0]:  # an environment variable before the command
            words = words[1:]
        path = None
        if ">" in words:
            path, words = words[words.index(">") + 1], words[: words.index(">")]
        most = None
        if "|" in words:
            rest = words[words.index("|") + 1 :]
            if rest[0] != "head" or len(rest) != 2:
                raise ValueError(f"a page may pipe only to `head -N`, not {' '.join(rest)!r}")
            most, words = int(rest[1].lstrip("-")), words[: words.index("|")]
        text = self._one(words).rstrip("\n")
        if path is not None:
            (self.folder / path).write_text(text + "\n", encoding="utf-8")
            return ""
        return "\n".join(text.splitlines()[:most])

    def _one(self, words: list[str]) -> str:
        match words:
            case ["plm", *arguments]:
                return self._plm(arguments)
            case ["python", "-m", "benchmarks.paper", *arguments]:
                from benchmarks.paper.__main__ import command

                return self._invoke(command, arguments)
            case ["make", target]:
                return self._plm(make_target(target))
            case ["cat", name]:
                return (self.folder / name).read_text(encoding="utf-8")
            case ["echo", "$?"]:
                return str(self.code)
        raise ValueError(f"a page may not run {shlex.join(words)!r}")

    def _plm(self, arguments: list[str]) -> str:
        from posterior_lm.cli.main import cli

        return self._invoke(cli, arguments)

    def _invoke(self, command: click.Command, arguments: list[str]) -> str:
        from click.testing import CliRunner

        result = CliRunner().invoke(command, arguments, prog_name="plm", env={"NO_COLOR": "1"})
        self.code = result.exit_code
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        text = _TRAINING.sub("", result.output)
        return text.replace(f"{self.folder}{os.sep}", "")  # a reader's folder is another one


def make_target(target: str) -> list[str]:
    """The arguments of `plm` in a target of the Makefile."""
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith(f"{target}:"))
    return shlex.split(next(line for line in lines[at + 1 :] if "$(BIN)/plm" in line))[1:]


def working_folder(folder: Path) -> Path:
    """A folder that looks like a checkout to the commands of a page."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("programs", "examples", "posterior_lm"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    return folder


@define
class Run:
    """What happened to a block: its outputs, in the order of its commands."""

    block: Block
    outputs: list[str] = field(factory=list)
    codes: list[int] = field(factory=list)


def run_page(page: str, folder: Path) -> Iterator[Run]:
    """Runs the blocks of a page in `folder`, which must be the working directory."""
    namespace: dict[str, Any] = {"__name__": "page"}
    shell = Shell(working_folder(folder))
    for block in blocks(page):
        done = Run(block)
        if block.note("not run") is not None:
            yield done
            continue
        file = block.note("file")
        if file is not None:
            (folder / file).write_text(block.text, encoding="utf-8")
        match block.kind:
            case "python" if file is None:
                with contextlib.redirect_stdout(io.StringIO()) as out:
                    exec(compile("\n" * block.line + block.text, "page", "exec"), namespace)
                done.outputs.append(out.getvalue().rstrip("\n"))
            case "console":
                for command in commands(block.text):
                    done.outputs.append(shell.run(command.line))
                    done.codes.append(shell.code)
            case "plm":
                check_program(block)
            case "json":
                json.loads(block.text)
        yield done


def check_program(block: Block) -> None:
    """Raises AssertionError where the checker disagrees with the page about a `plm` block."""
    from posterior_lm.lang.diagnostics import render_full
    from posterior_lm.lang.driver import compile_source
    from posterior_lm.lang.source import Source

    text = block.text
    params = block.note("with")
    if params is not None:
        text = f'lm base = "tiny"\nprogram page({params}) {{\n{text}}}\n'
    errors = compile_source(Source(f"the block on line {block.line}", text)).errors
    if block.note("wrong") is not None:
        assert errors, f"the checker accepts the block on line {block.line}"
    else:
        assert not errors, "\n\n".join(map(render_full, errors))


# ---------------------------------------------------------------- comparing

_ROW = re.compile(r"^\s*N( #)? .*\"")
_MASKS = (
    # What a few steps of training come to depends on the processor's rounding, and the verdict with it.
    (re.compile(r"^(Good|Usable|Poor): .*(ESS/N|KL\(|simulated|prior's).*$"), "a verdict"),
    (re.compile(r"whose verdict is (good|usable|poor)$"), "whose verdict is one"),
    (re.compile(r"^One draw of the policy replaces .*$"), "a worth"),
    (re.compile(r"\b[0-9a-f]{8,64}\b"), "H"),
    (re.compile(r"-?\b\d+(\.\d+)?(e[+-]?\d+)?(?![\w.])"), "N"),
    (re.compile(r"-inf\b"), "N"),
    (re.compile(r"(?<=N)\s+#+(?=\s)"), " #"),
    (re.compile(r"k-hat -"), "k-hat N"),
    (re.compile(r"k-hat +(not fitted|at most N, fitted on N)"), "k-hat N"),
    (re.compile(r"\bN to N nats"), "N nats"),
    (re.compile(r"\bnull\b"), "N"),
    (re.compile(r"\s+"), " "),
)


def masked(line: str) -> str:
    """A line with its numbers, digests and bars replaced by signs."""
    for pattern, sign in _MASKS:
        line = pattern.sub(sign, line)
    return line.strip()


def difference(shown: str, found: str) -> str | None:
    """What differs between a page and a run, numbers aside; None where nothing does.

    Rows of a table that begin with a number may come in another order, and of the
    texts in them at least half must be those of the page: another processor rounds
    differently, and then some draws differ too.
    """
    left, right = _lines(shown), _lines(found)
    if len(left) != len(right):
        return f"{len(left)} lines are shown, {len(right)} are written:\n{found}"
    for (number, one), (_, other) in zip(left, right, strict=True):
        if _ROW.match(one) and _ROW.match(other):
            continue
        if one != other:
            return f"line {number}:\n  shown    {one}\n  written  {other}"
    rows = [one for _, one in left if _ROW.match(one)]
    same = set(rows) & {other for _, other in right}
    if 2 * len(same) < len(set(rows)):
        return "most rows differ:\n" + found
    return None


def _lines(text: str) -> list[tuple[int, str]]:
    return [(number, masked(line)) for number, line in enumerate(text.strip("\n").splitlines(), start=1)]


def shown_outputs(page: str) -> Mapping[int, list[str]]:
    """For every block, by its offset, the outputs that the page shows; those of Python stand below it."""
    found: dict[int, list[str]] = {}
    listed = blocks(page)
    for block, after in zip(listed, [*listed[1:], None], strict=False):
        if block.kind == "console":
            found[block.start] = [c.shown for c in commands(block.text)]
        elif block.kind == "python" and after is not None and is_output(page, block, after):
            found[block.start] = [after.text.rstrip("\n")]
    return found


def is_output(page: str, block: Block, after: Block) -> bool:
    """Whether a `text` block stands right below a Python block."""
    between = page[block.end : after.start].replace("`", "").replace("text", "")
    return block.kind == "python" and after.kind == "text" and not between.strip()


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """The folder as working directory and first place of imports, for a while."""
    before, known = Path.cwd(), set(sys.modules)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        os.chdir(before)
        sys.path.remove(str(folder))
        for name in set(sys.modules) - known:  # another folder may hold a module of the same name
            if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(folder)):
                del sys.modules[name]
