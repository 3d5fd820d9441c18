"""Answers in Python: as sequences, by expressions of the language, as text and HTML, as tables and plots."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import posterior_lm as plm
from posterior_lm.api import notebook, watching
from posterior_lm.infer.request import seed_of_row
from posterior_lm.storage import plain

MODEL = plm.TabularModel.random(["a", "b", "ab", "."], order=1, max_tokens=8, rng=5, concentration=0.4)


def query() -> plm.Query:
    return (
        plm.program("t", 'y: one_of("a", "b", "ab")', lm={"m": "table"})
        .latent("z", "text(tokens=1..3)", "m()")
        .latent("k", "int(0..2)", "categorical([0.7, 0.2, 0.1])")
        .observe("y", "m(z)")
        .factor("0.4 * k")
        .lm(m=MODEL)
    )


@pytest.fixture(scope="module")
def exact() -> plm.Posterior:
    return query().given(y="b").using("exact").draw()


@pytest.fixture(scope="module")
def drawn() -> plm.Posterior:
    return query().given(y="b").using("importance").draw(300, seed=2)


# ------------------------------------------------------------------------------- as a sequence


def test_a_posterior_is_a_sequence_of_draws(drawn: plm.Posterior) -> None:
    rows = list(drawn)
    assert len(drawn) == len(rows) == 300 and math.isclose(sum(row.weight for row in rows), 1.0)
    assert [row["k"] for row in rows] == drawn["k"] and drawn[7] == rows[7] and drawn[:3] == rows[:3]
    mean = sum(w * k for w, k in zip(drawn.weights, drawn["k"], strict=True))
    assert math.isclose(mean, drawn.expect("k").value)
    best = drawn.best()
    assert best.log_reward == max(m.log_reward for m in drawn.merged()) and best["z"] == best.values["z"]
    assert best.log_reward >= max(row.log_reward for row in rows)


def test_an_unknown_latent_is_named_with_what_was_meant(drawn: plm.Posterior) -> None:
    for wrong in (lambda: drawn["kk"], lambda: drawn.marginal("kk"), lambda: drawn.plot("kk")):
        with pytest.raises(plm.DataError, match="did you mean `k`") as caught:
            wrong()
        assert caught.value.diagnostics[0].code == "PLM602"


# ------------------------------------------------------------------------------- expressions

EXPRESSIONS = [
    ("k", lambda row: row["k"]),
    ("2 * k - 1", lambda row: 2 * row["k"] - 1),
    ('if contains(z, "a") then k else 0.5', lambda row: row["k"] if "a" in row["z"] else 0.5),
    ("chars(z) / (1 + k)", lambda row: len(row["z"]) / (1 + row["k"])),
]


@pytest.mark.parametrize(("text", "function"), EXPRESSIONS, ids=[text for text, _ in EXPRESSIONS])
def test_an_expression_is_what_the_function_is(
    text: str, function: Any, drawn: plm.Posterior, exact: plm.Posterior
) -> None:
    for posterior in (drawn, exact):
        assert posterior.expect(text) == posterior.expect(function)


def test_a_predicate_is_what_the_function_is(drawn: plm.Posterior) -> None:
    text = 'starts_with(z, "a") and (k > 0 or not ends_with(z, "."))'
    found = drawn.prob(text)
    same = drawn.prob(lambda row: row["z"].startswith("a") and (row["k"] > 0 or not row["z"].endswith(".")))
    assert found == same and 0 < found.low < found.value < found.high < 1
    tokens = [len(value.ids) for value in drawn.draws.values["z"]]
    assert math.isclose(drawn.expect("tokens(z)").value, float(np.dot(drawn.weights, tokens)))


@pytest.mark.parametrize(
    ("ask", "text", "code", "words"),
    [
        ("prob", "words(zz) > 3", "PLM201", "did you mean 'z'"),
        ("prob", "label", "PLM201", "the latents are `z`, `k`"),
        ("prob", "words(z)", "PLM303", "what has a probability is true or false"),
        ("prob", "words(z) >", "PLM107", "expected an expression"),
        ("prob", "k > 1 factor 3", "PLM101", "unexpected 'factor'"),
        ("expect", "words(z) > 3", "PLM304", 'prob("…") is the probability'),
        ("expect", "z", "PLM304", "an expectation is of a number"),
        ("expect", "log(0 - k)", "PLM701", "guard it"),
        ("expect", "log_prob(z, m())", "PLM540", "asks no model"),
        ("expect", "__import__(k)", "PLM201", "unknown function '__import__'"),
        ("expect", "", "PLM107", "expected an expression"),
    ],
)
def test_wrong_expressions_are_diagnostics_with_a_caret(
    ask: str, text: str, code: str, words: str, drawn: plm.Posterior
) -> None:
    with pytest.raises(plm.PlmError) as caught:
        getattr(drawn, ask)(text)
    shown = str(caught.value)
    assert caught.value.diagnostics[0].code == code and words in shown
    assert "--> <expression>:1:" in shown and "^" in shown


def test_latents_of_a_plate_are_read_by_a_function() -> None:
    plate = (
        plm.program("p", "rows: table(y: text)", lm={"m": "table"})
        .plate(
            "row", "rows", lambda q: q.latent("k", "int(0..2)", "uniform()").factor('count(row.y, "a") * k')
        )
        .lm(m=MODEL)
        .given(rows=[{"y": "a"}])
        .using("exact")
        .draw()
    )
    assert list(plate.draws.values) == ["k[0]"]
    with pytest.raises(plm.CompileError, match=r"lambda row: row\['k\[0\]'\]"):
        plate.prob("k == 1")


# ------------------------------------------------------------------------------- names at the call


def test_unknown_names_are_refused_at_the_call() -> None:
    for wrong, error, code, words in (
        (lambda: query().given(yy="a"), plm.DataError, "PLM602", "did you mean `y`"),
        (lambda: query().given({"other": 1}), plm.DataError, "PLM602", "its parameters are `y`"),
        (lambda: query().lm(mm=MODEL), plm.ModelError, "PLM515", "did you mean `m`"),
        (lambda: query().lm(base=MODEL), plm.ModelError, "PLM515", "its models are `m`"),
    ):
        with pytest.raises(error) as caught:
            wrong()
        assert caught.value.diagnostics[0].code == code and words in str(caught.value)


# ------------------------------------------------------------------------------- many rows


def test_rows_are_drawn_each_with_a_seed_of_its_own() -> None:
    asked = query().using("importance")
    posteriors = asked.draw_rows([{"y": "a"}, {"y": "b"}, {"y": "a"}], 40, seed=3)
    assert len(posteriors) == 3 and [len(p) for p in posteriors] == [40] * 3
    alone = asked.given(y="b").draw(40, seed=seed_of_row(3, 1))
    assert posteriors[1].to_json() == alone.to_json()
    assert posteriors[0]["z"] != posteriors[2]["z"], "one row, and two seeds"
    assert re.findall(r"row \d: 40 draws by importance, ESS [\d.]+, log evidence", repr(posteriors[:2])) != []


def test_many_rows_make_one_table() -> None:
    pandas = pytest.importorskip("pandas")
    rows = pandas.DataFrame({"y": ["a", "b"]})
    posteriors = query().using("importance").draw_rows(rows, 25, seed=1)
    frame = posteriors.to_pandas()
    assert list(frame.columns) == ["row", "z", "k", "weight", "log_weight", "log_reward"] and len(frame) == 50
    assert np.allclose(frame.groupby("row")["weight"].sum(), 1.0)
    assert frame[frame["row"] == 1]["k"].tolist() == posteriors[1]["k"]
    tree = posteriors.to_arviz()
    assert tree["row_1"]["posterior"]["k"].values[0].tolist() == posteriors[1]["k"]


def test_datasets_hold_the_same_columns() -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"y": ["a", "b"]})
    posteriors = query().using("importance").draw_rows(rows, 10, seed=1)
    made = posteriors.to_datasets()
    assert made.column_names == list(posteriors.columns()) and made["k"][:10] == posteriors[0]["k"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"y": "a"}, {"z": "b"}], "rows[1].z"),
        ([{"y": "a"}, {"y": "c"}], "rows[1].y"),
        ("abc", "rows are a list"),
        ([3], "rows[0]"),
    ],
)
def test_wrong_rows_are_named_before_any_is_drawn(rows: Any, words: str) -> None:
    told: list[Any] = []
    with pytest.raises(plm.DataError) as caught:
        query().draw_rows(rows, 10, progress=told.append)
    assert words in str(caught.value) and not told


def test_predictions_and_comparisons_are_tables_too() -> None:
    pytest.importorskip("pandas")
    prediction = query().given(y="a").using("importance").predict("k", n=200)
    frame = prediction.to_pandas()
    assert (
        list(frame.columns) == ["value", "prob", "se", "low", "high"] and frame["value"][0] == prediction.best
    )
    assert (frame["low"] <= frame["prob"]).all() and math.isclose(frame["prob"].sum(), 1.0)
    compared = query().given(y="a").compare(draws=20)
    assert list(compared.to_pandas()["method"]) == [m.method for m in compared.methods]


def test_rows_are_predicted_beside_what_they_know() -> None:
    asked = query().using("importance")
    rows = [{"y": "a", "k": 2}, {"y": "b"}, {"y": "a"}]
    found = asked.predict_rows(rows, "k", n=60, seed=3)
    assert found.known == (2, None, None) and [p.name for p in found] == ["k"] * 3
    alone = asked.given(y="b").predict("k", n=60, seed=seed_of_row(3, 1))
    assert found[1].to_json() == alone.to_json() and len(found[1:]) == 2
    assert found[0].probs != found[2].probs, "one row, and two seeds"
    columns = found.columns()
    assert columns["answer"] == [p.best for p in found] and columns["known"] == [2, None, None]
    assert columns["prob"][1] == alone.probs[0][1] and columns["low"][1] == alone.interval(alone.best)[0]
    assert plm.reliability(found, found.known).confidence.tolist() == [found[0].probs[0][1]]
    assert repr(found).startswith("<Predictions of k: 3 rows>\n  row 0: ") and ", known 2" in repr(found)


def test_a_known_answer_is_not_shown_to_the_program() -> None:
    found = query().predict_rows([{"y": "a"}, {"y": "c"}][:1], "y")
    assert found[0].to_json() == query().predict("y", seed=seed_of_row(0, 0)).to_json()
    unsure = query().predict_rows([{"y": "b"}, {}], "y", abstain=0.0)
    assert unsure.columns()["answer"] == [None, None] and "row 1: no answer, probability" in repr(unsure)
    for rows, where in (([{"y": "a"}, {"y": "c"}], "rows[1].y"), ([3], "rows[0]")):
        with pytest.raises(plm.DataError) as caught:
            query().predict_rows(rows, "y")
        assert where in str(caught.value)


# ------------------------------------------------------------------------------- as text, HTML and plots


@pytest.fixture(scope="module")
def answers(exact: plm.Posterior, drawn: plm.Posterior) -> dict[str, Any]:
    asked = query().given(y="b")
    return {
        "query": asked.using("smc"),
        "exact": exact,
        "drawn": drawn,
        "rows": query().using("importance").draw_rows([{"y": "a"}], 20),
        "prediction": query().predict("y"),
        "predictions": query().predict_rows([{"y": "b"}], "y"),
        "comparison": asked.compare(draws=20),
        "calibration": query().using("importance").calibrate(simulate=16, draws=8),
    }


WORDS = {
    "query": ["Query of t", "given y", "by smc", "other models for m"],
    "exact": ["Posterior of t", "252 values by exact", "Exact: every value"],
    "drawn": ["Posterior of t", "300 draws by importance", "ESS 124.9", "± 0.068"],
    "rows": ["Posteriors of t: 1 row", "row 0: 20 draws by importance"],
    "predictions": ["Predictions of y: 1 row", "row 0: 'b', probability 0.5097, known 'b'"],
    "prediction": ["Prediction of y: 'b' with probability 0.5097", "3 values", "Exact"],
    "comparison": ["Comparison of t", "importance", "exact log evidence -1.590"],
    "calibration": ["importance: 16 simulated rows", "Assumed:"],
}


@pytest.mark.parametrize("name", WORDS)
def test_answers_are_short_as_text_and_whole_as_html(name: str, answers: dict[str, Any]) -> None:
    text, page = repr(answers[name]), answers[name]._repr_html_()
    assert [word for word in WORDS[name] if word not in text] == [] and len(text) < 1600
    assert page.startswith('<div class="plm-view"><style>') and page.endswith("</div>") and len(page) < 60_000
    body = page[page.index("</style>") :]
    assert "<script" not in body and "http" not in body
    style = page[: page.index("</style>")]
    rules = [rule.strip() for rule in re.sub(r"\{[^}]*\}", "\n", style.partition("<style>")[2]).split("\n")]
    selectors = [s.strip() for rule in rules for s in rule.split(",") if s.strip()]
    assert selectors and all(s.startswith(".plm-view") for s in selectors), "it holds for itself alone"


def test_html_escapes_what_models_and_data_wrote() -> None:
    evil = '<img src=x onerror="alert(1)">'
    model = plm.TabularModel.random([evil, "b"], order=0, max_tokens=3, rng=1)
    asked = (
        plm.program("t", "y: text", lm={"m": "table"})
        .latent("z", "text(tokens=1..2)", "m()")
        .factor("count(y, z)")
        .lm(m=model)
        .given(y=evil)
    )
    found = asked.using("exact").draw()
    for page in (found._repr_html_(), asked._repr_html_(), asked.predict("z")._repr_html_()):
        assert "<img" not in page and "&lt;img src=x" in page


def test_plots_show_the_numbers(answers: dict[str, Any]) -> None:
    pytest.importorskip("matplotlib").use("agg")
    from matplotlib import pyplot

    figure, ax = pyplot.subplots()
    try:
        exact = answers["exact"]
        assert exact.plot("k", ax=ax) is ax
        heights = [bar.get_height() for bar in ax.patches]
        assert np.allclose(heights, [p for _, p in sorted(exact.marginal("k"))])
        ax.clear()
        exact.plot(ax=ax)  # the first latent, a text
        widths = [bar.get_width() for bar in ax.patches]
        shown = [p for _, p in exact.marginal("z")]
        assert np.allclose(widths, [*shown[:12], sum(shown[12:])])
        ax.clear()
        answers["prediction"].plot(ax=ax)
        assert np.allclose(
            [bar.get_width() for bar in ax.patches], [p for _, p in answers["prediction"].probs]
        )
        ax.clear()
        answers["comparison"].plot(ax=ax)
        assert [bar.get_width() for bar in ax.patches] == [
            m.tv for m in reversed(answers["comparison"].methods)
        ]
        ax.clear()
        ranks = answers["calibration"].ranks
        assert len(answers["calibration"].plot(ax=ax).get_legend().get_texts()) == len(ranks)
        new = exact.plot("k")
        assert new is not ax
        pyplot.close(new.figure)
    finally:
        pyplot.close(figure)


def test_what_is_absent_is_said(monkeypatch: pytest.MonkeyPatch, exact: plm.Posterior) -> None:
    for module, ask, extra in (
        ("matplotlib.pyplot", lambda: exact.plot("k"), "plots"),
        ("pandas", exact.to_pandas, "pandas"),
        ("arviz_base", exact.to_arviz, "arviz"),
        ("datasets", exact.to_datasets, "datasets"),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(plm.DataError, match=re.escape(f"posterior_lm[{extra}]")) as caught:
            ask()
        assert caught.value.diagnostics[0].code == "PLM732"


# ------------------------------------------------------------------------------- a shell that is no IPython

PROGRAM = 'program tea(cups: int(0..9), note: text = "") {\n  latent k: int(0..3) ~ uniform()\n  condition k < cups\n}\n'


class Shell:
    """What the extension asks of IPython's shell."""

    def __init__(self, **names: object) -> None:
        self.user_ns: dict[str, object] = dict(names)
        self.kernel = object()
        self.shown: list[tuple[str, bool]] = []
        self.display_pub = SimpleNamespace(publish=self._publish)

    def _publish(self, data: dict[str, str], transient: dict[str, str], update: bool) -> None:
        assert transient["display_id"].startswith("plm-")
        self.shown.append((data["text/html"], update))

    def push(self, names: dict[str, object]) -> None:
        self.user_ns.update(names)

    def register_magic_function(self, function: Any, magic_kind: str, magic_name: str) -> None:
        assert (magic_kind, magic_name) == ("cell", "plm")
        self.magic = function


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Shell:
    made = Shell(cups=2, other=1)
    monkeypatch.setattr(watching, "shell", lambda: made)
    monkeypatch.setattr(notebook, "shell", lambda: made)
    plm.load_ipython_extension(made)  # type: ignore[attr-defined]
    return made


