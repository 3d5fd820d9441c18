"""Rewrites what pages and examples show by what they do now.

    python docs/refresh.py [PAGE…] [--check]

Every `console` block that shows output, every `text` block below a `python` block and
every `examples/*.out` is written anew from a real run; prose is never touched. With
--check nothing is written, and the exit code is 1 where something would change.
"""

from __future__ import annotations

import contextlib
import io
import os
import runpy
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: spinning threads slow small models down

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

from snippets import blocks, commands, inside, is_output, pages, run_page, working_folder  # noqa: E402


def refreshed(page: str, folder: Path) -> str:
    """The page with every shown output replaced by that of a run in `folder`."""
    listed = blocks(page)
    after = dict(zip((b.start for b in listed), [*listed[1:], None], strict=False))
    edits: list[tuple[int, int, str]] = []
    for done in run_page(page, folder):
        block, below = done.block, after[done.block.start]
        if block.kind == "console" and done.outputs:
            edits.append((block.start, block.end, _console(block.text, done.outputs)))
        elif done.outputs and below is not None and is_output(page, block, below):
            edits.append((below.start, below.end, done.outputs[0] + "\n"))
    for start, end, text in reversed(edits):
        page = page[:start] + text + page[end:]
    return page


def _console(text: str, outputs: list[str]) -> str:
    """The block with new outputs; a command that showed none keeps its silence."""
    answers = iter(zip(commands(text), outputs, strict=True))
    lines: list[str] = []
    continued = False
    for line in text.splitlines():
        if line.startswith("$ ") or continued:
            if line.startswith("$ "):
                command, output = next(answers)
            lines.append(line)
            continued = line.endswith("\\")
            if not continued and command.shown:
                lines += output.splitlines()
    return "\n".join(lines) + "\n"


def example_output(script: Path, folder: Path) -> str:
    """What an example prints, run in `folder`."""
    with inside(working_folder(folder)), contextlib.redirect_stdout(io.StringIO()) as out:
        runpy.run_path(str(script), run_name="__main__")
    return out.getvalue()


def main(arguments: list[str]) -> int:
    check = "--check" in arguments
    names = [Path(a).resolve() for a in arguments if not a.startswith("-")]
    changed = []
    with tempfile.TemporaryDirectory() as top:
        for number, path in enumerate(names or [*pages(), *sorted((ROOT / "examples").glob("*.py"))]):
            folder = working_folder(Path(top) / str(number))
            if path.suffix == ".py":
                path, text = path.with_suffix(".out"), example_output(path, folder)
            else:
                with inside(folder):
                    text = refreshed(path.read_text(encoding="utf-8"), folder)
            if not path.exists() or text != path.read_text(encoding="utf-8"):
                changed.append(path)
                if not check:
                    path.write_text(text, encoding="utf-8")
    for path in changed:
        print(f"{'would change' if check else 'changed'} {path.relative_to(ROOT)}")
    return int(check and bool(changed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
