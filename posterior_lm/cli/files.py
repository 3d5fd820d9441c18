"""Program files as commands name them, and writing them back whole or not at all."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from posterior_lm import storage
from posterior_lm.lang.diagnostics import CompileError, DataError
from posterior_lm.lang.parser import read_source
from posterior_lm.lang.source import Source
from posterior_lm.storage import folder_named


def programs(names: Iterable[str]) -> list[str]:
    """The files named, folders replaced by the `.plm` files in them.

    Raises CompileError PLM801 for a folder without any.
    """
    found: list[str] = []
    for name in names:
        if name != "-" and os.path.isdir(name):
            inside = sorted(str(path) for path in Path(name).rglob("*.plm") if path.is_file())
            if not inside:
                message, help = (
                    f"the folder {name} holds no .plm file",
                    "name a program, or a folder that holds one",
                )
                raise CompileError.of("PLM801", message, where=name, help=help)
            found += inside
        else:
            found.append(name)
    return list(dict.fromkeys(found))


def read(name: str) -> Source:
    """The text of a program; `-` is standard input. Raises CompileError PLM801."""
    if name != "-":
        return read_source(name)
    data = sys.stdin.buffer.read()
    try:
        return Source("<stdin>", data.decode("utf-8"))
    except UnicodeDecodeError as wrong:
        message = f"standard input is not UTF-8 text: byte {wrong.start} is 0x{data[wrong.start]:02X}"
        raise CompileError.of("PLM801", message, where="<stdin>", help="send it as UTF-8") from None


def replace(name: str, text: str) -> None:
    """Writes a file whole or not at all, keeping its permissions. Raises CompileError PLM805."""
    try:
        if not os.access(name, os.W_OK):
            raise PermissionError(13, "permission denied")
        storage.replace(Path(name), text.encode())
    except OSError as problem:
        raise CompileError.of(
            "PLM805", f"cannot write {name}: {(problem.strerror or str(problem)).lower()}", where=name
        ) from None


def check_result(name: str, program: str, given: Iterable[str], data: str | None) -> None:
    """Raises DataError PLM805 where the result would replace a file that the command reads.

    `given` are the values of `--given`, some of which name a file. Called before any work is done.
    """
    values = [text.partition("=")[2] for text in given]
    named = [v[1:] for v in values if v.startswith("@") and not v.startswith("@@")]
    for read in (program, *named, *([] if data is None else [data])):
        if read != "-" and os.path.realpath(read) == os.path.realpath(name):
            problem = f"cannot write {name}: this command reads it"
            raise DataError.of("PLM805", problem, where=name, help="name another file for the result")


def check_folder(name: str, file: str | None = None) -> None:
    """Raises DataError PLM612 where nothing can be written into a folder of this name, or not this file.

    Called before any work is done.
    """
    path = folder_named(name).absolute()
    existing = next(p for p in (path, *path.parents) if p.exists())
    if not existing.is_dir():
        raise DataError.of("PLM612", f"cannot write into {name}: {existing} is a file", where=name)
    if not os.access(existing, os.W_OK):
        raise DataError.of("PLM612", f"cannot write into {name}: permission denied", where=name)
    if file is not None and (path / file).is_dir():
        raise DataError.of("PLM612", f"cannot write into {name}: {file} in it is a folder", where=name)
