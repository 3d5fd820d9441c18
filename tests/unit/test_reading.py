"""What a guide reads: its statement, or what was observed after the latent before what the latent reads."""

from __future__ import annotations

import pytest

from posterior_lm.infer.guide import contexts_of
from posterior_lm.lang.diagnostics import InferenceError
from posterior_lm.target.segments import Known, Splice
from posterior_lm.target.target import Target
from posterior_lm.train.guide import Reading, readings_of
from tests.strategies import compiled, table

LETTERS = tuple("abcdefgh.,:\n 0123")
MODELS = {"base": table(LETTERS, seed=1), "twin": table(LETTERS, seed=2), "other": table(("a", "b"), seed=3)}
TEXT = 'text(tokens=1..3, stop=".")'


def target_of(body: str, params: str = "", **data: object) -> Target:
    heads = "\n".join(f'lm {name} = "{name}"' for name in MODELS)
    return compiled(f"{heads}\nprogram p({params}) {{\n{body}\n}}", data, MODELS)


def read(body: str, params: str = "", **data: object) -> dict[str, str]:
    """The text of each latent's reading, with a latent's name in angle brackets."""
    found = readings_of(target_of(body, params, **data))
    return {name: spelled(reading) for name, reading in found.items()}


def spelled(reading: Reading) -> str:
    parts = []
    for segment in reading.segments:
        assert isinstance(segment, Known | Splice)
        parts.append(segment.text if isinstance(segment, Known) else f"<{segment.latent}>")
    return "".join(parts)


# ------------------------------------------------------------------- the default


def test_infilling_shows_the_ending_before_the_opening() -> None:
    body = f'latent z: {TEXT} ~ base(a) observe [" ", b] ~ base(a, z)'
    reading = readings_of(target_of(body, "a: text, b: text", a="ab,", b="cd."))["z"]
    assert reading == Reading("base", (Known("cd.\nab,"),), stated=False)


def test_nothing_before_the_latent() -> None:
    body = f'latent z: {TEXT} ~ base() observe [" ", b] ~ base(z)'
    assert read(body, "b: text", b="cd.") == {"z": "cd.\n"}


def test_nothing_after_the_latent() -> None:
    assert read(f'latent z: {TEXT} ~ base("ab") ^ 1.5') == {"z": "ab"}


def test_every_observation_on_a_line_of_its_own_in_order() -> None:
    body = f"""latent z: {TEXT} ~ base("ab")
        observe [" ", d] ~ base(z, "e")
        temper 0.5 {{ observe c ~ base("f", z, "g") }}
        observe "h" ~ base(z)"""
    assert read(body, "c: text, d: text", c="c0", d="d1") == {"z": "e d1\ngc0\nh\nab"}


def test_what_stands_between_counts_and_what_stands_before_does_not() -> None:
    body = f'latent z: {TEXT} ~ base("a") observe c ~ base("dd", z, "e", z, "f")'
    assert read(body, "c: text", c="c") == {"z": "fc\na"}


def test_an_observed_list_that_holds_the_latent() -> None:
    body = f'latent z: {TEXT} ~ base("a") observe ["d", z, " ", c] ~ base("e")'
    assert read(body, "c: text", c="c") == {"z": "c\na"}


def test_a_latent_that_is_observed_itself_shows_nothing() -> None:
    body = f'latent z: {TEXT} ~ base("a") observe z ~ base("b") observe ["c", z] ~ base("d")'
    assert read(body) == {"z": "a"}


def test_an_observation_that_does_not_read_the_latent_is_left_out() -> None:
    body = f'latent z: {TEXT} ~ base("a") observe c ~ base("d")'
    assert read(body, "c: text", c="c") == {"z": "a"}


def test_conditions_and_factors_are_left_out() -> None:
    body = f"""latent z: {TEXT} ~ base("a") condition contains(z, c) condition z != d
        factor -0.3 * chars(z) observe e ~ base(z)"""
    assert read(body, "c: text, d: text, e: text", c="c", d="d", e="e") == {"z": "e\na"}


def test_rows_of_a_plate_in_order() -> None:
    body = f"""latent z: {TEXT} ~ base("a")
        plate r in rows {{ observe [" ", r.y] ~ base(z, "b: ", r.x, "\\nc:") }}"""
    rows = [{"x": "0", "y": "d"}, {"x": "1", "y": "e"}, {"x": "2", "y": "f"}]
    wanted = "b: 0\nc: d\nb: 1\nc: e\nb: 2\nc: f\na"
    assert read(body, "rows: table(x: text, y: text)", rows=rows) == {"z": wanted}


def test_a_latent_in_a_plate_reads_its_own_row() -> None:
    body = f"plate r in rows {{ latent z: {TEXT} ~ base(r.x) observe r.y ~ base(z) }}"
    rows = [{"x": "0", "y": "d"}, {"x": "1", "y": "e"}]
    assert read(body, "rows: table(x: text, y: text)", rows=rows) == {"z[0]": "d\n0", "z[1]": "e\n1"}


# ------------------------------------------------------------------- observed values of finite types


@pytest.mark.parametrize(
    ("kind", "value", "shown"),
    [('one_of("a.", "bc")', "bc", "dbc\na"), ("int(0..3)", 2, "d2\na"), ('int(0..3, lead=" ")', 3, "d 3\na")],
)
def test_a_choice_is_shown_as_it_is_spelled(kind: str, value: object, shown: str) -> None:
    body = f'latent z: {TEXT} ~ base("a") observe c ~ choice(base(z, "d"))'
    assert read(body, f"c: {kind}", c=value) == {"z": shown}


