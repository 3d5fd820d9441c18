"""Warnings: where they come up, where they do not, and that they are opt-in."""

from __future__ import annotations

from pathlib import Path

import pytest

from posterior_lm.lang.driver import compile_source
from posterior_lm.lang.source import Source

PROGRAMS = sorted((Path(__file__).parents[2] / "programs").glob("*.plm"))


def lints(body: str, params: str = "a: text", head: str = 'lm base = "tiny"\n') -> list[str]:
    source = Source("test.plm", f"{head}program p({params}) {{\n{body}\n}}\n")
    found = compile_source(source, lint=True).diagnostics
    assert all(d.severity == "warning" for d in found), found
    assert not compile_source(source).diagnostics
    return [d.code for d in found]


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda p: p.stem)
def test_the_programs_are_clean(path: Path) -> None:
    assert compile_source(Source(path.name, path.read_text(encoding="utf-8")), lint=True).diagnostics == ()


@pytest.mark.parametrize(
    ("context", "observed", "codes"),
    [
        ('a, " It is"', '[" ", l]', []),
        ('a, " It is "', "[l]", ["PLM901"]),
        ('a, " It is "', "l", ["PLM901"]),
        ('a, " It is\\t"', "l", ["PLM901"]),
        ('a, " It is\\n"', "l", []),
        ('a, " It is"', "l", ["PLM902"]),
        ('a, " It is:"', "l", []),
        ('a, " It is"', '["ty", l]', ["PLM902"]),
        ('a, " It is"', '["-", l]', []),
        ('" It is ", a', '[" ", l]', []),
        ('[["x", [" It is "]], a, [" so "]]', "[[l]]", ["PLM901"]),
    ],
)
def test_boundaries_of_observed_text(context: str, observed: str, codes: list[str]) -> None:
    assert (
        lints(
            f"latent z: int(0..1) ~ base(a, l) ^ 2\nobserve {observed} ~ base({context})",
            'a: text, l: one_of("x", "y")',
        )
        == codes
    )


@pytest.mark.parametrize(
    ("type_", "context", "codes"),
    [
        ("text(tokens=1..3)", '"Once "', ["PLM901"]),
        ("text(tokens=1..3)", '"Once"', []),
        ("int(0..9)", '"room"', ["PLM902"]),
        ('int(0..9, lead=" ")', '"room"', []),
        ('int(0..9, lead=" ")', '"room "', ["PLM901"]),
        ('one_of(" x", " y")', '"room"', []),
        ('one_of("x", "y")', '"room"', ["PLM902"]),
    ],
)
def test_boundaries_of_latents(type_: str, context: str, codes: list[str]) -> None:
    assert lints(f"latent z: {type_} ~ base({context})\nobserve a ~ base(z)") == codes
    assert lints(f"latent z: {type_} ~ base(a)\nguide z ~ base({context})\nobserve a ~ base(z)") == codes
    assert lints(f"latent z: {type_} ~ base(a)\nobserve a ~ base({context}, z)") == codes
    assert lints(f"latent z: {type_} ~ base(a)\nlet c = [a, {context}]\nfactor log_prob(z, base(c))") == codes


def test_unused() -> None:
    head = 'lm base = "tiny"\nlm other = "x"\ntool t = calculator()\nuse f from "a:b"\n'
    assert lints("let c = 3\nlatent z: int(0..9) ~ base(a) ^ 2", "a: text, b: text", head) == ["PLM903"] * 5


def test_a_guide_that_peeks() -> None:
    body = 'latent z: text(tokens=1..3) ~ base(a)\nobserve [" ", l] ~ base(z)\nlet g = [a, l]\n'
    body += "guide z ~ base({})"
    params = 'a: text, l: one_of("x", "y")'
    assert lints(body.format("g"), params) == ["PLM904"]
    assert lints(body.format("a, l"), params) == ["PLM903", "PLM904"]
    assert lints(body.format("g"), "a: text, l: text") == [], "texts are not what is usually predicted"


