"""Files written whole, and the lock of an output folder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from posterior_lm import storage
from posterior_lm.lang.diagnostics import DataError
from posterior_lm.storage import Lock, sync_folder, write_whole
from tests.conftest import ROOT


def mark(folder: Path, **fields: object) -> None:
    (folder / ".lock").write_text(json.dumps({"host": socket.gethostname(), **fields}))


def refused(folder: Path) -> str:
    """What a second process is told; the lock stays as it is."""
    before = (folder / ".lock").read_bytes()
    with pytest.raises(DataError) as caught, Lock(folder):
        pass
    assert [d.code for d in caught.value.diagnostics] == ["PLM621"]
    assert (folder / ".lock").read_bytes() == before
    assert sorted(p.name for p in folder.iterdir()) == [".lock"]
    return str(caught.value)


def taken(folder: Path) -> None:
    with Lock(folder):
        assert json.loads((folder / ".lock").read_text())["pid"] == os.getpid()
        assert [p.name for p in folder.iterdir()] == [".lock"]
    assert list(folder.iterdir()) == []


# ------------------------------------------------------------------------------- the lock


def test_a_folder_is_locked_and_let_go(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "out"
    with Lock(folder):
        assert f"the folder {folder} is in use by process {os.getpid()}\n" in refused(folder)
    assert list(folder.iterdir()) == []
    with pytest.raises(KeyboardInterrupt), Lock(folder):
        raise KeyboardInterrupt
    taken(folder)


def test_a_live_process_keeps_it(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        try:
            mark(tmp_path, pid=other.pid)
            shown = refused(tmp_path)
        finally:
            other.kill()
    assert f"in use by process {other.pid}\n" in shown and f"delete {tmp_path / '.lock'}" in shown
    taken(tmp_path)


def test_a_killed_process_loses_it(tmp_path: Path) -> None:
    script = "import os, signal, sys; from pathlib import Path; from posterior_lm.storage import Lock\n"
    script += "with Lock(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT)
    try:
        # Left unreaped: nobody has waited for it, so its number is still there.
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == child.pid
        os.kill(child.pid, 0)
        taken(tmp_path)
    finally:
        child.wait()


def test_a_number_used_again_is_another_process(tmp_path: Path) -> None:
    with Lock(tmp_path):
        own = json.loads((tmp_path / ".lock").read_text())
    mark(tmp_path, **own)
    refused(tmp_path)
    mark(tmp_path, **{**own, "started": str(int(own["started"]) - 1)})
    taken(tmp_path)


def test_a_system_without_proc_goes_by_the_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_state", lambda pid: (None, None))
    mark(tmp_path, pid=os.getpid(), started="5")
    refused(tmp_path)
    with subprocess.Popen([sys.executable, "-c", ""]) as other:
        pass
    mark(tmp_path, pid=other.pid, started="5")
    taken(tmp_path)


def test_another_user_s_process_is_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(pid: int, signal: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    mark(tmp_path, pid=os.getpid())
    monkeypatch.setattr(os, "kill", kill)
    refused(tmp_path)


def test_another_host_is_believed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as other:
        pass
    mark(tmp_path, pid=other.pid, host="elsewhere")
    assert f"process {other.pid} on elsewhere" in refused(tmp_path)


@pytest.mark.parametrize("text", ["mine", "[]", '{"pid": "x"}', '{"pid": 1}', "\xff"])
def test_a_foreign_lock_is_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / ".lock").write_text(text, encoding="latin-1")
    assert "in use by a process that left no number" in refused(tmp_path)


def test_numbers_that_no_process_has(tmp_path: Path) -> None:
    mark(tmp_path, pid=2**70)
    taken(tmp_path)


def test_a_file_system_without_kernel_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with Lock(tmp_path):
        refused(tmp_path)
    taken(tmp_path)


def test_one_that_comes_between_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.open

    def late(path: Path, *arguments: int) -> int:
        if path == tmp_path / ".lock":
            mark(tmp_path, pid=os.getpid())
        return original(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", late)
        with pytest.raises(DataError, match="PLM621"), Lock(tmp_path):
            pass
    refused(tmp_path)


def test_an_empty_lock_was_left_by_a_kill(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    taken(tmp_path)


def test_a_lock_that_is_not_ours_any_more_stays(tmp_path: Path) -> None:
    with Lock(tmp_path):
        mark(tmp_path, pid=1)
    assert (tmp_path / ".lock").exists()


def test_a_child_that_leaves_the_block_does_not_unlock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Lock(tmp_path) as lock, monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: 1)
        lock.__exit__()
        assert (tmp_path / ".lock").exists()


def test_a_full_disk_leaves_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(handle: int, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(DataError, match=r"PLM612.*No space left"), Lock(tmp_path):
            pass
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="PLM612"), Lock(tmp_path / "file"):
        pass


RACE = """
import json, os, random, sys, time
from pathlib import Path
from posterior_lm.storage import Lock
from posterior_lm.lang.diagnostics import DataError

