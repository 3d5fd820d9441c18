"""The page: whole HTML that nothing can break out of, and the same numbers as the posterior."""

from __future__ import annotations

import base64
import hashlib
import html
import math
import os
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import attrs
import numpy as np
import pytest

import posterior_lm as plm
from posterior_lm.infer.draws import Chains, SmcReport
from posterior_lm.report.diagnostics import running
from posterior_lm.report.facts import Facts, gather, shade
from posterior_lm.report.markup import VOID, el, number, share, text_span
from posterior_lm.report.page import check_place, page, report, write
from tests.cli import ROWS, WALK
from tests.cli import plm as run

NASTY = ("<script>alert(1)</script>", '" onload="x', "&lt;b&gt;", "\u202eabc")
TABLE = {
    "tokens": ["a", "b", *NASTY, "."],
    "order": 1,
    "max_tokens": 12,
    "rows": {
        "": {"a": 0.4, "b": 0.2, NASTY[0]: 0.1, NASTY[1]: 0.1, NASTY[2]: 0.1, NASTY[3]: 0.1},
        "a": {"a": 0.1, "b": 0.6, ".": 0.25, NASTY[0]: 0.05},
        "b": {"a": 0.5, ".": 0.4, NASTY[1]: 0.1},
        NASTY[0]: {"a": 0.0005, ".": 0.9995},
        NASTY[1]: {".": 1.0},
        NASTY[2]: {".": 0.3, "b": 0.7},
        NASTY[3]: {".": 1.0},
        ".": {"a": 0.7, "b": 0.3},
    },
}
MODEL = plm.TabularModel.from_dict(TABLE)


