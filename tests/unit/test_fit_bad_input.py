"""What a fit refuses, with its code, before anything is lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from posterior_lm import storage
from posterior_lm.api.query import loads
from posterior_lm.lang.diagnostics import DataError, PlmError
from posterior_lm.storage import Lock
from posterior_lm.train.adapter import WEIGHTS
from posterior_lm.train.policy import MANIFEST, read_manifest
from tests.cli import plm, process
from tests.unit.test_fit import DIGIT, DIGITS, SMALL, WORD, WORDS, fitted
from tests.unit.test_fit_resume import contents

TWO = """
lm base = "tiny"
program two(x: text) {
  latent a: text(tokens=1..3) ~ base(x)
  latent b: text(tokens=1..3) ~ base(x, a)
}
"""
MODELS = """
lm base = "tiny"
lm other = "tiny"
program models(x: text) {
  latent a: text(tokens=1..3) ~ base(x)
  latent b: text(tokens=1..3) ~ other(x)
}
"""
NONE = """
program none(x: int(0..9)) {
  latent n: int(0..9) ~ uniform(0, 9)
  observe x ~ binomial(9, 0.1 * n)
}
"""
DEAD = DIGIT.replace("factor 0 - abs", "factor log(x) - abs")
"""No value of the row whose x is 0 has a reward."""
TABLE = """
lm base = tabular("TABLE")
program table(x: text) {
  latent a: text(tokens=1..2, chars="ab", end="free") ~ base(x)
}
"""
TOKENS = {
    "tokens": ["a", "b"], "bos": False, "order": 1, "max_tokens": 8,
    "rows": {"": {"a": 0.7, "b": 0.3}},
}  # fmt: skip


def refused(out: Path, code: str, program: str, rows: Sequence[Mapping[str, object]], **more: object) -> str:
    """What is said of a fit that cannot be; nothing is left of it but perhaps an empty folder."""
    with pytest.raises(PlmError) as caught:
        fitted(out, program, rows, **more)
    assert {d.code for d in caught.value.diagnostics} == {code}, str(caught.value)
    assert not out.is_dir() or not list(out.iterdir())
    return str(caught.value)


# ------------------------------------------------------------------------------- rows


def test_no_rows(tmp_path: Path) -> None:
    shown = refused(tmp_path / "p", "PLM628", DIGIT, [])
    assert "no rows to fit `digit`" in shown and "--data" in shown


@pytest.mark.parametrize(
    ("row", "code", "said"),
    [
        ({}, "PLM601", "rows[1].x"),
        ({"x": "many"}, "PLM603", "rows[1].x"),
        ({"x": 99}, "PLM608", "rows[1].x"),
        ({"x": 1, "y": 2}, "PLM602", "rows[1].y"),
        ({"x": 1, "n": 9}, "PLM610", "rows[1]"),
        ({"x": 1, "n": "seven"}, "PLM610", "rows[1]"),
    ],
)
def test_a_row_that_does_not_fit_is_named(
    row: dict[str, object], code: str, said: str, tmp_path: Path
) -> None:
    assert said in refused(tmp_path / "p", code, DIGIT, [{"x": 0}, row, {"x": 2}])


def test_every_wrong_row_is_named_up_to_twenty(tmp_path: Path) -> None:
    shown = refused(tmp_path / "p", "PLM601", DIGIT, [{}] * 30)
    assert "rows[0].x" in shown and "rows[19].x" in shown and "rows[20].x" not in shown
    assert "10 more mistakes are not shown" in shown


def test_a_known_latent_without_the_others(tmp_path: Path) -> None:
    shown = refused(tmp_path / "p", "PLM610", TWO, [{"x": "I", "a": " am"}, {"x": "You"}])
    assert "rows[0] gives some latents and not `b`" in shown


def test_a_row_whose_support_is_empty(tmp_path: Path) -> None:
    text = DIGIT.replace("x: int(0..7)", "x: int").replace("int(0..7, lead", "int(0..x, lead")
    text = text.replace("categorical([0.3, 0.05, 0.2, 0.02, 0.25, 0.08, 0.06, 0.04])", "uniform(0, x)")
    try:
        loads(text)
    except PlmError as problem:
        pytest.skip(f"no type may depend on a parameter so: {problem.diagnostics[0].message}")
    with pytest.raises(PlmError) as caught:
        fitted(tmp_path / "p", text, [{"x": 3}, {"x": -2}])
    assert caught.value.diagnostics[0].where == "rows[1]"


# ------------------------------------------------------------------------------- programs


@pytest.mark.parametrize("objective", ["subtb", "db"])
def test_prefix_rewards_need_one_latent(objective: str, tmp_path: Path) -> None:
    shown = refused(tmp_path / "p", "PLM624", TWO, [{"x": "I"}], objective=objective)
    assert f"`{objective}`" in shown and "2 latents" in shown and "vargrad" in shown


def test_prefix_rewards_need_tokens(tmp_path: Path) -> None:
    text = DIGIT.replace('  guide n ~ base("Seen: ", x, "\\nDigit:")\n', "")
    shown = refused(tmp_path / "p", "PLM624", text, DIGITS, objective="subtb")
    assert "not drawn token by token" in shown


def test_two_models(tmp_path: Path) -> None:
    assert "`base` and `other`" in refused(tmp_path / "p", "PLM623", MODELS, [{"x": "I"}])


def test_no_model(tmp_path: Path) -> None:
    assert "no latent that a language model can draw" in refused(tmp_path / "p", "PLM623", NONE, [{"x": 1}])


def test_a_table_has_no_weights_to_adapt(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps(TOKENS))
    text = TABLE.replace("TABLE", str(tmp_path / "t.json"))
    refused(tmp_path / "p", "PLM516", text, [{"x": "a"}])


def test_layers_that_the_model_lacks(tmp_path: Path) -> None:
    shown = refused(tmp_path / "p", "PLM517", DIGIT, DIGITS, targets=["banana"])
    assert "no layer `banana`" in shown and "its linear layers are " in shown


# ------------------------------------------------------------------------------- the folder


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy") / "p"
    fitted(folder, steps=2)
    return folder


def refused_folder(out: Path, code: str, **more: Any) -> str:
    with pytest.raises(DataError) as caught:
        fitted(out, **more)
    assert [d.code for d in caught.value.diagnostics] == [code]
    return str(caught.value)


def test_a_folder_that_holds_a_policy_is_left_as_it_is(policy: Path) -> None:
    before = contents(policy)
    assert "already holds a policy" in refused_folder(policy, "PLM621")
    assert "--resume" not in refused_folder(policy, "PLM621")
    fitted(policy, resume=True)  # all is done
    assert contents(policy) == before


def test_a_folder_in_use(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from posterior_lm.storage import Lock\n"
        "with Lock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "p")], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, env={**os.environ, "PYTHONPATH": os.getcwd()},
    ) as other:  # fmt: skip
        assert other.stdout is not None and other.stdin is not None
        assert other.stdout.readline() == "held\n"
        shown = refused_folder(tmp_path / "p", "PLM621")
        assert f"in use by process {other.pid}" in shown
        assert [p.name for p in (tmp_path / "p").iterdir()] == [".lock"]
        other.stdin.close()
        other.wait()
    with Lock(tmp_path / "p"):
        pass


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("mine")
    refused_folder(tmp_path / "p", "PLM612")
    assert (tmp_path / "p").read_text() == "mine"


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="this system has no /proc")
def test_a_place_where_no_folder_can_be_made() -> None:
    refused_folder(Path("/proc/here"), "PLM612")
    assert not os.path.exists("/proc/here")


def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    folder.mkdir()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        if os.access(folder, os.W_OK):
            pytest.skip("this user may write everywhere")
        refused_folder(folder, "PLM612")
    finally:
        folder.chmod(stat.S_IRWXU)


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A disk that takes as many more files as the list says."""
    room = [0]
    real = storage.write_new

    def write(path: Path, content: bytes) -> None:
        if room[0] <= 0:
            path.write_bytes(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        room[0] -= 1
        real(path, content)

    monkeypatch.setattr(storage, "write_new", write)
    yield room


@pytest.mark.parametrize("room", [0, 1, 3, 4, 6])
def test_a_full_disk_leaves_the_last_whole_checkpoint(room: int, full: list[int], tmp_path: Path) -> None:
    """A checkpoint is three files; the fit goes on from the last whole one when there is room again."""
    full[0] = room
    shown = refused_folder(tmp_path / "p", "PLM612", checkpoint_every=2)
    assert "No space left" in shown
    found = sorted(p.name for p in (tmp_path / "p" / "checkpoints").iterdir())
    assert found == [f"step-{2 * k:06d}" for k in range(max(1, room // 3 - 1), room // 3 + 1)]
    assert not (tmp_path / "p" / MANIFEST).exists() and not (tmp_path / "p" / WEIGHTS).exists()
    full[0] = 100
    assert fitted(tmp_path / "p", resume=True, checkpoint_every=2).manifest.steps == 6


def test_a_disk_that_is_full_at_the_end_leaves_the_checkpoint(full: list[int], tmp_path: Path) -> None:
    full[0] = 6
    refused_folder(tmp_path / "p", "PLM612", checkpoint_every=3)
    assert (tmp_path / "p" / "checkpoints" / "step-000006").is_dir()
    assert not (tmp_path / "p" / MANIFEST).exists()
    full[0] = 100
    assert fitted(tmp_path / "p", resume=True, checkpoint_every=3).manifest.checked is not None


# ------------------------------------------------------------------------------- the command


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "digit.plm").write_text(DIGIT)
    (tmp_path / "two.plm").write_text(TWO)
    (tmp_path / "word.plm").write_text(WORD)
    (tmp_path / "dead.plm").write_text(DEAD)
    (tmp_path / "alike.jsonl").write_text('{"x": 1}\n' * 3)
    (tmp_path / "words_alike.jsonl").write_text(json.dumps(WORDS[0]) + "\n")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in DIGITS))
    (tmp_path / "words.jsonl").write_text("".join(json.dumps(r) + "\n" for r in WORDS))
    (tmp_path / "none.jsonl").write_text("")
    (tmp_path / "odd.jsonl").write_text('{"x": 1}\n{"x": 2, "colour": "red"}\n{"z": 1}\n')
    (tmp_path / "a_file").write_text("mine")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "exit_code", "code", "said"),
    [
        ("digit.plm --data none.jsonl", 1, "PLM6", "none.jsonl"),
        ("digit.plm --data odd.jsonl", 1, "PLM602", "rows[1].colour"),
        ("digit.plm --data odd.jsonl", 1, "PLM601", "rows[2].x"),
        ("digit.plm", 1, "PLM601", "`x`"),
        ("digit.plm --data absent.jsonl", 1, "PLM", "absent.jsonl"),
        ("digit.plm --data rows.jsonl --given y=3", 1, "PLM602", "`y`"),
        ("absent.plm --data rows.jsonl", 1, "PLM801", "absent.plm"),
        ("digit.plm --data rows.jsonl --out a_file", 1, "PLM612", "a_file is a file"),
        ("digit.plm --data rows.jsonl --out a_file/p", 1, "PLM612", "a_file is a file"),
        ("digit.plm --data rows.jsonl --budget 0", 2, "", "not a positive number of seconds"),
        ("digit.plm --data rows.jsonl --budget -5", 2, "", "not a positive number of seconds"),
        ("digit.plm --data rows.jsonl --budget nan", 2, "", "not a positive number of seconds"),
        ("digit.plm --data rows.jsonl --set budget=0", 2, "PLM802", "`budget` is above 0"),
        ("digit.plm --data rows.jsonl --steps 0", 2, "", "--steps"),
        ("digit.plm --data rows.jsonl --draws 1", 2, "", "--draws"),
        ("digit.plm --data rows.jsonl --learning-rate -1", 2, "PLM802", "`learning_rate` is above 0"),
        ("digit.plm --data rows.jsonl --objective vargard", 2, "PLM802", "did you mean `vargrad`?"),
        ("digit.plm --data rows.jsonl --set warm=3", 2, "PLM802", "did you mean `warmup`?"),
        ("digit.plm --data rows.jsonl --set warmup", 2, "PLM802", "NAME=VALUE"),
        ("digit.plm --data rows.jsonl --set warmup=x", 2, "PLM802", "`warmup` is a whole number"),
        ("digit.plm --data rows.jsonl --targets banana", 1, "PLM517", "no layer `banana`"),
        ("two.plm --given x=I --objective subtb", 1, "PLM624", "vargrad"),
        ("digit.plm --data rows.jsonl --lm other=tiny", 1, "PLM515", "`other`"),
        (
            "digit.plm --data alike.jsonl --for program",
            1,
            "PLM628",
            "all 3 rows are alike and nothing is sim",
        ),
        ("digit.plm --given x=3 --for program", 1, "PLM628", "there is one row and nothing is simulated"),
        ("digit.plm --data rows.jsonl --budget 0.001", 1, "PLM628", "a budget of 0.001 s is too small"),
        ("digit.plm --data rows.jsonl --for rows --set simulated=0.5", 2, "PLM802", "is shown no others"),
        ("digit.plm --data rows.jsonl --for all", 2, "PLM802", "`rows` or `program`"),
        ("digit.plm --data rows.jsonl --set kl=-1", 2, "PLM802", "help: leave it out for 0.05"),
        ("digit.plm --data rows.jsonl --set steps=x", 2, "PLM802", "help: leave it out, and it is chosen"),
        ("digit.plm --data rows.jsonl --from a --from b", 2, "PLM802", "--from stands twice"),
        ("digit.plm --data rows.jsonl --out d/e/p --from absent", 1, "PLM622", "absent is no policy"),
        ("digit.plm --data rows.jsonl --from absent", 1, "PLM622", "absent is no policy that can be read"),
        (
            "digit.plm --data rows.jsonl --objective sft",
            1,
            "PLM772",
            "no row to train on holds a known value",
        ),
    ],
)
def test_the_command_says_what_is_wrong(
    arguments: str, exit_code: int, code: str, said: str, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)
    small = [
        x for k, v in SMALL.items() if k not in ("steps", "draws", "rows") for x in ("--set", f"{k}={v}")
    ]
    words = arguments.split()
    out = [] if "--out" in words else ["--out", "p"]
    result = plm("fit", *words, *out, *small)
    assert result.exit_code == exit_code, result.stderr
    assert code in result.stderr and said in result.stderr
    assert "Traceback" not in result.stderr and "mistake of posterior_lm" not in result.stderr
    assert result.stdout == ""
    assert not (files / "p").exists() and not (files / "d").exists(), (
        "nothing is left of what came to nothing"
    )
    assert (files / "a_file").read_text() == "mine"


