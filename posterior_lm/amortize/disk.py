"""An output folder: files that are written whole or not at all, and the lock of who writes."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from posterior_lm.lang.diagnostics import DataError, error

LOCK = ".lock"


@contextmanager
def writing_into(folder: Path) -> Iterator[None]:
    """Makes an OSError inside a DataError PLM612: a full disk, a folder that cannot be written."""
    try:
        yield
    except OSError as problem:
        message = f"cannot write into {folder}: {problem.strerror or problem}"
        raise DataError(error("PLM612", message, where=str(folder))) from problem


def write_whole(path: Path, content: bytes) -> None:
    """Write or replace one file, whole or not at all, forced to the disk. Raises DataError PLM612.

    What a kill leaves of it, under another name, `checkpoint.clean` removes.
    """
    aside = path.parent / f".{path.name}.tmp-{secrets.token_hex(4)}"
    with writing_into(path.parent):
        try:
            write_new(aside, content)
            os.replace(aside, path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


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


class Lock:
    """Marks a folder, which is made where it is absent, as in use by this process.

    A context manager; the mark is the file `.lock` with the process in it, and goes at the end.
    Raises DataError PLM621 where the folder is in use already, by a live process of this host or by
    any of another host, and PLM612 where nothing can be written. The mark of a dead process is
    taken over: one that was killed had no time to remove it.
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
            with _alone(self.folder):
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
        raise DataError(
            error(
                "PLM621",
                f"the folder {self.folder} is in use by {who}",
                where=str(self.folder),
                help=f"wait for it to end or choose another folder; if it runs no more, delete {self.path}",
            )
        )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time: of two that find the same dead mark, the second must find the first's.

    By a lock of the kernel on the folder itself, which ends with its process at the latest. Some
    network file systems have none; there two that take over in the same instant may both get it.
    """
    handle = os.open(folder, os.O_RDONLY)
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