class Tree(HTMLParser):
    """Reads a page and notes what is wrong with its nesting, its tags, attributes, ids, links and text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.style = ""
        self.feed(text)
        self.close()
        self.wrong += [f"{tag} is never closed" for tag in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}> closes something else")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.style += data
        else:
            self.text.append(data)

    @property
    def said(self) -> str:
        return "".join(self.text)

    def all(self, name: str) -> list[str]:
        """Every value of an attribute."""
        return [a[name] or "" for _, a in self.tags if name in a]


def query() -> plm.Query:
    return (
        plm.program("p", "y: text", lm={"m": "table"})
        .latent("z", 'text(tokens=1..3, stop=".")', "m()")
        .latent("k", "int(0..4)", "categorical([0.5, 0.25, 0.15, 0.1, 0.0])")
        .latent("c", 'one_of("red", "green", "blue")', "categorical([0.7, 0.3, 0.0])")
        .observe("y", "m(z) ^ 0.5")
        .factor('0.4 * k + (if c == "green" then 1.0 else 0.0)')
        .lm(m=MODEL)
        .given(y="ab")
    )


def facts_of(n: int = 300, seed: int = 3) -> Facts:
    asked = query().using("importance")
    return gather(asked.target(), asked.draw(n, seed=seed))


def page_of(facts: Facts) -> str:
    return page([facts])


FACTS = facts_of()
TEXT = page_of(FACTS)
TREE = Tree(TEXT)


# ---------------------------------------------------------------- it is whole and shut


def check_shut(text: str) -> Tree:
    tree = Tree(text)
    assert tree.wrong == []
    tags = {tag for tag, _ in tree.tags}
    assert not tags & {
        "script",
        "link",
        "iframe",
        "object",
        "embed",
        "img",
        "form",
        "base",
        "foreignobject",
        "image",
    }
    names = {name for _, attributes in tree.tags for name in attributes}
    assert not [
        name for name in names if name.startswith("on") or name in ("style", "src", "xlink:href", "srcdoc")
    ]
    assert all(link.startswith("#") for link in tree.all("href"))
    ids = tree.all("id")
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in tree.all("href")} <= set(ids)
    assert not re.search(r"url\(|@import|https?:|//", tree.style)
    policy = next(a["content"] for t, a in tree.tags if t == "meta" and "http-equiv" in a)
    digest = base64.b64encode(hashlib.sha256(tree.style.encode()).digest()).decode()
    assert policy is not None and f"default-src 'none'; style-src 'sha256-{digest}';" in policy
    return tree


def test_a_page_is_balanced_and_asks_for_nothing() -> None:
    tree = check_shut(TEXT)
    assert "<!DOCTYPE html>" in TEXT and not re.search(r"https?://", TEXT)
    assert {"program", "given", "posterior", "tokens", "terms", "trust", "graph", "provenance"} <= set(
        tree.all("id")
    )


def test_what_a_model_wrote_is_text_everywhere() -> None:
    drawn = {v.text for v in FACTS.posterior.draws.values["z"]}
    for nasty in NASTY:
        assert any(nasty in text for text in drawn), "the seed draws none: the test would see nothing"
    for nasty in NASTY[:3]:
        assert nasty in TREE.said
    assert "\u202e" not in TEXT and "\\u202eabc" in TREE.said


def test_what_data_and_programs_say_is_text_too() -> None:
    asked = (
        plm.program("p", "y: text", "note: text", lm={"m": "table"})
        .latent("z", 'one_of("<b>", "</pre><img src=x>", "--><i>")', "categorical([0.6, 0.3, 0.1])")
        .observe("y", 'm("a")')
        .factor('0.0 * count(z, "</svg><script>")')
        .lm(m=MODEL)
        .given(y="b", note="</style><script>x</script>" + chr(7))
    )
    facts = gather(asked.target(), asked.draw())
    tree = check_shut(page([facts], command="plm report '<script>'"))
    for shown in ("</pre><img src=x>", "</style><script>x</script>\\u0007", "plm report '<script>'"):
        assert shown in tree.said


@pytest.mark.parametrize("text", ['<a href="x">', "&amp;", "'", "\x1b[31m", "\u2066x"])
def test_elements_escape_children_and_attributes(text: str) -> None:
    tree = Tree(el("p", text, title=text))
    shown = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
    assert tree.said == shown and tree.tags == [("p", {"title": shown})] and tree.wrong == []


def test_long_texts_are_cut_and_say_so() -> None:
    assert Tree(text_span("x" * 30, most=10)).said == "x" * 10 + " \u2026 20 more characters"
    assert Tree(text_span("x" * 10, most=10)).said == "x" * 10
    assert Tree(text_span("a\nb")).said == "a\u21b5\nb" and Tree(text_span("")).said == "empty"


# ---------------------------------------------------------------- the numbers are those of the posterior


def test_the_page_shows_the_posteriors_numbers() -> None:
    posterior = FACTS.posterior
    assert posterior.verdict in TREE.said
    for shown in (
        f"{number(posterior.log_evidence)} \u00b1 {number(posterior.log_evidence_se)}",
        number(posterior.ess, 1), posterior.fingerprint, MODEL.identity.digest,
    ):  # fmt: skip
        assert shown in TREE.said
    table = TREE.said[TREE.said.index("log reward") :]
    for merged in posterior.merged()[:25]:
        row = [share(merged.weight), number(merged.log_reward, 2), *map(str, merged.values.values())]
        assert (
            "".join("".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in cell) for cell in row)
            in table
        )
    for name in ("k", "c"):
        for value, p in posterior.marginal(name):
            assert f"{value}90% interval" in TREE.said and share(p) in TREE.said
    assert f"mean {number(posterior.expect(lambda v: float(v['k'])).value, 2)}" in TREE.said


def test_spellings_are_counted() -> None:
    model = plm.TabularModel.random(["a", "b", "ab"], order=1, max_tokens=4, rng=2)
    asked = plm.program("p", lm={"m": "t"}).latent("z", "text(tokens=1..2)", "m()").lm(m=model)
    posterior = asked.draw()
    merged = next(m for m in posterior.merged() if m.values["z"] == "ab")
    assert merged.sequences == 2
    tree = Tree(page([gather(asked.target(), posterior)]))
    assert f"{share(merged.weight)}{number(merged.log_reward, 2)}2ab" in tree.said


def test_a_value_without_draws_is_in_its_marginal() -> None:
    bars = TREE.said[TREE.said.index("c: posterior probability") :]
    assert re.match(r"c: posterior probability of each value, with 90% intervals"
                    r"red.*?%green.*?%blue90% interval 0\.0% to .*?%0\.0%", bars)  # fmt: skip


def test_terms_are_means_over_the_posterior() -> None:
    posterior, statements = FACTS.posterior, FACTS.target.statements
    weights = posterior.weights
    rows = [{name: v[d].datum for name, v in posterior.draws.values.items()} for d in range(posterior.n)]
    k = next(i for i, info in enumerate(statements) if info.keyword == "factor")
    factor = np.array([0.4 * row["k"] + (row["c"] == "green") for row in rows])
    mean = float(weights @ factor)
    assert math.isclose(FACTS.terms.mean[k], mean, abs_tol=1e-9)
    assert math.isclose(FACTS.terms.sd[k], math.sqrt(float(weights @ (factor - mean) ** 2)), abs_tol=1e-9)
    assert math.isclose(FACTS.terms.mean.sum(), float(weights @ posterior.draws.log_reward), abs_tol=1e-9)
    low, high = FACTS.terms.low[k], FACTS.terms.high[k]
    assert weights[factor < low - 1e-9].sum() < 0.05 <= weights[factor <= low + 1e-9].sum()
    assert weights[factor < high - 1e-9].sum() < 0.95 <= weights[factor <= high + 1e-9].sum() + 1e-9
    assert low < high and math.isclose(FACTS.terms.covered, 1.0)
    assert (
        f"{number(FACTS.terms.mean[k], 2)}{number(FACTS.terms.sd[k], 2)}{number(low, 2)} to {number(high, 2)}"
        in TREE.said
    )
    for m, heavy in enumerate(FACTS.heavy[:5]):
        assert math.isclose(FACTS.terms.shown[m].sum(), posterior.draws.log_reward[heavy.draw], abs_tol=1e-9)
    assert (
        math.isclose(sum(h.weight for h in FACTS.heavy), 1.0)
        and FACTS.heavy[0].weight > FACTS.heavy[1].weight
    )


def test_ninety_per_cent_of_the_posterior_lies_within_the_shown_range() -> None:
    asked = plm.program("q").latent("k", "int(0..60)", "poisson(9)").factor("1.0 * k")
    facts = gather(asked.target(), asked.draw())
    mass = [math.exp(k * math.log(9 * math.e) - math.lgamma(k + 1)) for k in range(61)]
    below = np.cumsum(mass) / sum(mass)
    assert (facts.terms.low[1], facts.terms.high[1]) == (np.argmax(below >= 0.05), np.argmax(below >= 0.95))
    titles = re.findall(r"<title>(\d+): ([^<]*)</title>", page([facts]))
    assert titles == [(str(k), html.escape(share(m / sum(mass)))) for k, m in enumerate(mass)]


def test_rows_that_hold_nearly_all_are_shown_at_once() -> None:
    asked = plm.program("q").latent("k", "int(0..60)", "poisson(9)")
    text = page([gather(asked.target(), asked.draw())])
    first, second = text[text.index('id="posterior"') :].split("<details>")[:2]
    mass = sorted((math.exp(k * math.log(9) - 9 - math.lgamma(k + 1)) for k in range(61)), reverse=True)
    needed = next(m for m in range(61) if sum(mass[:m]) >= 0.995)
    assert 8 < needed < 25 and first.count("<tr>") == needed + 1
    assert f"{61 - needed} more values with {share(1 - sum(mass[:needed]))}" in second
    assert second.split("</details>")[0].count("<tr>") == 61 - needed + 1


def test_a_score_that_two_statements_share_is_read_once() -> None:
    asked = query().factor("0.5 * log_prob(z, m())")
    facts = gather(asked.target(), asked.draw(20, seed=1))
    assert [r.label for r in facts.readings[0]] == ["latent z", "observe y"]


def test_every_token_stands_below_its_statement() -> None:
    shaded = [a for tag, a in TREE.tags if tag == "span" and (a.get("class") or "").startswith("tok ")]
    legend = 6
    assert len(shaded) - legend == sum(len(r.tokens) for readings in FACTS.readings for r in readings)


def test_tokens_have_the_models_probabilities() -> None:
    seen = 0
    for heavy, readings in zip(FACTS.heavy, FACTS.readings, strict=False):
        first, second = readings
        value = FACTS.posterior.draws.values["z"][heavy.draw]
        assert "".join(t.text for t in first.tokens) == value.text and first.label == "latent z"
        before = ""
        for token in first.tokens:
            assert math.isclose(math.exp(token.log_prob), TABLE["rows"][before][token.text], rel_tol=1e-9)
            before, seen = token.text, seen + 1
        assert [t.text for t in second.tokens] == ["a", "b"]
        assert math.isclose(second.log_prob, math.log(TABLE["rows"]["."]["a"] * 0.6), rel_tol=1e-9)
        k = second.term  # the program takes the square root of this probability
        assert math.isclose(FACTS.terms.shown[0, k], 0.5 * second.log_prob, rel_tol=1e-9)
    assert seen > 10
    assert "p = 0.4, \u22120.92 nats" in TREE.all("title")


def test_shades_go_by_probability() -> None:
    shades = [shade(math.log(p)) for p in (0.9, 0.5, 0.49, 0.2, 0.19, 0.04, 0.009, 0.0009)]
    assert shades == [0, 0, 1, 1, 2, 3, 4, 5] and shade(-math.inf) == 5


def test_end_of_text_is_a_token_where_it_is_scored() -> None:
    model = plm.TabularModel.from_dict(
        {"tokens": ["a", "b"], "order": 1, "max_tokens": 4,
         "rows": {"": {"a": 0.7, "b": 0.2, "<eos>": 0.1}, "a": {"a": 0.2, "b": 0.3, "<eos>": 0.5},
                  "b": {"a": 0.1, "b": 0.1, "<eos>": 0.8}}}
    )  # fmt: skip
    asked = plm.program("p", lm={"m": "t"}).latent("z", "text(tokens=1..2)", "m()").lm(m=model)
    facts = gather(asked.target(), asked.draw())
    (reading,) = facts.readings[0]
    assert reading.tokens[-1].text == "end of text"
    assert math.isclose(reading.log_prob, float(facts.terms.shown[0].sum()), rel_tol=1e-9)


def test_running_evidence_ends_where_the_posterior_is() -> None:
    draws = attrs.evolve(
        FACTS.posterior.draws, log_weights=np.array([-np.inf, -3.0, -900.0, -1.5, -np.inf, -2.0])
    )
    middle, se = running(draws.log_weights)
    assert middle[0] == -np.inf and math.isclose(middle[1], -3.0 - math.log(2))
    assert math.isclose(middle[-1], draws.log_evidence) and math.isclose(se[-1], draws.log_evidence_se)


def test_numbers_for_people() -> None:
    assert [number(x, 1) for x in (-0.04, -0.06, 2.0, None, math.nan, math.inf, -math.inf)] == [
        "0.0", "\u22120.1", "2.0", "\u2013", "\u2013", "\u221e", "\u2212\u221e"]  # fmt: skip
    assert [share(p) for p in (0, 0.0002, 0.0349, 0.9995, 1)] == [
        "0.0%",
        "< 0.1%",
        "3.5%",
        "> 99.9%",
        "100.0%",
    ]


# ---------------------------------------------------------------- every kind of result


def test_an_exact_list_shows_its_certificate() -> None:
    asked = query().using("exact")
    facts = gather(asked.target(), asked.draw())
    tree = check_shut(page([facts]))
    assert "Exact: every value of the support is listed." in tree.said
    assert "left out, at most0.0%" in tree.said and "ESS" not in tree.said and "k-hat" not in tree.said


def test_particles_and_chains_are_told() -> None:
    draws = FACTS.posterior.draws
    smc = attrs.evolve(draws, particles=SmcReport(7.25, 13, 2))
    posterior = attrs.evolve(FACTS.posterior, draws=smc)
    tree = check_shut(page_of(gather(query().target(), posterior)))
    assert "least ESS over time7.2" in tree.said and "surviving ancestors13 of 300" in tree.said
    assert "resampled2 times" in tree.said and "as draws come in" not in tree.said
    assert "as draws come in" in TREE.said
    chains = Chains(3, np.arange(300) % 3, 1.234, 41.0, 0.37)
    mcmc = attrs.evolve(draws, log_weights=np.zeros(300), chains=chains)
    tree = check_shut(page_of(gather(query().target(), attrs.evolve(FACTS.posterior, draws=mcmc))))
    assert "R-hat1.234" in tree.said and "moves accepted37.0%" in tree.said and "ESS41.0" in tree.said
    assert "Log reward along 3 chains" in tree.said and len(re.findall("polyline", TEXT)) > 0
    assert "log evidence\u2013" in tree.said and "Cumulative weight" not in tree.said


def test_dead_draws_are_counted_and_no_mean_minds_them() -> None:
    asked = query().condition("k < 3")
    draws = FACTS.posterior.draws
    alive = np.array([v.datum < 3 for v in draws.values["k"]])  # type: ignore[operator]
    weights, rewards = (np.where(alive, x, -np.inf) for x in (draws.log_weights, draws.log_reward))
    draws = attrs.evolve(draws, log_weights=weights, log_reward=rewards)
    posterior = attrs.evolve(FACTS.posterior, draws=draws, fingerprint=asked.fingerprint)
    dead = int(np.sum(~alive))
    assert dead > 0
    facts = gather(asked.target(), posterior)
    assert np.isfinite(facts.terms.mean).all()
    assert f"dead draws{dead}" in Tree(page([facts])).said


def test_a_program_without_latents_and_one_without_models() -> None:
    asked = plm.program("p", "y: text", lm={"m": "t"}).observe("y", "m()").lm(m=MODEL).given(y="ab")
    tree = check_shut(page([gather(asked.target(), asked.draw())]))
    assert "no latents" in tree.said
    asked = plm.program("q").latent("k", "int(0..200)", "poisson(70)").factor("-0.01 * k")
    tree = check_shut(page([gather(asked.target(), asked.draw())]))
    assert "term by term" in tree.said and "Marginal of k, 2 values a bar" in tree.said


def test_plates_show_a_text_for_each_row() -> None:
    asked = (
        plm.program("p", "rows: table(out: text)", lm={"m": "t"})
        .latent("z", 'text(tokens=1..2, stop=".")', "m()")
        .plate("r", "rows", lambda q: q.observe("r.out", "m(z)"))
        .lm(m=MODEL)
        .given(rows=[{"out": "a"}, {"out": "ba"}])
    )
    facts = gather(asked.target(), asked.draw())
    parts = [(r.part, r.parts, "".join(t.text for t in r.tokens)) for r in facts.readings[0]]
    assert parts[1:] == [(1, 2, "a"), (2, 2, "ba")]
    tree = check_shut(page([facts]))
    assert "text 2 of 2, " in tree.said and "sum over the rows of rows" in tree.said


def test_draws_of_another_program_or_other_data_are_refused() -> None:
    posterior = FACTS.posterior
    with pytest.raises(plm.DataError) as refused:
        gather(query().factor("1.0 * k").target(), posterior)
    assert refused.value.diagnostics[0].code == "PLM740" and "program" in str(refused.value)
    with pytest.raises(plm.DataError) as refused:
        gather(query().given(y="ba").target(), posterior)
    assert refused.value.diagnostics[0].code == "PLM740" and "data" in str(refused.value)


# ---------------------------------------------------------------- the file


def test_equal_seeds_give_equal_bytes(tmp_path: Path) -> None:
    asked = query().using("importance")
    first = report(asked.target(), asked.draw(60, seed=4), tmp_path / "a.html").read_bytes()
    assert report(asked.target(), asked.draw(60, seed=4), tmp_path / "b.html").read_bytes() == first
    assert report(asked.target(), asked.draw(60, seed=5), tmp_path / "b.html").read_bytes() != first


def test_a_file_is_replaced_whole_or_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.html"
    path.write_text("old")
    path.chmod(0o640)
    write(path, "new")
    assert path.read_text() == "new" and path.stat().st_mode & 0o777 == 0o640
    fresh = write(tmp_path / "b.html", "x")
    mask = os.umask(0)
    os.umask(mask)
    assert fresh.stat().st_mode & 0o777 == 0o666 & ~mask

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(plm.DataError) as refused:
        write(path, "newer")
    assert refused.value.diagnostics[0].code == "PLM805" and "no space left" in str(refused.value)
    assert path.read_text() == "new" and {p.name for p in tmp_path.iterdir()} == {"a.html", "b.html"}


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link.html").symlink_to(tmp_path / "there" / "real.html")
    write(tmp_path / "link.html", "x")
    assert (tmp_path / "link.html").is_symlink() and (tmp_path / "there" / "real.html").read_text() == "x"


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, why in (
        (tmp_path, "it is a folder"),
        (tmp_path / "no" / "a.html", "its folder is missing"),
        (tmp_path / "file" / "a.html", "its folder is a file"),
    ):
        with pytest.raises(plm.DataError) as refused:
            check_place(path)
        assert refused.value.diagnostics[0].code == "PLM805" and why in str(refused.value)
    check_place(tmp_path / "a.html")


# ---------------------------------------------------------------- the command


def test_the_command_writes_a_page_that_tells_how_to_make_it_again(tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    done = run(
        "report",
        WALK,
        "--data",
        ROWS,
        "--row",
        0,
        "-n",
        50,
        "--seed",
        3,
        "--method",
        "importance",
        "--out",
        out,
    )
    assert done.exit_code == 0, done.stderr
    assert done.stdout == f"wrote {out}\n"
    text = out.read_text(encoding="utf-8")
    tree = check_shut(text)
    line = tree.said[tree.said.index("plm report") :].split("versions")[0]
    words = shlex.split(line)
    assert words[:3] == ["plm", "report", WALK] and words[-2:] == ["--out", "r.html"]
    again = tmp_path / "again" / "r.html"
    again.parent.mkdir()
    assert run(*words[1:-1], again).exit_code == 0
    assert again.read_text(encoding="utf-8") == text


def test_lines_of_terms_point_into_the_program(tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    assert run("report", WALK, "--given", "start=a", "--given", "end=b", "--out", out).exit_code == 0
    tree = check_shut(out.read_text(encoding="utf-8"))
    assert [link for link in tree.all("href") if re.fullmatch(r"#L\d+", link)] == ["#L5", "#L6"]
    assert tree.said.count("# A walk over two letters") == 1


def test_several_rows_share_a_page(tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    done = run("report", WALK, "--data", ROWS, "-n", 40, "--out", out)
    assert done.exit_code == 0, done.stderr
    tree = check_shut(out.read_text(encoding="utf-8"))
    rows = len(Path(ROWS).read_text().splitlines())
    assert [i for i in tree.all("id") if i.startswith("posterior-")] == [
        f"posterior-{k}" for k in range(rows)
    ]
    for k in range(rows):
        seen = plm.load(WALK)
        case = run("run", WALK, "--data", ROWS, "--row", k, "-n", 40, "--format", "json")
        assert seen.fingerprint in case.stdout and case.exit_code == 0


def test_bad_requests_are_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("it drew")

    monkeypatch.setattr(plm.Query, "draw", never)
    given = ("--given", "start=a", "--given", "end=b")
    done = run("report", WALK, *given, "--out", tmp_path / "no" / "r.html")
    assert done.exit_code == 1 and "PLM805" in done.stderr and "folder is missing" in done.stderr
    assert run("report", WALK, *given).exit_code == 2
    many = tmp_path / "many.jsonl"
    many.write_text('{"start": "a", "end": "b"}\n' * 21)
    done = run("report", WALK, "--data", many, "--out", tmp_path / "r.html")
    assert done.exit_code == 2 and "20 rows at most" in done.stderr and not (tmp_path / "r.html").exists()
