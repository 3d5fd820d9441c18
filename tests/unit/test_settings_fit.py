"""Settings of a fit: what is refused, and that the language and the fit state the same ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from attrs import fields

from posterior_lm.api.query import loads
from posterior_lm.cli.fit import command
from posterior_lm.infer.methods import METHODS, losses
from posterior_lm.infer.request import RUNNING
from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.lang.driver import compile_source
from posterior_lm.lang.source import Source
from posterior_lm.train.adapter import Adapter
from posterior_lm.train.settings import FEW, RATES, SCOPES, FitSettings, settings_of
from tests.conftest import ROOT

DEFAULTS = FitSettings()
STATED = {k: v for k, v in METHODS["gflownet"].options.items() if k not in RUNNING}


@pytest.mark.parametrize("name", STATED)
def test_the_language_states_the_defaults_and_bounds_of_the_fit(name: str) -> None:
    option, setting = STATED[name], getattr(fields(FitSettings), name)
    default = getattr(DEFAULTS, name)
    assert option.default == (None if default == () else default)
    if option.kind in ("int", "number") and name != "budget":
        assert option.low == setting.metadata.get("low") and option.high == setting.metadata.get("high")
    if name == "scope":
        assert option.choices == SCOPES and DEFAULTS.scope_of(FEW) == "program" != DEFAULTS.scope_of(FEW - 1)
    elif option.kind == "choice":
        assert option.choices == losses() == ("vargrad", "tb", "subtb", "db")


def test_every_stated_option_is_a_setting_and_every_flag_too() -> None:
    names = {f.name for f in fields(FitSettings)}
    assert set(STATED) <= names
    flags = {"steps", "budget", "objective", "rank", "targets", "rows", "draws", "learning_rate", "seed"}
    options = {p.name: p for p in command.params if isinstance(p, click.Option)}
    assert flags <= set(options) and flags <= names
    plain, listed = (DEFAULTS.resolved(exact=True, listed=n).steps for n in (0, 1))
    assert f"without one {plain}; {listed} where rows are listed]" in (options["steps"].help or "")
    general, own = DEFAULTS.resolved(exact=True), DEFAULTS.resolved(exact=False, rows=8)
    assert f"[default: 16; {own.rows} for a policy of its rows]" in (options["rows"].help or "")
    assert f"[default: 16; {own.rows * own.draws} of a step for" in (options["draws"].help or "")
    assert (general.rows, general.draws) == (16, 16)
    assert f"[default: {general.learning_rate}; less for" in (options["learning_rate"].help or "")
    for name in flags - {"budget", "targets", "steps", "rows", "draws", "learning_rate"}:
        assert f"[default: {getattr(DEFAULTS, name)}]" in (options[name].help or ""), name
    for name in flags - {"budget", "targets", "steps"}:
        # A flag that is not given leaves what the program states.
        assert not isinstance(options[name].default, int | float | str), name


def test_what_a_program_states_is_what_a_fit_gets() -> None:
    text = """
