"""`plm score`, `plm run` and `plm predict`: what they compute, print and save."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

import posterior_lm
from posterior_lm.api.posterior import Posterior
from posterior_lm.cli.given import texts
from tests.cli import FOLDER, ROWS, WALK, plm

GIVEN = ("--given", "start=a", "--given", "end=a")
# P(z | "a") P("a" | z)² on the table of letters.json: z = "." has 1/4 (3/4)², "b." 5/8 3/8 (3/4)², …
PRIOR = {".": 1 / 4, "b.": 15 / 64, "ba.": 5 / 64, "a.": 1 / 32, "ab.": 15 / 512, "aa.": 1 / 256}
EVIDENCE = math.log(sum(PRIOR.values()) * 9 / 16)

PROGRAM = """lm base = "{lm}"

program p(start: text, weight: real = 1.0, top: int(0..9) = 3, flag: bool = true,
          rows: table(a: text, n: int)) {{
  latent z: text(tokens=1..3, stop=".") ~ base(start)
  factor weight * chars(z)
}}
"""


def given(*values: str) -> list[str]:
    """`--given` for the program above, with what it needs and was not given."""
    named = {v.partition("=")[0]: v for v in ("start=a", "rows=[]", *values)}
    return [part for value in named.values() for part in ("--given", value)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "p.plm"
    found.write_text(PROGRAM.format(lm=FOLDER / "letters.json"), encoding="utf-8")
    return found


def asked(*args: object, **more: object) -> dict:
    result = plm(*args, "--format", "json", **more)  # type: ignore[arg-type]
    assert result.exit_code == 0 and result.stderr == "", result.stderr
    return json.loads(result.stdout)


# ------------------------------------------------------------- the numbers and their shapes


def test_run_prints_the_posterior_in_the_documented_shape() -> None:
    found = asked("run", WALK, *GIVEN)
    assert list(found) == [
        "program", "fingerprint", "lm", "method", "reason", "seed", "log_evidence", "log_evidence_se",
        "ess", "khat", "least_ess", "ancestors", "rhat", "bulk_ess", "acceptance", "n", "notes", "respelled", "draws",
    ]  # fmt: skip
    assert found["program"] == "walk" and found["method"] == "exact" and found["n"] == 6
    assert found["fingerprint"] == posterior_lm.load(WALK).fingerprint
    assert found["ess"] is None and found["khat"] is None and found["log_evidence_se"] == 0.0
    assert found["log_evidence"] == pytest.approx(EVIDENCE)
    total = sum(PRIOR.values())
    assert {d["values"]["z"]: d["weight"] for d in found["draws"]} == pytest.approx(
        {z: p / total for z, p in PRIOR.items()}
    )
    for draw in found["draws"]:
        assert list(draw) == ["values", "weight", "log_reward"]
        assert draw["log_reward"] == pytest.approx(math.log(PRIOR[draw["values"]["z"]] * 9 / 16))
    weights = [d["weight"] for d in found["draws"]]
    assert weights == sorted(weights, reverse=True) and sum(weights) == pytest.approx(1.0)


def test_run_says_where_a_value_has_the_mass_of_others(tmp_path: Path) -> None:
    """PLM905 as a warning and with the verdict, by the bounds that are given; what is scored behind the number ends it."""
    table = {"tokens": [*"0123456789."], "max_tokens": 4, "rows": {"": {c: 0.1 for c in "012345678."}}}
    (tmp_path / "digits.json").write_text(json.dumps(table), encoding="utf-8")
    file = tmp_path / "age.plm"
    text = 'lm base = tabular("digits.json")\n\nprogram age(most: int = 12) {\n  latent n: int(1..most) ~ base()\n}\n'
    file.write_text(text, encoding="utf-8")
    said = plm("run", file)
    assert said.stderr.startswith("warning[PLM905]: the number 1 of 'n' begins the number 10")
    assert (
        "Mind that the number 1 of 'n' begins the number 10: a number scores only its own digits"
        in said.stdout
    )
    (note,) = json.loads(plm("run", file, "--format", "json").stdout)["notes"]
    assert note in said.stdout
    assert asked("run", file, "--given", "most=9")["notes"] == []
    file.write_text(text.replace("base()\n", 'base()\n  observe "." ~ base(n)\n'), encoding="utf-8")
    weights = {d["values"]["n"]: d["weight"] for d in asked("run", file)["draws"]}
    assert weights["1"] == pytest.approx(10 * weights["10"]), "and then both pay for it"


def test_importance_obeys_n_and_the_seed() -> None:
    one, again, other = (
        asked("run", WALK, *GIVEN, "--method", "importance", "-n", 300, "--seed", s) for s in (1, 1, 2)
    )
    assert one == again and one["draws"] != other["draws"]
    assert one["n"] == 300 and one["seed"] == 1 and 0 < one["ess"] <= 300 and one["log_evidence_se"] > 0
    assert one["log_evidence"] == pytest.approx(EVIDENCE, abs=0.3)
    assert sum(d["weight"] for d in one["draws"]) == pytest.approx(1.0)
    assert len({d["values"]["z"] for d in one["draws"]}) == len(one["draws"])


def test_rows_have_seeds_of_their_own_as_the_help_says(tmp_path: Path) -> None:
    """The first row's is that of the command; equal rows are drawn anew, and the same again."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"start": "a", "end": "a"}\n' * 2)
    words = ("run", WALK, "--data", rows, "-n", 8, "--seed", 3, "--method", "importance")
    first, second = asked(*words)
    assert first["seed"] == 3 != second["seed"] and first["draws"] != second["draws"]
    assert asked(*words) == [first, second] and asked(*words, "--row", 1) == second
    told = " ".join(plm("run", "--help").stdout.split())
    assert "Each row has a seed of its own" in told and "--budget is for each row" in told


