"""What is stored: files that are written whole or not at all, the lock of who writes, values as JSON and back.

Reading goes by the classes themselves: `structured` takes the annotations of an attrs class for what must stand
in the file. A library (cattrs) was tried for it and left: it reads "3" as 3 and "abc" as ("a", "b", "c") unless
a hook forbids it for every kind of value, which takes as many lines as are here, and it has to be imported.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import json
import math
import os
import secrets
import shutil
import socket
import stat
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any

import attrs
from attrs import frozen

from posterior_lm.lang.diagnostics import DataError, PlmError, shown
from posterior_lm.lang.values import read_json

LOCK = ".lock"
LARGEST = 1 << 30
"""Bytes of a file that is read whole: far above any result, far below what would stop a machine."""

# ------------------------------------------------------------------------------- writing


def unnameable(name: str | Path) -> str | None:
    """Why nothing on the disk can have this name; None where something can."""
    if not os.fspath(name):
        return "its name is empty"
    try:
        os.lstat(name)
    except OSError as problem:
        return "its name is too long" if problem.errno == errno.ENAMETOOLONG else None
    except ValueError as problem:  # a null byte, or half of a character
        return str(problem)
    return None


def folder_named(name: str | Path) -> Path:
    """The folder of this name, which need not exist. Raises DataError PLM612 for a name that none can have.

    An empty one is none, though `Path` takes it for the working folder.
    """
    if why := unnameable(name):
        help = "write . for the folder that the command runs in"
        message = f"no result can be written into {shown(str(name))}: {why}"
        raise DataError.of("PLM612", message, help=None if str(name) else help)
    return Path(name)


def check_place(path: str | Path, code: str, such_as: str) -> None:
    """Raises DataError of this code where no file of this name can be written. Call it before any work."""
    file, why, help = Path(path), unnameable(path), None
    folder = file if why else Path(os.path.realpath(file)).parent
    if why:
        pass
    elif file.is_dir():
        why, help = "it is a folder", f"name a file in it, such as {such_as}"
    elif folder.exists() and not folder.is_dir():
        why = "its folder is a file"
    elif not folder.is_dir():
        why, help = "its folder is missing", f"make it: mkdir -p {folder}"
    elif file.exists() and not file.is_file():
        why = "it is no regular file"
    elif not os.access(file if file.exists() else folder, os.W_OK) or not os.access(folder, os.W_OK):
        why = "permission denied"
    if why:
        raise DataError.of(code, f"cannot write {path}: {why}", where=str(path), help=help)


@contextmanager
def writing_into(folder: Path) -> Iterator[None]:
    """Makes an OSError inside a DataError PLM612: a full disk, a folder that cannot be written."""
    try:
        yield
    except OSError as problem:
        message = f"cannot write into {folder}: {problem.strerror or problem}"
        raise DataError.of("PLM612", message, where=str(folder)) from problem


def write_whole(path: Path, content: bytes) -> None:
    """`replace` as it is done to results: the folder is named where it fails. Raises DataError PLM612."""
    with writing_into(path.parent):
        replace(path, content)


def replace(path: Path, content: bytes) -> None:
    """Write or replace one file, whole or not at all, forced to the disk. Raises OSError.

    Its permissions are those that an ordinary write leaves: those it had, or what the umask allows, and a link
    is followed. What a kill leaves of it, under another name, `remove_asides` removes.
    """
    path = Path(os.path.realpath(path))
    aside = _aside(path)
    try:
        write_new(aside, content)
        if path.exists():
            aside.chmod(stat.S_IMODE(path.stat().st_mode))
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def kept_first(path: Path, make: Callable[[], bytes]) -> bytes:
    """What is in the file, which is made where it is absent: of several processes all get what the first wrote.

    Raises OSError where it cannot be read or written.
    """
    with suppress(FileNotFoundError):
        return read_bytes(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(path)
    try:
        write_new(aside, make())
        with suppress(FileExistsError):
            os.link(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return read_bytes(path)


@contextmanager
def together(folder: Path, *names: str) -> Iterator[Path]:
    """A folder for files that belong together, which are moved into `folder` at the end, in this order.

    All are on the disk in full before the first is moved, so a failure leaves earlier ones as they were. A kill
    between two moves leaves files of both; the last file should hold the digests of the others, to find that
    out. What a kill leaves under the other name `remove_asides` removes. Raises DataError PLM612.
    """
    with writing_into(folder):
        folder.mkdir(parents=True, exist_ok=True)
        aside = _aside(folder / "files")
        try:
            aside.mkdir()
            yield aside
            for name in names:
                with open(aside / name, "rb+") as file:
                    os.fsync(file.fileno())
            sync_folder(aside)
            for name in names:
                os.replace(aside / name, folder / name)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        sync_folder(folder)


def remove_asides(folder: Path) -> None:
    """Remove what killed writes left in the folder and those in it; for whoever holds its lock. Raises DataError PLM612."""
    with writing_into(folder):
        for left in (*folder.glob(".*.tmp-*"), *folder.glob("*/.*.tmp-*")):
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def _aside(path: Path) -> Path:
    return path.parent / f".{path.name}.tmp-{secrets.token_hex(4)}"


def write_new(path: Path, content: bytes) -> None:
    """Write a file that does not exist yet and force it to the disk."""
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk: a file is only as safe as its name."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as problem:
        # Some network file systems cannot do this for folders; there is no more to be done on them.
        if problem.errno not in (errno.EINVAL, errno.EBADF):
            raise
    finally:
        os.close(handle)


# ------------------------------------------------------------------------------- the lock


class Lock:
    """Marks a folder, which is made where it is absent, as in use by this process.

    A context manager; the mark is the file `.lock` with the process in it, and goes at the end.
    Raises DataError PLM621 where the folder is in use already, by a live process of this host or by
    any of another host, and PLM612 where nothing can be written. The mark of a dead process is
    taken over: one that was killed had no time to remove it.

    filelock promises less. Its `SoftFileLock` takes over a mark that it cannot read, so that of another version
    too, after two seconds; an empty mark, left by a kill, blocks it for ever, and so does a killed process that
    nobody has waited for. Its `FileLock` is the kernel's `flock`: on a network file system that need not bind
    other hosts, and it cannot say who holds the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / LOCK
        self._mark = b""

    def __enter__(self) -> Lock:
        pid = os.getpid()
        self._mark = json.dumps(
            {"pid": pid, "host": socket.gethostname(), "started": _state(pid)[1]}
        ).encode()
        with writing_into(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with alone(self.folder):
                self._remove_dead()
                try:
                    handle = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
                except FileExistsError:  # without a lock of the kernel another may come between
                    self._remove_dead()
                    raise
                try:
                    os.write(handle, self._mark)
                except BaseException:
                    self.path.unlink()
                    raise
                finally:
                    os.close(handle)
        return self

    def __exit__(self, *problem: object) -> None:
        # Only one's own: a child process that leaves the block after a fork has another number.
        with suppress(OSError):
            if self.path.read_bytes() == self._mark and json.loads(self._mark)["pid"] == os.getpid():
                self.path.unlink()

    def _remove_dead(self) -> None:
        """Remove the mark of a dead process; raise DataError PLM621 for any other."""
        try:
            mark = self.path.read_bytes()
        except FileNotFoundError:
            return
        if mark:  # an empty one was left by a kill between its making and its writing
            self._refuse_live(mark)
        self.path.unlink()

    def _refuse_live(self, mark: bytes) -> None:
        try:
            holder = json.loads(mark)
            pid, host, started = int(holder["pid"]), str(holder["host"]), holder.get("started")
        except (ValueError, KeyError, TypeError, AttributeError):
            who = "a process that left no number"
        else:
            if host == socket.gethostname() and not _alive(pid, started):
                return
            who = f"process {pid}" + ("" if host == socket.gethostname() else f" on {host}")
        raise DataError.of(
            "PLM621",
            f"the folder {self.folder} is in use by {who}",
            where=str(self.folder),
            help=f"wait for it to end or choose another folder; if it runs no more, delete {self.path}",
        )


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """One process at a time, the others wait: of two that find the same dead mark, the second must find the first's.

    By a lock of the kernel on a folder, or on a file that is made, which ends with its process at the latest.
    Some network file systems have none; there two that come in the same instant may both go on.
    """
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _alive(pid: int, started: object) -> bool:
    """Whether a process of this host runs, and is the one that began then: numbers are used again."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass  # it runs, as another user
    except (ProcessLookupError, OverflowError):
        return False
    state, began = _state(pid)
    return state not in ("Z", "X") and (began is None or started is None or began == started)


def _state(pid: int) -> tuple[str | None, str | None]:
    """The state letter of a process and when it began, by proc(5); None where the system has no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None, None
    # The second field is the command in brackets, with whatever characters it likes.
    after = fields.rpartition(")")[2].split()
    return after[0], after[19]


# ------------------------------------------------------------------------------- reading


@contextmanager
def refusing(refuse: Callable[[str], PlmError], *more: type[BaseException]) -> Iterator[None]:
    """Makes what a file does wrong inside the caller's error, which is given the reason in words.

    `more` are exceptions of a library that reads it.
    """
    wrong: tuple[type[BaseException], ...] = (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        RecursionError,
        *more,
    )
    try:
        yield
    except wrong as problem:
        why = (isinstance(problem, OSError) and problem.strerror) or str(problem) or type(problem).__name__
        raise refuse(why.splitlines()[0].rstrip(".")) from problem


def read_bytes(path: Path, most: int = LARGEST) -> bytes:
    """The content of a regular file. Raises OSError, and ValueError for anything else or more."""
    if not stat.S_ISREG(path.stat().st_mode):  # asked first: to open a pipe would wait for who writes
        raise ValueError("it is no regular file")
    with open(path, "rb") as file:
        return read_most(file, most)


def read_most(file: typing.BinaryIO, most: int = LARGEST) -> bytes:
    """What stands in an open file, of any kind. Raises ValueError for more than so many bytes."""
    content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it has more than {most:,} bytes")
    return content


def read_object(path: Path, most: int = LARGEST) -> dict[str, Any]:
    """The JSON object in a file. Raises OSError, and ValueError for anything else."""
    return object_of(read_bytes(path, most))


def object_of(content: bytes | str) -> dict[str, Any]:
    """The JSON object that a text is. Raises ValueError for anything else."""
    found = read_json(content)
    if not isinstance(found, dict):
        raise ValueError("it is not a JSON object")
    return found


# ------------------------------------------------------------------------------- values


def plain(value: Any, *, named: bool = False) -> Any:
    """A value as JSON has it: attrs classes as objects, tuples as lists, numbers of numpy and torch as Python's.

    What is not finite is null; with `named` an infinity is the text "inf" or "-inf", and NaN stays what it is.
    """
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        value = float(value)  # of numpy's too, which is one of Python's by inheritance
        if math.isfinite(value) or (named and math.isnan(value)):
            return value
        return str(value) if named else None
    if isinstance(value, Mapping):
        return {str(key): plain(item, named=named) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, named=named) for item in value]
    if attrs.has(type(value)):
        return {f.name: plain(getattr(value, f.name), named=named) for f in attrs.fields(type(value))}
    return plain(value.tolist(), named=named) if hasattr(value, "tolist") else value  # which json refuses