lm base = "tiny"
program p() {
  latent z: text(tokens=1..3) ~ base()
  infer gflownet(rank=3, objective="tb", n=50, learning_rate=0.01)
}
"""
    found = settings_of(loads(text).request.fit_settings(loads(text).prepared))
    assert (found.rank, found.objective, found.learning_rate) == (3, "tb", 0.01)
    asked = loads(text).using("gflownet", rank=5, seed=7)
    more = settings_of(asked.request.fit_settings(asked.prepared))
    assert (more.rank, more.seed, more.objective) == (5, 7, "tb")


OLD = [("compile", "sleep"), ("rate", "learning_rate"), ("balance_rate", "balance_learning_rate")]


@pytest.mark.parametrize(("old", "new"), [*OLD, ("columns", "max_batch_tokens")])
def test_an_old_name_of_a_setting_serves_with_a_warning(old: str, new: str) -> None:
    value = 0.25 if old != "columns" else 100
    with pytest.warns(DeprecationWarning, match=f"`{old}` is now called `{new}`"):
        found = settings_of({new: 0.5, old: value})
    assert getattr(found, new) == value


@pytest.mark.parametrize(("old", "new"), OLD)
def test_an_old_name_of_an_option_serves_with_a_warning(old: str, new: str) -> None:
    text = (
        'lm base = "tiny"\nprogram p() {\n  latent z: text(tokens=1..3) ~ base()\n  infer gflownet(%s=%s)\n}'
    )
    query = loads(text % (old, 0.25))
    with pytest.warns(DeprecationWarning, match=f"`{old}` is now called `{new}`"):
        assert query.request.fit_settings(query.prepared) == {new: 0.25}
    with pytest.warns(DeprecationWarning, match=f"`{old}` is now called `{new}`"):
        asked = query.using("gflownet", **{old: 0.125})
    assert asked.request.options == {new: 0.125}
    source = Source("p.plm", text % (old, 0.25))
    assert "PLM908" in {d.code for d in compile_source(source, lint=True).warnings}
    twice = compile_source(Source("p.plm", text % (f"{new}=0.5, {old}", 0.25)))
    assert [d.code for d in twice.diagnostics] == ["PLM207"]


def test_an_old_flag_serves_with_a_line_on_stderr(tmp_path: Path) -> None:
    program, rows = tmp_path / "p.plm", tmp_path / "rows.jsonl"
    program.write_text('lm base = "tiny"\nprogram p(x: int(0..3)) {\n  latent n: int(0..3) ~ uniform(0, 3)\n'
                       "  observe x ~ binomial(3, 0.1 + 0.2 * n)\n}\n")  # fmt: skip
    rows.write_text('{"x": 1}\n')
    done = subprocess.run(
        [sys.executable, "-m", "posterior_lm", "fit", program, "--data", rows, "--out", tmp_path / "out",
         "--rate", "-1", "--set", "compile=2"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "`sleep` is at least 0 and at most 1" in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("warning: ")] == [
        "warning: `compile` is now called `sleep`", "warning: `rate` is now called `learning_rate`"
    ]  # fmt: skip


@pytest.mark.parametrize("name", [f.name for f in fields(FitSettings)])
def test_the_default_passes_its_own_check(name: str) -> None:
    assert settings_of({name: getattr(DEFAULTS, name)}) == DEFAULTS


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"objektive": "tb"}, "did you mean `objective`?"),
        ({"banana": 1}, "its settings are rank, alpha"),
        ({"objective": "vargard"}, "did you mean `vargrad`?"),
        ({"objective": "zzz"}, "choose from vargrad, tb, subtb, db"),
        ({"objective": 3}, "there is no objective `3`"),
        ({"steps": 0}, "`steps` is at least 1, not 0"),
        ({"steps": 2.5}, "`steps` is a whole number, not 2.5"),
        ({"steps": "ten"}, "`steps` is a whole number, not 'ten'"),
        ({"steps": True}, "`steps` is a whole number, not True"),
        ({"steps": 10**400}, "`steps` is a whole number, not 1000"),
        ({"learning_rate": 10**5000}, "`learning_rate` is a number, not a value of type int"),
        ({"draws": 1}, "`draws` is at least 2"),
        ({"budget": 0}, "`budget` is above 0, not 0"),
        ({"budget": -3.0}, "`budget` is above 0"),
        ({"budget": float("inf")}, "`budget` is a number, not inf"),
        ({"learning_rate": float("nan")}, "`learning_rate` is a number, not nan"),
        ({"learning_rate": 0}, "`learning_rate` is above 0"),
        ({"learning_rate": "fast"}, "`learning_rate` is a number, not"),
        ({"lam": 0}, "`lam` is above 0 and at most 1"),
        ({"lam": 1.01}, "at most 1, not 1.01"),
        ({"sleep": 1.5}, "`sleep` is at least 0 and at most 1"),
        ({"tempered": 0.6, "replayed": 0.5}, "0.6 and 0.5 are more than all"),
        ({"reward_temperature": 0.9}, "at least 1"),
        ({"targets": 5}, "`targets` is a list of names"),
        ({"targets": ["a", 1]}, "`targets` is a list of names"),
        ({"seeds": -1}, "`seeds` is at least 0"),
        ({"seed": -1}, "`seed` is at least 0"),
        ({"max_batch_tokens": 8}, "`max_batch_tokens` is at least 64"),
        ({"alpha": 0}, "`alpha` is above 0"),
    ],
)
def test_wrong_settings_are_named(options: dict[str, object], said: str) -> None:
    with pytest.raises(InferenceError) as caught:
        settings_of(options)
    assert [d.code for d in caught.value.diagnostics] == ["PLM802"]
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("options", "name", "value"),
    [
        ({"targets": "q_proj, v_proj ,"}, "targets", ("q_proj", "v_proj")),
        ({"targets": ["down"]}, "targets", ("down",)),
        ({"steps": 7.0}, "steps", 7),
        ({"learning_rate": 1}, "learning_rate", 1.0),
        ({"seeds": 4}, "seeds", 4),
        ({"budget": None}, "budget", None),
        ({"tempered": 0.5, "replayed": 0.5}, "replayed", 0.5),
    ],
)
def test_values_are_read_as_their_kind(options: dict[str, object], name: str, value: object) -> None:
    found = getattr(settings_of(options), name)
    assert found == value and type(found) is type(value)


def test_settings_as_json_are_read_again() -> None:
    settings = settings_of({"targets": "up,down", "rank": 3, "budget": 9.5, "objective": "db"})
    assert settings_of(settings.to_json()) == settings
    assert settings.to_json()["targets"] == ["up", "down"]


def test_rates_that_are_not_stated_are_less_for_a_larger_model() -> None:
    def scale(layers: int, width: int) -> float:
        return Adapter.scale.fget(SimpleNamespace(_layers=[SimpleNamespace(in_features=width)] * layers))  # type: ignore[attr-defined,no-any-return]

    assert scale(28, 128) == scale(14, 64) == 1.0, "tiny, and what is smaller"
    assert scale(56, 512) == pytest.approx(0.25) and scale(210, 576) == pytest.approx(0.0629, abs=1e-4)
    stated = settings_of({"balance_learning_rate": 2e-3})
    found = stated.resolved(exact=True).scaled(stated, 0.25)
    assert (found.learning_rate, found.balance_learning_rate) == (0.25 * RATES["learning_rate"], 2e-3)