def unended(body: str, params: str = "a: text") -> list[str]:
    return [code for code in lints(body, params) if code == "PLM905"]


@pytest.mark.parametrize(
    ("choices", "codes"),
    [('"a", "b"', []), ('"a", "ab"', ["PLM905"]), ('"ab", "c", "a"', ["PLM905"]), ('"a.", "ab."', [])],
)
def test_choices_that_begin_others(choices: str, codes: list[str]) -> None:
    given, spelled = f"a: text, l: one_of({choices})", f"latent z: one_of({choices}) ~ base(a)\n"
    assert unended(f"{spelled}condition z != a") == codes
    assert unended("observe [a, l] ~ base(a)", given) == codes
    assert unended(f"{spelled}let all = [a, z]\nobserve [a] ~ base(all)") == []
    assert unended(f"latent z: one_of({choices}) ~ uniform()\nobserve a ~ base(z)") == [], (
        "no model spells it"
    )
    assert unended('observe [a, l, "."] ~ base(a)', given) == [], "it is ended"


def test_where_nothing_is_observed_nothing_is_ended() -> None:
    for latent in ('z: one_of("a", "ab")', "z: int(0..99)"):
        assert unended(f"latent {latent} ~ base(a)\nobserve [] ~ base(z)") == ["PLM905"]


@pytest.mark.parametrize(
    ("latent", "codes"),
    [
        ("z: int(0..99) ~ base(a)", ["PLM905"]),
        ("z: int(0..99) ~ choice(base(a) ^ 2)", ["PLM905"]),
        ("z: int(-12..3) ~ base(a) ^ 0.5", ["PLM905"]),
        ("z: int(0..most) ~ base(a)", ["PLM905"]),
        ("z: int(0..9) ~ base(a)", []),
        ("z: int(10..99) ~ base(a)", []),
        ("z: int(0..99) ~ uniform()", []),
    ],
)
def test_numbers_that_begin_others(latent: str, codes: list[str]) -> None:
    params = "a: text, most: int = 10"
    assert unended(f"latent {latent}", params) == codes
    assert unended(f'latent {latent}\nobserve ["," , a] ~ base(a, z)', params) == []
    assert unended(f'latent {latent}\nobserve "7" ~ base(a, z)', params) == codes, "a digit ends nothing"


def test_idle_latents() -> None:
    assert lints("latent z: text(tokens=1..3) ~ base(a)") == ["PLM906"]
    assert lints("latent z: text(tokens=1..3) ~ base(a) ^ 2") == []
    assert lints("temper 2 { latent z: text(tokens=1..3) ~ base(a) }") == []
    assert lints("latent z: text(tokens=1..3) ~ base(a)\ncondition words(z) < 3") == []
    told = "condition words(a) < 3\n"
    assert lints(f"{told}latent z: int(0..9) ~ base(a)") == ["PLM906"]
    assert lints(f"{told}latent z: text(tokens=1..3) ~ base(a)\nlatent y: int(0..9) ~ base(a, z)") == []


@pytest.mark.parametrize(
    ("type_", "codes"),
    [
        ('text(tokens=1..3, stop=".")', ["PLM906"]),
        ('text(tokens=1..3, pattern=r"[a-z]+")', []),
        ('text(tokens=1..3, chars="abc", stop=".")', []),
        ('one_of("yes", "no")', []),
    ],
)
def test_a_program_that_only_draws_keeps_its_latent(type_: str, codes: list[str]) -> None:
    source = Source("test.plm", f'lm base = "tiny"\nprogram p(a: text) {{\nlatent z: {type_} ~ base(a)\n}}\n')
    found = compile_source(source, lint=True).diagnostics
    assert [d.code for d in found] == codes
    assert not any("drop" in (d.help or "") for d in found)


def test_other_ends_of_a_program() -> None:
    assert lints("observe a ~ base()") == ["PLM907"]
