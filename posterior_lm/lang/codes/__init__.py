"""What every diagnostic code stands for, read from the Markdown files beside this one.

A file holds the codes of one hundred, `# 1xx: syntax`, and each of them is a section: `## PLM101: title`, a
paragraph of explanation, and under `Wrong:` and `Right:` a fenced example. A fence of `plm` holds a whole
program, so that a test compiles it; a plain one describes what no program shows. `␀` stands for a null byte.

A diagnostic holds the code alone: only what explains codes imports this module, which reads the files.
"""

from __future__ import annotations

import re
from pathlib import Path

from attrs import frozen

from posterior_lm.lang.diagnostics import InternalError

__all__ = ["CODES", "GROUPS", "Code", "read"]


@frozen
class Code:
    """One code: a title, why it is wrong and what to do, an example of each."""

    code: str
    title: str
    explanation: str
    wrong: str
    right: str


_EXAMPLE = r":\n\n```(plm)?\n((?:(?!```).*\n)+)```\n"
_SECTION = re.compile(rf"(PLM\d{{3}}): (.+)\n\n((?:.+\n)+)\nWrong{_EXAMPLE}\nRight{_EXAMPLE}\n*")


def read(name: str, text: str) -> tuple[str, str, list[Code]]:
    """The digit of a file's hundred, what the hundred is about, and its codes in the order of the file.

    Raises `InternalError` that names the section which is malformed, or stands in the wrong file.
    """
    head, *sections = re.split(r"^## ", text, flags=re.MULTILINE)
    title = re.match(r"# (\d)xx: (.+)\n", head)
    if title is None:
        raise InternalError(f"{name} has no title such as `# 1xx: syntax`")
    codes = []
    for section in sections:
        parts = _SECTION.fullmatch(section)
        if parts is None or parts[1][3] != title[1]:
            raise InternalError(f"{name}: no section of {title[1]}xx is `## {section.splitlines()[0]}`")
        code, about, explanation, *examples = parts.groups()
        wrong, right = (
            (text if kind else text.removesuffix("\n")).replace("␀", "\0")
            for kind, text in (examples[:2], examples[2:])
        )
        codes.append(Code(code, about, " ".join(explanation.split()), wrong, right))
    return title[1], title[2], codes


_FILES = [read(p.name, p.read_text(encoding="utf-8")) for p in sorted(Path(__file__).parent.glob("*.md"))]

GROUPS: dict[str, str] = {digit: about for digit, about, _ in _FILES}
"""What each hundred is about, by its digit."""

CODES: dict[str, Code] = {code.code: code for _, _, codes in _FILES for code in codes}
"""What a diagnostic code stands for."""
