"""The log reward of one row, statement by statement, from `plm score` in a process of its own.

The language server loads no model: whoever asks for numbers waits for a process that does, and it ends with them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posterior_lm.editors.document import Document
from posterior_lm.lang import ast
from posterior_lm.lang.diagnostics import PlmError


async def log_rewards(document: Document, row: Mapping[str, Any]) -> tuple[float, list[tuple[int, str]]]:
    """The total in nats, and the terms with their lines, one-based.

    `row` has a value for each parameter and each latent. Raises PlmError with what `plm score` says of it.
    """
    body = ast.statements(document.checked.module.program.body)
    latents = {s.name.id for s in body if isinstance(s, ast.Latent)}
    told: list[str] = []
    for name, value in row.items():
        text = value if isinstance(value, str) else json.dumps(value)
        text = f"@{text}" if text.startswith("@") else text  # no file is meant
        told += ["--value" if name.split(".", 1)[0] in latents else "--given", f"{name}={text}"]
    folder = Path(document.source.name).parent
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "posterior_lm", "score", "-", "--format", "json", *told),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=folder if folder.is_dir() else None,
        env={**os.environ, "PLM_DEBUG": "0"},
    )
    try:
        out, err = await process.communicate(document.source.text.encode("utf-8", "replace"))
    finally:
        if process.returncode is None:
            process.kill()
    try:
        found = json.loads(out)
        terms = [(t["line"], f"{t['log_reward']:+.2f}") for t in found["terms"] if t["line"]]
        return float(found["log_reward"]), terms
    except (ValueError, KeyError, TypeError):
        raise PlmError.of("PLM811", _first(err.decode("utf-8", "replace"))) from None


def _first(text: str) -> str:
    """The message of the first diagnostic of a list in JSON, which may follow lines about what took long; else the first line."""
    lines = text.strip().splitlines()
    for at, line in enumerate(lines):
        if line.startswith("["):
            with contextlib.suppress(ValueError, LookupError, TypeError):
                return str(json.loads("\n".join(lines[at:]))[0]["message"])
    return lines[0] if lines else "no answer came"