def test_the_right_choice_is_shown() -> None:
    body = f'latent z: {TEXT} ~ base("a") observe c ~ choice(base(z, " d"))'
    kind = 'c: one_of("e", "f", "g")'
    assert [read(body, kind, c=one)["z"] for one in "efg"] == ["de\na", "df\na", "dg\na"]


# ------------------------------------------------------------------- several latents


def test_a_later_latent_is_not_shown_to_an_earlier_one_and_an_earlier_one_is() -> None:
    body = f"""latent x: {TEXT} ~ base("a") latent z: {TEXT} ~ base("b", x)
        observe c ~ base(z, "d", x, "e") observe "h" ~ base(x, "f", z)"""
    # Of `z` in the first statement the text after it holds x, which is drawn by then; of `x` in the
    # second the observed "h" comes after z, which is not: what stands around it is shown.
    assert read(body, "c: text", c="c") == {"x": "ec\nfh\na", "z": "d<x>ec\nh\nb<x>"}


def test_the_prior_of_a_later_latent_is_no_observation() -> None:
    body = f'latent x: {TEXT} ~ base("a") latent z: {TEXT} ~ base(x, "b") observe c ~ base(z)'
    assert read(body, "c: text", c="c") == {"x": "a", "z": "c\n<x>b"}


def test_computed_text_is_shown_once_what_it_needs_is_drawn() -> None:
    body = f"""latent x: {TEXT} ~ base("a") latent z: {TEXT} ~ base("b")
        observe c ~ base(x, z, if contains(x, "d") then "e" else "ff")
        observe c ~ base(x, if contains(z, "d") then "e" else "ff")"""
    target = target_of(body, "c: text", c="c")
    found = readings_of(target)
    assert spelled(found["x"]) == "c\nc\na"
    values = {"x": [target.value_of("x", target.models["base"].tokenizer.encode(t)) for t in ("d.", "a.")]}
    contexts, _ = contexts_of(target, "base", found["z"].segments, values, 2)
    assert [target.models["base"].tokenizer.decode(c).lstrip("\0") for c in contexts] == ["ec\nb", "ffc\nb"]


def test_latents_that_no_model_draws_have_no_reading() -> None:
    body = f'latent k: int(0..2) ~ uniform() latent z: {TEXT} ~ base(k, "a")'
    assert read(body) == {"z": "<k>a"}


def test_a_finite_latent_that_a_model_draws_has_one() -> None:
    body = 'latent k: one_of("a", "bc") ~ choice(base("d")) observe c ~ base("e", k)'
    assert set(read(body, "c: text", c="c")) == {"k"}
    assert read(body, "c: text", c="c")["k"].startswith("c\n")


# ------------------------------------------------------------------- a statement wins


def test_a_guide_statement_wins() -> None:
    body = f'latent z: {TEXT} ~ base("a") observe c ~ base(z) guide z ~ base("d", c, "e")'
    (reading,) = readings_of(target_of(body, "c: text", c="c")).values()
    assert reading == Reading("base", (Known("dce"),), stated=True)


def test_a_guide_may_read_earlier_latents_and_another_model() -> None:
    body = f"""latent x: {TEXT} ~ base("a") latent z: {TEXT} ~ base("b")
        guide x ~ twin("c") guide z ~ twin("d", x)"""
    found = readings_of(target_of(body))
    assert {n: (r.lm, spelled(r), r.stated) for n, r in found.items()} == {
        "x": ("twin", "c", True),
        "z": ("twin", "d<x>", True),
    }


def test_a_guide_lets_a_model_draw_what_a_plain_distribution_gave() -> None:
    body = 'latent k: int(0..2) ~ uniform() observe c ~ base(k) guide k ~ base("d", c)'
    assert read(body, "c: text", c="c") == {"k": "dc"}


def test_a_guide_for_one_latent_leaves_the_default_of_the_others() -> None:
    body = f"""latent x: {TEXT} ~ base("a") latent z: {TEXT} ~ base("b") observe c ~ base(z)
        guide x ~ base("h")"""
    found = readings_of(target_of(body, "c: text", c="c"))
    assert {n: (spelled(r), r.stated) for n, r in found.items()} == {"x": ("h", True), "z": ("c\nb", False)}


# ------------------------------------------------------------------- refusals


@pytest.mark.parametrize("body", ["latent k: int(0..2) ~ uniform()", 'observe "a" ~ base("b")'])
def test_where_no_model_draws_anything(body: str) -> None:
    with pytest.raises(InferenceError, match="PLM623"):
        readings_of(target_of(body))


def test_guides_over_several_models_are_refused_by_name() -> None:
    body = 'latent x: text(tokens=1..2) ~ base("a") latent z: text(tokens=1..2) ~ other("a")'
    with pytest.raises(InferenceError, match="PLM623") as caught:
        readings_of(target_of(body))
    assert "`base`" in str(caught.value) and "`other`" in str(caught.value)


def test_a_guide_over_another_tokenizer_is_refused() -> None:
    with pytest.raises(InferenceError, match="PLM540"):
        readings_of(target_of('latent z: text(tokens=1..2) ~ base("a") guide z ~ other("a")'))