def test_rows_give_a_list_and_one_row_an_object() -> None:
    both = asked("run", WALK, "--data", ROWS)
    assert isinstance(both, list) and len(both) == 2
    assert asked("run", WALK, "--data", ROWS, "--row", 1) == both[1] != both[0]
    again = asked("run", WALK, "--data", ROWS, "--given", "start=b", "--given", "end=b")
    assert [{**one, "seed": 0} for one in again] == [{**both[1], "seed": 0}] * 2  # a list has no chance in it
    lines = Path(ROWS).read_text()
    assert asked("run", WALK, "--data", "-", input=lines) == both
    assert asked("run", WALK, "--data", "-", input=lines.splitlines()[0]) == both[0]


def test_score_is_a_sum_of_terms_in_the_documented_shape() -> None:
    found = asked("score", WALK, *GIVEN, "--value", "z=ba.")
    assert list(found) == ["program", "fingerprint", "log_reward", "terms"]
    assert found["terms"] == [
        {"statement": "latent z", "line": 5, "log_reward": pytest.approx(math.log(PRIOR["ba."]))},
        {"statement": "observe end", "line": 6, "log_reward": pytest.approx(2 * math.log(3 / 4))},
    ]
    assert found["log_reward"] == pytest.approx(sum(t["log_reward"] for t in found["terms"]))
    assert len(asked("score", WALK, "--data", ROWS, "--value", "z=.")) == 2


def test_minus_infinity_is_null(path: Path) -> None:
    path.write_text(
        path.read_text().replace("factor weight * chars(z)", 'condition contains(z, "b")'), encoding="utf-8"
    )
    found = asked("score", path, *given(), "--value", "z=a.")
    assert found["log_reward"] is None and found["terms"][1]["log_reward"] is None
    assert "-inf" in plm("score", path, *given(), "--value", "z=a.").stdout


def test_predict_ignores_the_column_it_predicts() -> None:
    found = asked("predict", WALK, "end", "--data", ROWS, "--row", 0)
    assert list(found)[:6] == ["program", "fingerprint", "lm", "method", "reason", "seed"]
    assert {"name", "predictions", "ess", "khat", "n"} <= set(found) and found["name"] == "end"
    assert [list(p) for p in found["predictions"]] == [["value", "prob", "se", "low", "high"]] * 2
    assert {p["value"]: p["prob"] for p in found["predictions"]} == pytest.approx({"a": 0.9, "b": 0.1})
    assert found["predictions"] == asked("predict", WALK, "end", "--given", "start=a")["predictions"]