def test_a_wrong_setting_is_said_before_anything_large_is_imported(files: Path) -> None:
    asked = ["fit", "digit.plm", "--data", "rows.jsonl", "--out", "p", "--set", "rank=0"]
    code = "import os, sys\nfrom posterior_lm.cli.main import cli\nos.chdir(sys.argv[1])\ntry: cli(sys.argv[2:])\n"
    code += "except SystemExit as left: print(left.code, 'torch' in sys.modules)"
    found = process(files, *asked, code=code)
    assert found.stdout == "2 False\n" and "PLM802" in found.stderr


def test_a_folder_that_was_there_stays(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    (files / "p").mkdir()
    result = plm("fit", "digit.plm", "--data", "rows.jsonl", "--out", "p", "--from", "absent")
    assert result.exit_code == 1 and not list((files / "p").iterdir())


def test_a_row_without_a_reward_is_named_and_the_others_are_trained_on(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)
    (files / "some.jsonl").write_text('{"x": 3}\n{"x": 0}\n{"x": 5}\n')
    small = ["--steps", 4, "--rank", 2, "--draws", 8, "--set", "seeds=8", "--set", "certify_draws=20"]
    result = plm("fit", "dead.plm", "--data", "some.jsonl", "--out", "p", *small)
    assert result.exit_code == 0, result.stderr
    said = "no draw of rows[1] has a reward, by `factor log(x) - abs(n - x) * 0.7`: it is not trained on"
    assert said in result.stderr and said in read_manifest(files / "p").note
    assert "without a reward        row 1, not counted" in result.stdout
    assert "rows[0]" not in result.stderr and "rows[2]" not in result.stderr
    result = plm("fit", "dead.plm", "--given", "x=0", "--out", "q", *small)
    assert result.exit_code == 1 and "PLM629" in result.stderr and "of 8: its log reward" in result.stderr
    assert not (files / "q").exists(), "measurements of nothing"
    drawn = [*small, "--set", "listed=0"]  # by draws, where there is no list
    result = plm("fit", "dead.plm", "--data", "some.jsonl", "--out", "s", *drawn)
    assert result.exit_code == 0 and said in result.stderr and "are listed" not in result.stderr
    result = plm("fit", "dead.plm", "--given", "x=0", "--out", "q", *drawn)
    assert result.exit_code == 1 and "PLM629" in result.stderr and "of 32: its log reward" in result.stderr
    many = ["--steps", 100, "--rank", 2, "--draws", 256, "--set", "seeds=8", "--set", "listed=0"]
    assert "of 1024: its log reward" in plm("fit", "dead.plm", "--given", "x=0", "--out", "r", *many).stderr


def test_a_policy_of_another_model_is_no_beginning(
    policy: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)
    small = ["--steps", 1, "--draws", 4, "--set", "certify_draws=20", "--out", "p"]
    shutil.copytree(policy, "other")
    manifest = json.loads((files / "other" / MANIFEST).read_text())
    manifest["identity"]["digest"] = "0" * 64
    (files / "other" / MANIFEST).write_text(json.dumps(manifest))
    result = plm("fit", "digit.plm", "--given", "x=1", "--from", "other", *small)
    assert result.exit_code == 1 and "PLM625" in result.stderr and "is of another model" in result.stderr
    assert "begin from a policy of the model that is adapted here" in result.stderr


def test_alike_rows_are_fine_where_others_are_simulated(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    small = [
        x for k, v in SMALL.items() if k not in ("steps", "draws", "rows") for x in ("--set", f"{k}={v}")
    ]
    result = plm(
        "fit", "word.plm", "--data", "words_alike.jsonl", "--for", "program", "--steps", 2, "--draws", 4, *small, "--out", "p"
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "there is one row: what the policy knows of others comes of simulated pairs alone" in result.stderr