@frozen
class Stored:
    """What a number may be where it is stored: `Annotated[float, Stored(low=0)]`.

    `null` is what null stands for, `infinite` the infinities that may stand there by name.
    """

    low: float = -math.inf
    high: float = math.inf
    null: float | None = None
    infinite: tuple[str, ...] = ()


_WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", NoneType: "null",
          list: "a list", dict: "an object"}  # fmt: skip


def structured(kind: Any, value: Any, where: str = "") -> Any:
    """The value of an annotation that stands in JSON as `plain` writes it.

    Of attrs classes (an object by the names of the fields, or a list in their order), mappings, tuples, `Stored`
    numbers, unions of plain kinds, and these kinds. Strict, since what is stored was written whole: nothing is
    missing or unknown, and no kind passes for another. Raises ValueError naming the place, as `rows[2].ess`.
    """
    if kind is Any or (type(value) is kind and (kind is not float or math.isfinite(value))):
        return value
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    place = f"`{where}`" if where else "it"
    if origin is Annotated:
        return _number(parts[0], parts[1], value, where)
    if origin in (UnionType, typing.Union):
        first, *more = (part for part in parts if part is not NoneType)
        absent = value is None and NoneType in parts
        return value if absent or type(value) in more else structured(first, value, where)
    if origin is tuple and isinstance(value, list | tuple):
        if parts == (int, ...) and set(map(type, value)) <= {int}:  # token ids: nothing else is as many
            return tuple(value)
        kinds = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        if len(kinds) != len(value):
            raise ValueError(f"{place} has {len(value)} parts, not {len(kinds)}")
        return tuple(
            structured(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True))
        )
    if origin is Mapping and isinstance(value, dict):
        return {name: structured(parts[1], item, _below(where, name)) for name, item in value.items()}
    if attrs.has(kind) and isinstance(value, dict | list):
        hints = _hints(kind)
        if isinstance(value, list):
            if len(value) != len(hints):
                raise ValueError(f"{place} has {len(value)} parts, not {len(hints)}")
            value = dict(zip(hints, value, strict=True))
        if odd := sorted(set(value) ^ set(hints)):
            raise ValueError(f"{place} {'lacks' if odd[0] in hints else 'has an unknown'} `{odd[0]}`")
        return kind(
            **{name: structured(hint, value[name], _below(where, name)) for name, hint in hints.items()}
        )
    if kind is float and type(value) is int and abs(value) <= sys.float_info.max:
        return float(value)
    wanted = (
        "a finite number" if kind is float else _WORDS.get(kind, _WORDS[list if origin is tuple else dict])
    )
    raise ValueError(f"{place} is {_WORDS.get(type(value), 'odd')}, not {wanted}")


def _number(kind: Any, limits: Stored, value: Any, where: str) -> float:
    if value is None and limits.null is not None:
        return limits.null
    if isinstance(value, str) and value in limits.infinite:
        return float(value)
    number: float = structured(kind, value, where)
    if not limits.low <= number <= limits.high:
        bound = f"below {limits.low:g}" if number < limits.low else f"above {limits.high:g}"
        raise ValueError(f"`{where}` is {number!r}, {bound}")
    return number


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    found = typing.get_type_hints(kind, include_extras=True)
    return {f.name: found[f.name] for f in attrs.fields(kind)}


def _below(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