def test_predict_of_a_latent_is_its_marginal() -> None:
    found = asked("predict", WALK, "z", *GIVEN)
    assert found["predictions"][0]["prob"] == pytest.approx(PRIOR["."] / sum(PRIOR.values()))


def test_lm_replaces_a_declared_model() -> None:
    result = plm("run", WALK, *GIVEN, "--lm", f"base={FOLDER / 'letters.json'}", "--format", "json")
    assert json.loads(result.stdout)["draws"] == asked("run", WALK, *GIVEN)["draws"]
    assert "PLM510" in plm("run", WALK, *GIVEN, "--lm", "base=none.json").stderr


# ------------------------------------------------------------- what is given


def scored(path: Path, *values: str) -> float:
    return asked("score", path, *given(*values), "--value", "z=b.")["terms"][1]["log_reward"]


def test_values_are_read_by_the_declared_type(path: Path, tmp_path: Path) -> None:
    assert scored(path, "weight=-2.5e-1") == -0.5
    assert scored(path, "top=7", "flag=false", 'rows=[{"a": "1", "n": 1}]') == 2.0
    (tmp_path / "w.txt").write_text("3\n")
    assert scored(path, f"weight=@{tmp_path / 'w.txt'}") == 6.0


def test_at_reads_a_text_as_it_is_and_two_stand_for_one(path: Path, tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_bytes(b"a\n")
    refused = plm("run", path, *given(f"start=@{prompt}"))
    assert "PLM531" in refused.stderr and "\\n" in refused.stderr
    assert texts("--given", ["a=@@b", "d=e@f"]) == {"a": "@b", "d": "e@f"}
    assert "PLM801" in plm("run", path, *given("start=@none.txt")).stderr


@pytest.mark.parametrize(("value", "code", "where"), [
    ("weight=heavy", "PLM603", "weight"), ("weight=nan", "PLM603", "weight"), ("top=1.5", "PLM603", "top"),
    ("top=10", "PLM608", "top"), ("flag=1", "PLM603", "flag"), ('rows=[{"a": "1"}]', "PLM601", "rows[0].n"),
    ('rows=[{"a": "1", "n": 1, "m": 2}]', "PLM602", "rows[0].m"), ("rows={}", "PLM603", "rows"),
    ("rows=[{'a'}]", "PLM606", "--given rows"), ("topp=1", "PLM602", "topp"),
])  # fmt: skip
def test_wrong_values_are_data_errors_with_their_place(path: Path, value: str, code: str, where: str) -> None:
    result = plm("run", path, *given(value))
    assert result.exit_code == 1 and f"error[{code}]" in result.stderr and where in result.stderr
    assert result.stdout == "" and result.stderr.count("error[") == 1


def test_csv_columns_are_read_by_the_declared_type(path: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text('start,weight,top,flag,rows\na,2.5,3,true,"[{""a"": ""1"", ""n"": 2}]"\n')
    assert asked("score", path, "--data", rows, "--value", "z=b.")["terms"][1]["log_reward"] == 5.0


def test_every_mistake_in_data_has_its_row(tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("start,end\na,a\nb,c\n" + "a,d\n" * 40)
    result = plm("run", WALK, "--data", rows)
    assert result.exit_code == 1 and "rows[1].end" in result.stderr and "rows[0]" not in result.stderr
    assert result.stderr.count("error[PLM608]") == 20 and "21 more mistakes" in result.stderr
    found = json.loads(plm("run", WALK, "--data", rows, "--format", "json").stderr)
    assert found[0]["message"].endswith("(at rows[1].end)") and found[0]["file"] == WALK
    assert plm("run", WALK, "--data", rows, "--row", 0).exit_code == 0


@pytest.mark.parametrize("options", [
    ("--row", 0), ("--data", ROWS, "--row", 2), ("--given", "start"), ("--given", "=a"),
    ("--given", "start=a", "--given", "start=b"), ("--lm", "base"), ("--method", "exat"),
    ("-n", 0), ("-n", "many"), ("--seed", -1), ("--budget", "nan"), ("--budget", 0), ("--row", -1),
    ("--wat",),
])  # fmt: skip
def test_misuse_has_exit_code_2(options: tuple[object, ...]) -> None:
    result = plm("run", WALK, *options)
    assert result.exit_code == 2 and result.stdout == "" and result.stderr


def test_predict_says_when_there_is_nothing_of_that_name() -> None:
    result = plm("predict", WALK, "edn", "--given", "start=a")
    assert result.exit_code == 1 and "PLM803" in result.stderr and "did you mean `end`?" in result.stderr
    assert "PLM803" in plm("predict", WALK, "end", *GIVEN).stderr


# ------------------------------------------------------------- for people


def test_text_in_a_pipe_is_plain_and_complete() -> None:
    result = plm("run", WALK, *GIVEN, "--method", "importance", "-n", 200, "--seed", 3)
    assert result.stderr == "" and "\x1b" not in result.stdout
    assert not re.search("[\u2500-\u259f]", result.stdout), "box characters stand only on a terminal"
    for part in (
        r"^walk  fingerprint [0-9a-f]{12}  base = .*  seed 3$",
        r"^method importance",
        r'^  0\.\d{4}  #+ .*"\."$',
        r"^log evidence -?\d+\.\d{3} ± \d\.\d{3} nats$",
        r"^ESS \d+\.\d of 200, k-hat ",
    ):
        assert re.search(part, result.stdout, re.M), part


def test_bars_are_as_long_as_their_weights() -> None:
    found = plm("predict", WALK, "end", "--given", "start=a").stdout
    assert (
        len(re.search(r"0\.9000  (#+)", found)[1]) == 18 and len(re.search(r"0\.1000  (#+)", found)[1]) == 2
    )  # type: ignore[index]


def test_a_long_table_says_what_it_leaves_out(path: Path) -> None:
    path.write_text(path.read_text().replace("1..3", "1..5"), encoding="utf-8")
    found = plm("run", path, *given()).stdout
    shown = sum(float(w) for w in re.findall(r"^  (0\.\d{4})  #", found, re.M))
    left = re.search(r"\.\.\. (\d+) more values with weight (0\.\d{4})", found)
    assert left and shown + float(left[2]) == pytest.approx(1.0, abs=1e-3)


# ------------------------------------------------------------- saving


def test_save_writes_what_load_reads(tmp_path: Path) -> None:
    found = asked("run", WALK, *GIVEN, "--save", tmp_path / "one" / "two")
    assert Posterior.load(tmp_path / "one" / "two").to_json() == found
    asked("run", WALK, "--data", ROWS, "--save", tmp_path / "rows")
    assert sorted(p.name for p in (tmp_path / "rows").iterdir()) == ["row-0", "row-1"]


def test_save_refuses_before_it_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(posterior_lm.Query, "draw", None)
    result = plm("run", WALK, *GIVEN, "--save", tmp_path / "file" / "inside")
    assert result.exit_code == 1 and "PLM612" in result.stderr
    (tmp_path / "bad" / "posterior.json").mkdir(parents=True)
    result = plm("run", WALK, *GIVEN, "--save", tmp_path / "bad")
    assert result.exit_code == 1 and "PLM612" in result.stderr and "posterior.json" in result.stderr
    (tmp_path / "rows" / "row-1" / "posterior.json").mkdir(parents=True)
    result = plm("run", WALK, "--data", ROWS, "--save", tmp_path / "rows")
    assert result.exit_code == 1 and "PLM612" in result.stderr and "row-1" in result.stderr


@pytest.mark.parametrize("command", [("run", "--save"), ("fit", "--out"), ("em", "--out")])
def test_a_folder_without_a_name_is_not_the_working_folder(command: tuple[str, str]) -> None:
    result = plm(command[0], WALK, "--data", ROWS, command[1], "")
    assert result.exit_code == 1 and "PLM612" in result.stderr and "name is empty" in result.stderr
