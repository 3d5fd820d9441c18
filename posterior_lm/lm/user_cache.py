"""The user's cache folder: digests of large files, and folders that are made once out of a model's file.

Nothing in it is needed: all of it can be deleted at any time, and where it cannot be written there is a
notice and everything is made anew. Processes that make the same folder at once wait for the first.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

from posterior_lm import storage
from posterior_lm.lm.notices import notice

VARIABLE = "POSTERIOR_LM_CACHE"
MANIFEST = "copy.json"
"""Written last into a folder that was made: the size and the digest of every file in it."""
LARGE = 2**22
"""Bytes from which the digest of a file is kept; smaller ones are hashed in no time."""


def cache_folder() -> Path:
    """$POSTERIOR_LM_CACHE, else `posterior_lm` where the system keeps caches. It need not exist."""
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "posterior_lm"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "posterior_lm"


@cache
def cannot_write(folder: Path, why: str) -> None:
    """Say it, once."""
    notice(
        f"the cache folder {folder} cannot be written ({why}), so a start is slower; ${VARIABLE} names another"
    )


# ------------------------------------------------------------------------------- digests


def file_digest(path: Path) -> str:
    """SHA-256 of a whole file. That of a large one is kept until the file changes. Raises OSError."""
    status = path.stat()
    if status.st_size < LARGE:
        return _digest(path)
    # A change of content moves the time of change, which no program can set.
    stamp = [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    name = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:32]
    kept = cache_folder() / "digests" / f"{name}.json"
    with suppress(OSError, ValueError):
        known = storage.read_object(kept)
        if known.get("stamp") == stamp and isinstance(known.get("sha256"), str):
            return known["sha256"]
    found = _digest(path)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        storage.replace(kept, json.dumps({"stamp": stamp, "sha256": found}).encode())
    except OSError as problem:
        cannot_write(cache_folder(), (problem.strerror or str(problem)).lower())
    return found


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ------------------------------------------------------------------------------- folders


def kept_folder(name: str) -> Path | None:
    """The folder of this name as `made_once` left it; None where it is absent or not whole."""
    folder = cache_folder() / "models" / name
    return folder if _is_whole(folder) else None


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """The folder of this name, filled by `make` where it is absent or damaged.

    It appears whole or not at all. `make` raises OSError where it cannot write; then the folder is a
    temporary one, gone at the end of the process. Raises OSError where that cannot be written either.
    """
    found = kept_folder(name)
    if found is not None:
        return found
    home = cache_folder() / "models"
    try:
        home.mkdir(parents=True, exist_ok=True)
        with storage.alone(home / f"{name}.lock"):
            return kept_folder(name) or _make(home, name, make)
    except OSError as problem:
        cannot_write(cache_folder(), (problem.strerror or str(problem)).lower())
    folder = Path(_temporary().name) / name
    folder.mkdir()
    make(folder)
    return folder


@cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="posterior_lm-")


def _make(home: Path, name: str, make: Callable[[Path], None]) -> Path:
    for left in home.glob(f".{name}.*"):  # by a process that was killed: who is here is alone
        shutil.rmtree(left, ignore_errors=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=home))
    try:
        make(aside)
        files = {path.name: [path.stat().st_size, _digest(path)] for path in sorted(aside.iterdir())}
        storage.replace(aside / MANIFEST, json.dumps({"files": files}).encode())
        shutil.rmtree(home / name, ignore_errors=True)
        os.replace(aside, home / name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    storage.sync_folder(home)
    return home / name


def _is_whole(folder: Path) -> bool:
    try:
        files = storage.read_object(folder / MANIFEST)["files"]
        present = {path.name for path in folder.iterdir()} - {MANIFEST}
        return present == set(files) and all(
            (folder / name).stat().st_size == size and file_digest(folder / name) == digest
            for name, (size, digest) in files.items()
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False
