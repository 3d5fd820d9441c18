"""The page put together: what was found first, then why, then how far to trust it and where it comes from.

It is written whole or not at all, and refused before any work where it cannot be written.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from posterior_lm import storage
from posterior_lm.lang.diagnostics import DataError
from posterior_lm.report.diagnostics import diagnostics_view
from posterior_lm.report.draws import draws_view, marginals_view, terms_view
from posterior_lm.report.facts import Facts, gather, tokens_view
from posterior_lm.report.graph_svg import graph_rule, graph_view
from posterior_lm.report.markup import STYLE, Html, el, join, number, plural
from posterior_lm.report.program import given_view, program_view, provenance_view, source_of

if TYPE_CHECKING:
    from posterior_lm.api.posterior import Posterior
    from posterior_lm.target.target import Target


def page(facts: Sequence[Facts], command: str | None = None) -> str:
    """The whole HTML document for one or more bindings of one program.

    It asks for nothing from outside and runs nothing: the security policy in its head
    allows one style sheet, by its digest. Equal draws give equal bytes.
    """
    source, own = source_of(facts[0].target.prepared)
    name = facts[0].posterior.program
    several = len(facts) > 1
    sections = [section("program", "Program", program_view(source))]
    if not several:
        sections.append(section("given", "Given", given_view(facts[0].given)))
    top = [summary(facts[0].posterior)] if not several else [_rows(facts)]
    answers = [part for one in facts for part in _answer(one, "L" if own else None, several)]
    sections += answers
    sections.append(section("graph", "Graph of the log reward", graph_view(facts[0].target.program)))
    sections.append(section("provenance", "Provenance", provenance_view(facts[0].posterior, command)))
    style = STYLE + graph_rule(facts[0].target.program)
    return document(f"{name}: posterior", name, [*top, _contents(facts, several)], sections, style)


def document(
    title: str, heading: str, top: Sequence[Html], sections: Sequence[Html], style: str = STYLE
) -> str:
    """A page with a heading, what stands below it, and sections."""
    head = [
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=_policy(style)),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("meta", name="referrer", content="no-referrer"),
        el("title", title),
        Html(f"<style>{style}</style>"),
    ]
    header = el("header", el("p", "posterior_lm", class_="brand"), el("h1", heading), *top)
    body = el("body", header, el("main", *sections))
    return "<!DOCTYPE html>\n" + el("html", el("head", *head), body, lang="en") + "\n"


def _policy(style: str) -> str:
    digest = base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii")
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def _answer(facts: Facts, prefix: str | None, several: bool) -> list[Html]:
    """The sections of one binding."""
    mark = f"-{facts.row}" if several else ""
    where = f" of row {facts.row}" if several else ""
    posterior = facts.posterior
    how = "token" if any(facts.readings) else "term"
    found = [
        section(f"posterior{mark}", f"Posterior{where}", draws_view(posterior), marginals_view(facts)),
        section(f"tokens{mark}", f"The heaviest draws{where}, {how} by {how}", tokens_view(facts)),
        section(f"terms{mark}", f"Terms of the log reward{where}", terms_view(facts, prefix)),
        section(f"trust{mark}", f"How far to trust it{where}", diagnostics_view(posterior)),
    ]
    if several:
        found.insert(0, el("div", el("h2", f"Row {facts.row}"), summary(posterior), given_view(facts.given),
                           id=f"row{mark}", class_="row-head"))  # fmt: skip
    return found


def section(name: str, title: str, *children: Html | None) -> Html:
    return el("section", el("h2", title), *children, id=name)


def summary(posterior: Posterior) -> Html:
    """The verdict, and the numbers that it rests on."""
    draws = posterior.draws
    se = posterior.log_evidence_se
    spread = f" \u00b1 {number(se)}" if se is not None and not draws.exact and se < math.inf else ""
    least = "\u2265 " if draws.exact and se is None else ""
    tiles = [
        ("method", posterior.method),
        ("log evidence, nats", f"{least}{number(posterior.log_evidence)}{spread}"),
    ]
    if draws.exact:
        tiles.append(("values listed", f"{len(draws):,}"))
    else:
        tiles += [
            ("draws", f"{len(draws):,}"),
            ("distinct", f"{draws.distinct:,}"),
            ("ESS", number(draws.ess, 1)),
        ]
        tiles.append(
            ("k-hat", number(draws.khat, 2))
            if draws.chains is None
            else ("R-hat", number(draws.chains.rhat, 3))
        )
    boxes = [el("div", el("dt", label), el("dd", value)) for label, value in tiles]
    verdict = el("p", posterior.verdict, class_=f"verdict {tone(posterior.verdict)}")
    return join([verdict, el("dl", *boxes, class_="tiles")])


def tone(verdict: str) -> str:
    """The colour of a verdict, from its first words."""
    for start, tone in (("Exact", "good"), ("Good", "good"), ("Usable", "fair"), ("Do not", "bad")):
        if verdict.startswith(start):
            return tone
    return "care"


def _rows(facts: Sequence[Facts]) -> Html:
    items = [
        el("li", el("a", f"Row {one.row}", href=f"#row-{one.row}"), f": {one.posterior.verdict}")
        for one in facts
    ]
    return join([el("p", f"{plural(len(facts), 'row')} of data."), el("ul", *items)])


def _contents(facts: Sequence[Facts], several: bool) -> Html:
    """Links to the sections."""
    links = [("program", "Program")]
    if several:
        links += [(f"row-{one.row}", f"Row {one.row}") for one in facts]
    else:
        links += [("given", "Given"), ("posterior", "Posterior"), ("tokens", "Tokens"), ("terms", "Terms"),
                  ("trust", "Trust")]  # fmt: skip
    links += [("graph", "Graph"), ("provenance", "Provenance")]
    return el("nav", *(el("a", words, href=f"#{name}") for name, words in links), aria_label="Sections")


# ---- writing it


def report(target: Target, posterior: Posterior, path: str | Path, *, command: str | None = None) -> Path:
    """Writes the page of one posterior of a bound program; returns its path.

    Raises DataError PLM740 where the posterior is not the target's, PLM805 where the
    file cannot be written.
    """
    check_place(path)
    return write(path, page([gather(target, posterior)], command))


def report_rows(facts: Sequence[Facts], path: str | Path, *, command: str | None = None) -> Path:
    """The same for several bindings of one program."""
    return write(path, page(facts, command))


def check_place(path: str | Path) -> None:
    """Raises DataError PLM805 where no file of this name can be written. Call it before any work."""
    storage.check_place(path, "PLM805", "report.html")


def write(path: str | Path, text: str) -> Path:
    """Replaces the file at once, keeping the permissions that it had. Raises DataError PLM805."""
    try:
        storage.replace(Path(path), text.encode())
    except OSError as problem:
        why = (problem.strerror or str(problem)).lower()
        raise DataError.of("PLM805", f"cannot write {path}: {why}", where=str(path)) from None
    return Path(path)
