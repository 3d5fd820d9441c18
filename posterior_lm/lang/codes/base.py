"""What a diagnostic code stands for."""

from __future__ import annotations

from attrs import frozen


@frozen(kw_only=True)
class Code:
    """One code: a title, why it is wrong and what to do, an example of each.

    `wrong` and `right` are whole programs where a program can show it, so that a
    test compiles them; else short descriptions.
    """

    code: str
    title: str
    explanation: str
    wrong: str = ""
    right: str = ""


def program(body: str, params: str = "prompt: text", declarations: str = 'lm base = "tiny"') -> str:
    """A whole program around some statements, for examples."""
    lines = "\n".join(f"  {line}" for line in body.strip("\n").split("\n"))
    return f"{declarations}\n\nprogram example({params}) {{\n{lines}\n}}\n"
