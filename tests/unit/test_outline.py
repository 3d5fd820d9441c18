"""What a policy for many programs reads of one: all that is asked, nothing else, and never too much."""

from __future__ import annotations

from pathlib import Path

import pytest

from posterior_lm.api.query import loads
from posterior_lm.infer.drawing import contexts_of
from posterior_lm.lang.outline import MOST, outline
from posterior_lm.target.segments import Known, Turn
from posterior_lm.target.target import Target
from posterior_lm.train.guide import readings_of
from tests.conftest import ROOT

STORY = """
# A story.
lm base = "tiny"
program story(opening: text, ending: text, word: text, most: int = 8, b: real = 0.5) {
  latent middle: text(tokens=1..most, stop=".") ~ base("Once there was a man. ", opening)
  observe [" ", ending] ~ base(opening, middle)
  condition contains(middle, word)
  temper b {
    factor -1 * count(middle, "very")
  }
  guide middle ~ base(ending, opening)
  infer smc(particles=8)
}
"""
DATA = {"opening": "Tom.", "ending": "He ran.", "word": "dog", "most": 6, "b": 2.0}
SHORT = """latent z: text(tokens=1..6, stop=".") ~ m("Once there was a man. ", x)
observe [" ", x2] ~ m(x, z)
condition contains(z, "dog")
temper 2.0 { factor -1 * count(z, "very") }"""


def of(text: str, data: dict[str, object]) -> str:
    return outline(loads(text).module, data)


def target_of(text: str, data: dict[str, object]) -> Target:
    return loads(text).prepared.bind(data)


def test_statements_with_their_values_and_numbered_names() -> None:
    assert of(STORY, DATA) == SHORT


def test_names_comments_guides_and_what_is_not_asked_do_not_matter() -> None:
    other = STORY.replace("middle", "between").replace("base", "model").replace("opening", "start")
    other = other.replace("# A story.\n", "").replace("  infer smc(particles=8)\n", "")
    assert of(other, {**DATA, "start": "Ann."}) == SHORT


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("most", 9, "1..9"),
        ("word", "cat", '"cat"'),
        ("b", 0.25, "temper 0.25"),
        ("word", "a" * 40, "a" * 23 + "…"),
    ],
)
def test_what_the_data_ask_for_is_read(name: str, value: object, said: str) -> None:
    found = of(STORY, {**DATA, name: value})
    assert said in found and found != SHORT


def test_blocks_hold_what_is_asked_and_no_guides() -> None:
    text = """
lm base = "tiny"
program plan() {
  latent plan: one_of("a", "b") ~ categorical([0.3, 0.7])
  if plan == "a" {
    latent x: text(tokens=1..2) ~ base("A")
    guide x ~ base("B")
  } else {
    latent y: text(tokens=1..3) ~ base(plan)
  }
}
"""
    assert of(text, {}) == (
        'latent z: one_of("a", "b") ~ categorical([0.3, 0.7])\n'
        'if z == "a" { latent z2: text(tokens=1..2) ~ m("A") }\n'
        "else { latent z3: text(tokens=1..3) ~ m(z) }"
    )


def test_long_programs_are_cut() -> None:
    lines = "".join(f'  condition not contains(middle, "word{k}")\n' for k in range(40))
    found = of(STORY.replace("  guide", lines + "  guide", 1), DATA)
    assert len(found) == MOST and found.endswith("…") and found.startswith(SHORT[:60])


PROGRAMS = sorted((ROOT / "programs").glob("*.plm"))


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_every_program_has_one(path: Path) -> None:
    found = of(path.read_text(encoding="utf-8"), {})
    assert found.startswith(("latent ", "temper ", "let ", "plate ", "observe ")) and len(found) <= MOST


# ------------------------------------------------------------------------------- before what a guide reads


@pytest.mark.parametrize("stated", [True, False])
def test_it_stands_before_what_is_read_otherwise(stated: bool) -> None:
    text = STORY if stated else STORY.replace("  guide middle ~ base(ending, opening)\n", "")
    target = target_of(text, DATA)
    (usual,), (outlined,) = (readings_of(target, reads).values() for reads in ("observed", "outline"))
    assert outlined.segments[0] == Known(f"{SHORT}\n{usual.segments[0].text}")  # type: ignore[union-attr]
    contexts, _ = contexts_of(target, outlined.lm, outlined.segments, {}, 1)
    read = target.models["base"].tokenizer.decode(list(contexts[0]))
    assert SHORT in read and read.endswith("He ran.Tom." if stated else "Tom.")


def test_in_a_conversation_it_stands_in_front_of_what_the_user_said_last() -> None:
    segments = (Turn("system"), Known("Be kind."), Turn("user"), Known("Hi?"))
    from posterior_lm.train.guide import _front

    assert _front(segments) == segments[:3]