folder, inside = Path(sys.argv[1]), Path(sys.argv[2])
dead = os.fork()
if not dead:
    os._exit(0)
os.waitpid(dead, 0)
children = []
for seed in range(6):
    child = os.fork()
    if not child:
        chance, entered = random.Random(seed), 0
        while entered < 60:
            try:
                with Lock(folder):
                    os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
                    time.sleep(chance.uniform(0, 0.002))
                    inside.unlink()
                    entered += 1
                    if chance.random() < 0.5:  # as a killed one would leave it
                        (folder / ".lock").write_bytes(json.dumps(
                            {"pid": dead, "host": os.uname().nodename}).encode())
            except DataError as problem:
                assert problem.diagnostics[0].code == "PLM621", problem
            except BaseException as problem:
                print(repr(problem), file=sys.stderr)
                os._exit(1)
            time.sleep(chance.uniform(0, 0.002))
        os._exit(0)
    children.append(child)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


def test_of_many_that_take_over_one_gets_it(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", RACE, str(tmp_path / "out"), str(tmp_path / "inside")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------------------- files


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "manifest.json"
    write_whole(path, b"one")
    write_whole(path, b"two")
    assert path.read_bytes() == b"two"

    def fails(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fails)
            with pytest.raises(DataError, match=r"PLM612.*No space left"):
                write_whole(path, b"three")
        assert path.read_bytes() == b"two" and [p.name for p in tmp_path.iterdir()] == ["manifest.json"]
    with pytest.raises(DataError, match="PLM612"):
        write_whole(tmp_path / "absent" / "file", b"")


def test_bytes_are_on_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    sync, replace = os.fsync, os.replace

    def synced(handle: int) -> None:
        events.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name.split(".tmp-")[0])
        sync(handle)

    def replaced(old: Path, new: Path) -> None:
        events.append("replace")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    write_whole(tmp_path / "manifest.json", b"one")
    assert events == [".manifest.json", "replace", tmp_path.name]


def test_a_file_system_that_cannot_sync_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fails)
    number = errno.EINVAL
    sync_folder(tmp_path)
    number = errno.EIO
    with pytest.raises(OSError, match="Input/output"):
        sync_folder(tmp_path)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "empty"), ("x\0y", "null byte"), ("\ud800", "surrogates"), ("a" * 300, "too long"), (Path("x\0"), "null"),
        (".", None), (Path(""), None), ("no/such", None), ("/dev/null/x", None), ("\udcff", None),
    ],
    ids=range(10),
)  # fmt: skip
def test_names_that_nothing_can_have(name: str | Path, why: str | None) -> None:
    assert (storage.unnameable(name) or "") == "" if why is None else why in (storage.unnameable(name) or "")
    if why is None:
        assert storage.folder_named(name) == Path(name)
    else:
        with pytest.raises(DataError, match="PLM612"):
            storage.folder_named(name)