def test_a_cell_becomes_a_query(shell: Shell) -> None:
    assert shell.magic("tea", PROGRAM) is None
    tea = shell.user_ns["tea"]
    assert isinstance(tea, plm.Query) and dict(tea.data) == {}
    shell.magic("tea --given", PROGRAM)
    tea = shell.user_ns["tea"]
    assert dict(tea.data) == {"cups": 2}, "no other variable, and no default"  # type: ignore[attr-defined]
    assert [k for k, _ in tea.draw().marginal("k")] == [0, 1]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("line", "cell", "code", "words"),
    [
        ("", PROGRAM, "PLM802", "one name"),
        ("a b", PROGRAM, "PLM802", "not `a b`"),
        ("3x", PROGRAM, "PLM802", "%%plm NAME"),
        ("tea --gven", PROGRAM, "PLM802", "did you mean `--given`"),
        ("tea", PROGRAM.replace("k < cups", "kk < cups"), "PLM201", "--> %%plm tea:3:13"),
        ("tea", "", "PLM115", "%%plm tea"),
    ],
)
def test_an_error_in_a_cell_keeps_the_name(line: str, cell: str, code: str, words: str, shell: Shell) -> None:
    before = dict(shell.user_ns)
    with pytest.raises(plm.PlmError) as caught:
        shell.magic(line, cell)
    assert caught.value.diagnostics[0].code == code and words in str(caught.value)
    assert shell.user_ns == before


