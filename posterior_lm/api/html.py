"""What a notebook shows below a cell: the parts of the report, small, in a style that touches nothing else.

Everything is escaped by `report.markup`, nothing runs, and colours follow the notebook's own, dark or light.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import posterior_lm.report as report
from posterior_lm.api.posteriors import in_short
from posterior_lm.report.draws import bar, draws_view
from posterior_lm.report.markup import Html, el, join, number, plural, share, table, text_span
from posterior_lm.report.page import summary, tone
from posterior_lm.report.program import given_view, program_view, source_of_module
from posterior_lm.target.values import spelled_datum

if TYPE_CHECKING:
    from posterior_lm.api.posterior import Datum, Posterior
    from posterior_lm.api.posteriors import Posteriors
    from posterior_lm.api.query import Query
    from posterior_lm.predict import Prediction, Predictions
    from posterior_lm.train.fit import Fitted
    from posterior_lm.validate.calibration import Calibration
    from posterior_lm.validate.comparison import Comparison
    from posterior_lm.validate.reliability import Reliability

LEAST, MOST, FOLDED, MOST_LETTERS = 5, 8, 60, 200
"""Rows of draws that are shown, at least and at most, and those behind a fold; letters of a text."""
MOST_POSTERIORS = 50
STYLE = (Path(report.__file__).parent / "cell.css").read_text(encoding="utf-8")


def cell(title: Sequence[Html | str], *parts: Html | None) -> Html:
    """The parts under a title, with the style sheet that holds for them alone."""
    return el(
        "div", Html(f"<style>{STYLE}</style>"), el("p", *title, class_="title"), *parts, class_="plm-view"
    )


def verdict(words: str, kind: str | None = None) -> Html:
    return el("p", words, class_=f"verdict {kind or tone(words)}")


def posterior(found: Posterior) -> Html:
    title = ["Posterior of ", el("b", found.program)]
    return cell(title, summary(found), draws_view(found, LEAST, MOST, FOLDED))


def posteriors(found: Posteriors) -> Html:
    rows: list[list[Html | str]] = [
        [f"{k}", f"{len(one):,}", one.method, number(one.ess, 1), number(one.log_evidence),
         *_values(one.best().values), in_short(one.verdict)]
        for k, one in enumerate(found.rows[:MOST_POSTERIORS])
    ]  # fmt: skip
    names = list(found.rows[0].draws.values) if found.rows else []
    head = ["row", "draws", "method", "ESS", "log evidence", *(f"best {name}" for name in names), "verdict"]
    right = [True, True, False, True, True, *(False for _ in names), False]
    more = len(found) - MOST_POSTERIORS
    note = el("p", f"… and {plural(more, 'more row')}.", class_="faint") if more > 0 else None
    of = [" of ", el("b", found.rows[0].program)] if found.rows else []
    return cell([plural(len(found), "posterior"), *of], table(head, rows, right) if rows else None, note)


def _values(values: Mapping[str, Datum]) -> list[Html]:
    return [text_span(spelled_datum(value), most=MOST_LETTERS) for value in values.values()]


def query(found: Query) -> Html:
    source, _ = source_of_module(found.module, str(found))
    without = [
        p.name.id for p in found.module.program.params if p.name.id not in found.data and p.default is None
    ]
    parts: list[Html | None] = [program_view(source, None)]
    if found.data:
        parts += [el("p", "Given", class_="faint"), given_view(found.data)]
    if without:
        parts.append(el("p", f"Not given: {', '.join(without)}.", class_="faint"))
    if found.method is not None:
        parts.append(el("p", f"Asked for by the method {found.method}.", class_="faint"))
    if found.policy_folder is not None:
        parts.append(el("p", f"Proposes with the policy in {found.policy_folder}.", class_="faint"))
    if found.models:
        parts.append(
            el("p", f"Other models than the program's for {', '.join(found.models)}.", class_="faint")
        )
    return cell(["Query of ", el("b", found.module.program.name.id)], *parts)


def predictions(found: Predictions) -> Html:
    rows: list[list[Html | str]] = []
    for k, one in enumerate(found.rows[:MOST_POSTERIORS]):
        said = (
            el("span", "no answer", class_="faint")
            if one.answer is None
            else text_span(str(one.answer), most=MOST_LETTERS)
        )
        p, known = one.probs[0][1], found.known[k]
        rows.append(
            [f"{k}", said, bar(p, one.interval(one.best)), share(p), "" if known is None else str(known)]
        )
    head, right = ["row", "answer", "", "probability", "known"], [True, False, False, True, False]
    more = len(found) - MOST_POSTERIORS
    note = el("p", f"… and {plural(more, 'more row')}.", class_="faint") if more > 0 else None
    of = [" of ", el("b", found.rows[0].name)] if found.rows else []
    return cell([plural(len(found), "prediction"), *of], table(head, rows, right) if rows else None, note)


def prediction(found: Prediction) -> Html:
    shown = found.probs[: MOST + FOLDED]
    rows: list[list[Html | str]] = []
    for value, p in shown:
        bounds = found.interval(value)
        between = (
            "" if bounds is None or not bounds[0] < bounds[1] else f"{share(bounds[0])} to {share(bounds[1])}"
        )
        rows.append([text_span(spelled_datum(value), most=MOST_LETTERS), bar(p, bounds), share(p), between])
    head, right = (found.name, "", "probability", "90 % interval"), (False, False, True, False)
    more = len(rows) - MOST
    parts = [table(head, rows[:MOST], right)]
    if more > 0:
        parts.append(
            el("details", el("summary", plural(more, "more value")), table(head, rows[MOST:], right))
        )
    entropy = f"Entropy {number(found.entropy)} nats"
    if found.aleatoric is not None and found.epistemic is not None:
        entropy += f": {number(found.aleatoric)} within draws, {number(found.epistemic)} between them"
    said = [f"{entropy}."]
    if found.other > 0:
        said.append(f"Answers that are not listed have probability {share(found.other)}, by estimate.")
    if found.vote != "soft":
        said.append(f"The vote is {found.vote}.")
    title: list[Html | str] = ["Prediction of ", el("b", found.name), f", {found.posterior.program}"]
    note = el("p", " ".join(said), class_="faint")
    why = found.abstained
    none = None if why is None else el("p", f"No answer: {why}.")
    return cell(title, join(parts), none, note, verdict(found.posterior.verdict))


def reliability(found: Reliability) -> Html:
    title: list[Html | str] = [
        "Predictions of ",
        el("b", found.name),
        f", {plural(found.rows, 'known answer')}",
    ]
    curve = table(found.BIN_HEAD, found.bin_rows(), (False, *[True] * 4))
    return cell(title, *(el("p", line) for line in found.lines()), curve)


def comparison(found: Comparison) -> Html:
    head, rows = found.cells()
    right = [False, *(True for _ in head[1:])]
    notes = [el("p", note, class_="faint") for note in found.notes()]
    title: list[Html | str] = [
        "Comparison of ",
        el("b", found.program),
        f", {found.draws:,} draws of each method",
    ]
    return cell(title, table(head, rows, right), *notes)


def calibration(found: Calibration) -> Html:
    title: list[Html | str] = [
        "Calibration of ",
        el("b", found.method),
        f", {plural(found.rows, 'simulated row')}",
    ]
    title.append(f", {found.draws:,} draws each")
    said = verdict(found.verdict, "good" if found.passed else "bad")
    return cell(title, said, table(None, found.figures(), (False, True)))


def fitted(found: Fitted) -> Html:
    made, certificate = found.manifest, found.manifest.checked
    title: list[Html | str] = [
        "Policy of ",
        el("b", made.name),
        f", {made.steps:,} step{'s' * (made.steps != 1)} in {made.seconds:.0f} s",
    ]
    where = el("p", f"In {found.folder}.", class_="faint")
    if certificate is None:
        return cell(title, verdict("Interrupted, and not certified.", "care"), where)
    kinds = {"good": "good", "usable": "fair", "poor": "bad"}
    said = verdict(certificate.verdict.words, kinds.get(certificate.verdict.level, "care"))
    worth = el("p", certificate.worth) if certificate.worth else None
    lines = el("details", el("summary", "Certificate"), el("pre", "\n".join(certificate.lines())))
    return cell(title, said, worth, lines, where)
