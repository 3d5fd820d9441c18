"""Which terms an M-step may change, and that naming them changes nothing."""

from __future__ import annotations

import attrs
import pytest

from posterior_lm.api.query import Query, load, loads
from posterior_lm.em.split_model import split_model, trained_scores
from posterior_lm.lang.diagnostics import PlmError
from tests.conftest import ROOT

RATED = """
lm base = "tiny"  # the only model
program rated(x: int(0..9), label: one_of("good", "bad")) {
  let said = [" ", label]
  latent n: int(0..3, lead=" ") ~ categorical([0.45, 0.05, 0.2, 0.3])
  observe said ~ base("Word ", x, n)
  guide n ~ base("Seen ", x, ":")
}
"""


def split_of(text: str, alias: str | None = None, **more: bool) -> tuple[Query, Query]:
    query = loads(text)
    return query, attrs.evolve(query, module=split_model(query.checked, alias, **more).module)


def refused(text: str, alias: str | None = None) -> PlmError:
    with pytest.raises(PlmError) as caught:
        split_model(loads(text).checked, alias)
    return caught.value


def test_only_what_is_observed_gets_the_new_model() -> None:
    split = split_model(load(ROOT / "programs" / "latent_rationale.plm").checked)
    text = str(Query(split.module))
    assert (split.alias, split.trained, split.labels) == ("base", "base_em", ("label",))
    assert 'observe [" so it is ", label] ~ base_em(question, reason)' in text
    assert "~ base(question)\n  observe" in text and "guide reason ~ base(question)" in text
    assert 'lm base_em = "tiny"' in text


def test_labels_are_found_through_lets() -> None:
    assert split_model(loads(RATED).checked).labels == ("label",)


def test_before_training_the_program_means_what_it_meant() -> None:
    query, split = split_of(RATED)
    row = {"x": 3, "label": "bad"}
    for n in range(4):
        was, now = (q.given(row).score({"n": n}).log_reward for q in (query, split))
        assert now == pytest.approx(was, abs=1e-9) and was < -3
    again = loads(str(split))
    assert again.fingerprint == split.fingerprint


def test_the_printed_program_can_be_read_again_without_its_comments() -> None:
    _, split = split_of(RATED)
    assert "#" not in str(split) and str(loads(str(split))) == str(split)


def test_the_prior_is_trained_only_where_that_is_asked_for() -> None:
    program = RATED.replace("categorical([0.45, 0.05, 0.2, 0.3])", "choice(base(x) ^ 2)")
    assert "~ choice(base(x) ^ 2)" in str(split_of(program)[1])
    assert "~ choice(base_em(x) ^ 2)" in str(split_of(program, train_prior=True)[1])
    assert "guide n ~ base(" in str(split_of(program, train_prior=True)[1])


def test_statements_inside_plates_and_tempers_are_trained_too() -> None:
    text = str(
        split_of("""
lm base = "tiny"
program rule(rows: table(a: text, b: text)) {
  latent r: text(tokens=1..3) ~ base("Rule:")
  temper 0.5 { plate e in rows { observe e.b ~ base(r, e.a) ^ 2 } }
}
""")[1]
    )
    assert "base_em(r, e.a) ^ 2" in text and '~ base("Rule:")' in text


def test_the_value_of_a_latent_is_no_observation() -> None:
    program = RATED.replace("  guide", "  let twice = [n, n]\n  observe twice ~ base(x)\n  guide")
    text = str(split_of(program)[1])
    assert "observe twice ~ base(x)" in text and "observe said ~ base_em(" in text


def test_a_taken_name_is_not_taken_again() -> None:
    program = RATED.replace('"tiny"  #', '"tiny"\nlm base_em = "tiny"  #').replace(
        'base("Seen', 'base_em("Seen'
    )
    split = split_model(loads(program).checked)
    assert split.trained == "base_em_" and "guide n ~ base_em(" in str(Query(split.module))


@pytest.mark.parametrize(
    "observed",
    ["observe n ~ base(x)", "observe x ~ poisson(2.5)", "condition x > 2"],
)
def test_nothing_to_train(observed: str) -> None:
    program = RATED.replace('observe said ~ base("Word ", x, n)', observed)
    assert refused(program).diagnostics[0].code == "PLM790"


def test_of_several_models_one_has_to_be_named() -> None:
    program = RATED.replace('"tiny"  #', '"tiny"\nlm other = "tiny"  #').replace(
        "  guide", "  observe label ~ other(n)\n  guide"
    )
    wrong = refused(program).diagnostics[0]
    assert wrong.code == "PLM792" and "`base` and `other`" in wrong.message
    text = str(split_of(program, "other")[1])
    assert "observe label ~ other_em(n)" in text and "observe said ~ base(" in text
    assert refused(program, "another").diagnostics[0].code == "PLM790"


@pytest.mark.parametrize(
    "parts",
    ["mix(0.5, base(x), other())", 'if x == "a" then base() else other(x)', "mix(0.5, other(), other(x))"],
)
def test_a_part_of_a_mixture_is_not_trained(parts: str) -> None:
    graph = loads(
        'lm base = "tiny"\nlm other = "tiny"\nprogram p(x: text) {\n  latent z: text(tokens=1..2) ~ other(x)\n'
        f"  observe x ~ {parts}\n}}"
    ).graph
    if "base" not in parts:  # what nobody trains may stand there
        assert list(trained_scores(graph, "base")) == []
        return
    with pytest.raises(PlmError, match="part of a mixture or of a branch"):
        list(trained_scores(graph, "base"))
