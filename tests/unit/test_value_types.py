"""A new finite type is one class and its entry: programs with it are checked, drawn, predicted, saved and shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

import posterior_lm as plm
from posterior_lm.lang.diagnostics import DataError
from posterior_lm.lang.driver import compile_source
from posterior_lm.lang.format import format_module
from posterior_lm.lang.source import Source
from posterior_lm.lang.value_types import VALUE_TYPES, Constants, Int, OneOf
from posterior_lm.report.facts import gather
from posterior_lm.report.page import page
from posterior_lm.train.observable import observables
from tests.strategies import table

DAYS = ("mon", "tue", "wed", "sun")
MODEL = table((*DAYS, *"0123456789", " ", "."), seed=3, order=1, max_tokens=4)


class Weekday(OneOf):
    """A type of strings, which no declaration lists."""

    name = form = example = "weekday"
    takes = "nothing"
    elsewhere = ("dayname",)

    def choices(self, args: Constants) -> tuple[str, ...]:
        return DAYS


class Digit(Int):
    """A type of whole numbers, with the lead of an int."""

    name = form = example = "digit"
    takes = "nothing"
    elsewhere = ()

    def range(self, args: Constants) -> tuple[int, int]:
        return (0, 9)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for type_ in (Weekday(), Digit()):
        monkeypatch.setitem(VALUE_TYPES, type_.name, type_)


PARAMS = "seen: weekday, k: digit = 3, rows: table(d: weekday, c: digit)"
BODY = """
latent day: weekday ~ choice(base())
latent n: digit(lead=" ") ~ poisson(2.5)
latent m: digit ~ base(day) ^ 1.5
observe seen ~ choice(base(day))
observe k ~ categorical([0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])
plate row in rows {
  observe row.d ~ uniform()
  observe [row.c] ~ base(row.d, n)
}
factor if day == "sun" then 0.3 * n - m else 0
condition n < 8 and day != "tue"
"""
DATA = {"seen": "sun", "rows": [{"d": "mon", "c": 4}, {"d": "sun", "c": 0}]}
SOURCE = f'lm base = "b"\nprogram p({PARAMS}) {{ {BODY} }}\n'


def twin(source: str) -> str:
    """The same program with the types that the language has."""
    listed = ", ".join(f'"{day}"' for day in DAYS)
    source = source.replace("weekday", f"one_of({listed})").replace("digit(", "int(0..9, ")
    return source.replace("digit", "int(0..9)")


def both(data: Mapping[str, object] = DATA) -> tuple[plm.Query, plm.Query]:
    one, other = (plm.loads(s).lm(base=MODEL).given(data).using("exact") for s in (SOURCE, twin(SOURCE)))
    return one, other


def found(body: str, params: str = PARAMS) -> list[tuple[str, str | None]]:
    source = Source("t.plm", f'lm base = "tiny"\nprogram p({params}) {{ {body} }}\n')
    return [(d.code, d.help) for d in compile_source(source).errors]


def test_the_posterior_is_that_of_the_types_it_stands_for() -> None:
    one, other = (query.draw() for query in both())
    assert one.log_evidence == other.log_evidence and one.n == other.n
    for name in ("day", "n", "m"):
        assert one.marginal(name) == other.marginal(name)
    assert {day for day, _ in one.marginal("day")} == {"mon", "wed", "sun"}
    assert {type(n) for n, _ in one.marginal("n")} == {int} and max(n for n, _ in one.marginal("n")) == 7
    target = both()[0].target()
    assert (target.value("n", "7").text, target.value("n", 7).datum) == (" 7", 7)
    with pytest.raises(DataError, match="PLM610"):
        target.value("day", "fri")


def test_importance_and_smc_draw_it() -> None:
    for method in ("importance", "smc"):
        one, other = (query.using(method).draw(50, seed=1) for query in both())
        assert one.marginal("day") == other.marginal("day") and one.marginal("m") == other.marginal("m")


@pytest.mark.parametrize("name", ["seen", "k", "day", "n"])
def test_predictions(name: str) -> None:
    one, other = (query.predict(name) for query in both({k: v for k, v in DATA.items() if k != name}))
    assert one.probs == other.probs and len(one.probs) > 2
    assert one.estimates == other.estimates and one.entropy == other.entropy


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    posterior = both()[0].draw()
    posterior.save(tmp_path)
    back = plm.Posterior.load(tmp_path)
    assert back.types == {"day": "weekday", "n": "digit", "m": "digit"}
    assert back.marginal("day") == posterior.marginal("day") and back.marginal("n") == posterior.marginal("n")


def test_its_page_has_a_bar_for_every_value() -> None:
    pages = []
    for query in both():
        html = page([gather(query.target(), query.draw())])
        pages.append(re.findall(r"<figcaption>.*?</figure>", html, re.S))
    assert pages[0] == pages[1] and all(day in pages[0][0] for day in DAYS)
    assert 'class="type">weekday<' in page([gather(both()[0].target(), both()[0].draw())])


def test_what_can_be_simulated() -> None:
    graphs = [query.graph for query in both()]
    names = [[one.name for one in observables(graph)] for graph in graphs]
    assert names == [["seen", "k", "rows.c"]] * 2


def test_it_is_checked() -> None:
    module = compile_source(Source("t.plm", SOURCE))
    assert not module.errors and format_module(module.module).count("weekday") == 3
    assert found('condition seen == "fri" factor 1') == [("PLM316", None)]
    assert found("factor 1", 'seen: weekday = "mo"') == [("PLM315", 'did you mean "mon"?')]
    assert found("factor 1", "k: digit = 12") == [("PLM315", None)]
    assert found("factor 1", "k: dayname") == [("PLM208", "did you mean 'weekday'?")]
    assert found("factor 1", 'k: weekday("mon")') == [("PLM322", "write weekday")]
    assert found("observe seen ~ categorical([0.5, 0.5])")[0][0] == "PLM307"
    assert [code for code, _ in found("observe seen ~ poisson(3)")] == ["PLM311"]
    assert found("latent x: table(a: text) ~ base()")[0][1].endswith(
        "one_of(…), list(…), optional(…), record(…), shares(…, grid=n), weekday or digit"
    )  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("data", "code", "help"),
    [
        ({"seen": "mo"}, "PLM608", "did you mean 'mon'?"),
        ({"seen": 3}, "PLM603", "choose from 'mon', 'tue', 'wed', 'sun'"),
        ({"k": 12}, "PLM608", "give a number in that range, or widen it in the program"),
        ({"k": "1"}, "PLM603", "give a whole number, such as 3, without quotes"),
    ],
)
def test_its_data_are_checked(data: Mapping[str, object], code: str, help: str) -> None:
    with pytest.raises(DataError) as caught:
        both({**DATA, **data})[0].target()
    assert [(d.code, d.help) for d in caught.value.diagnostics] == [(code, help)]