def test_an_error_is_shown_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(plm.CompileError) as caught:
        plm.loads("program p() { factor x }")
    monkeypatch.setenv("NO_COLOR", "1")
    assert caught.value._render_traceback_() == [str(caught.value)] and "^" in str(caught.value)
    monkeypatch.delenv("NO_COLOR")
    assert "\x1b[1;31merror[PLM201]" in caught.value._render_traceback_()[0]


def test_a_bar_comes_after_a_while_and_goes(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.5, 1.5, 1.6, 2.0])
    monkeypatch.setattr(watching.time, "monotonic", lambda: next(clock))
    with watching.bar() as move:
        assert move is not None
        for share in (0.1, 0.2, 0.25, 0.5):  # too early, shown, too soon after it, shown
            move(share, "row <1>")
    first, second, last = shell.shown
    assert 'value="0.200"' in first[0] and "row &lt;1&gt; 20%, 2 s" in first[0] and not first[1]
    assert 'value="0.500"' in second[0] and second[1] and last == ("", True)


def test_nobody_is_shown_a_bar_that_was_quick_or_is_not_in_a_notebook(shell: Shell) -> None:
    query().given(y="a").using("importance").draw(20)
    assert shell.shown == []
    shell.kernel = None  # type: ignore[assignment]
    with watching.bar() as move:
        assert move is None


def test_the_extension_costs_an_import_nothing() -> None:
    script = (
        "import sys, posterior_lm, posterior_lm.api.notebook\n"
        "print(sorted({'numpy', 'torch', 'IPython', 'matplotlib'} & sys.modules.keys()))"
    )
    root = str(Path(plm.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_json_keeps_its_shape(exact: plm.Posterior) -> None:
    """What iterates must not be taken for a list by whoever writes it."""
    assert plain({"a": exact.to_json(top=1)})["a"]["n"] == 252
