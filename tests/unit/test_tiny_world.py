"""The world behind the packaged model: exact probabilities and one derivation per text."""

import math
import subprocess
import sys
from collections import defaultdict

import numpy as np
import pytest

from tests.conftest import ROOT
from training.tiny.world import (
    TASKS,
    Table,
    enumerate_documents,
    instructions,
    integers,
    mixture,
    phrase,
    plain,
    reviews,
    sample,
    sample_task,
    stories,
    sums,
)
from training.tiny.world.choice import weighted


def test_a_phrase_lists_its_texts_with_their_probabilities():
    table = phrase("a {{b:3|c}:3|d}{:1|e}.")
    assert dict(zip(table.texts, table.probs, strict=True)) == pytest.approx(
        {
            "a b.": 0.5625 / 2, "a be.": 0.5625 / 2, "a c.": 0.1875 / 2,
            "a ce.": 0.1875 / 2, "a d.": 0.125, "a de.": 0.125,
        }
    )  # fmt: skip


def test_slots_are_filled_before_a_phrase_is_expanded():
    assert phrase("<he> {ran|sat}", he="she").texts == ("she ran", "she sat")


@pytest.mark.parametrize("template", ["{a|a}", "{a|}{|a}"])
def test_a_text_with_two_derivations_is_refused(template):
    with pytest.raises(ValueError, match="two derivations"):
        phrase(template)


def test_a_mixture_adds_the_probabilities_of_equal_texts():
    table = mixture([(0.5, phrase("{a|b}")), (0.5, phrase("{b|c}"))])
    assert table.prob("b") == pytest.approx(0.5)


def test_draws_follow_the_table():
    table = weighted({"x": 0.2, "y": 0.8})
    uniforms = np.linspace(0.0, 1.0, 1000, endpoint=False)
    assert np.mean([table.at(u) for u in uniforms]) == pytest.approx(0.8, abs=2e-3)


def test_tables_refuse_probabilities_that_do_not_sum_to_one():
    with pytest.raises(ValueError, match="sum to one"):
        Table(("a", "b"), (0.5, 0.6))


def test_equal_texts_have_equal_log_probabilities():
    rng = np.random.default_rng(0)
    seen: dict[str, float] = {}
    for _ in range(20_000):
        document = sample(rng)
        assert seen.setdefault(document.text, document.log_prob) == pytest.approx(document.log_prob)
    assert len(seen) < 20_000


@pytest.mark.parametrize("task", TASKS)
def test_sampling_is_a_function_of_the_seed(task):
    first = [sample_task(task, np.random.default_rng(5)) for _ in range(2)]
    assert first[0] == first[1]


def test_the_documents_of_a_small_world_sum_to_one_and_are_distinct():
    def write(choose):
        numbers, operators, value = sums.write_question(choose, 2)
        answer = choose(sums.result_table(value, sums.HEAD_RIGHT[2]))
        return f"{sums.question_text(numbers, operators)} {answer}", {}

    documents = list(enumerate_documents(write))
    assert math.fsum(math.exp(d.log_prob) for d in documents) == pytest.approx(1.0)
    assert len({d.text for d in documents}) == len(documents) == 10 * 2 * 10 * 9


@pytest.mark.parametrize(
    "write", [integers.write_integer, plain.write_single, reviews.write_review, stories.write_opening]
)
def test_whole_tasks_sum_to_one_with_one_derivation_each(write):
    def adapted(choose):
        found = write(choose)
        return found if isinstance(found, tuple) else (found.text, {})

    documents = list(enumerate_documents(adapted))
    assert math.fsum(math.exp(d.log_prob) for d in documents) == pytest.approx(1.0)
    assert len({d.text for d in documents}) == len(documents)


def test_sampled_log_probabilities_are_those_of_the_enumeration():
    exact = {d.text: d.log_prob for d in enumerate_documents(reviews.write_review)}
    shift = math.log(0.14)
    rng = np.random.default_rng(1)
    for _ in range(500):
        document = sample_task("review", rng)
        assert document.log_prob == pytest.approx(exact[document.text] + shift)


def test_a_story_factorises_into_its_exact_conditionals():
    rng = np.random.default_rng(2)
    for _ in range(200):
        document = sample_task("story", rng)
        if document.fields["order"] != "plain":
            continue
        opening, middle, ending = (str(document.fields[k]) for k in ("opening", "middle", "ending"))
        prior = stories.middle_prior(opening)
        assert math.fsum(prior.values()) == pytest.approx(1.0)
        posterior = stories.middle_posterior(opening, ending)
        assert math.fsum(posterior.values()) == pytest.approx(1.0)
        evidence = math.fsum(
            p * math.exp(stories.ending_log_likelihood(opening, m, ending)) for m, p in prior.items()
        )
        joint = prior[middle] * math.exp(stories.ending_log_likelihood(opening, middle, ending))
        assert posterior[middle] == pytest.approx(joint / evidence)


def test_the_form_that_puts_the_ending_first_heeds_it_only_sometimes():
    scene = ("park", "", "")
    loose = stories.loose_ending_table(*scene, "cat", "He")
    own = stories.phrase(stories.ENDING["cat"], **stories.pronouns("Tom"))
    share = sum(loose.prob(t) for t in own.texts) / (1.0 - stories.ANY_ENDING_PROB)
    expected = stories.HEED + (1.0 - stories.HEED) * stories.event_table(*scene).prob("cat")
    assert share == pytest.approx(expected)


def test_events_do_not_share_middles_or_endings():
    owners: dict[str, set[str]] = defaultdict(set)
    for event in stories.EVENTS:
        for he in ("He", "She"):
            for text in stories.middle_table(event, he).texts:
                assert text.startswith(" ") and text.endswith(".") and text.count(".") == 1
                owners[text].add(event)
            for text in stories.phrase(stories.ENDING[event], **stories.pronouns("Tom")).texts:
                owners[text].add(event)
    assert all(len(events) == 1 for events in owners.values())


def test_reviews_have_the_exact_label_probabilities_of_their_enumeration():
    by_review: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for document in enumerate_documents(reviews.write_review):
        by_review[str(document.fields["review"])][str(document.fields["label"])] += math.exp(
            document.log_prob
        )
    for review, weights in by_review.items():
        total = math.fsum(weights.values())
        for label, p in reviews.label_given_review(review).items():
            assert weights[label] / total == pytest.approx(p)


def test_reasons_and_reviews_keep_to_their_format():
    for group in reviews.REASONS:
        for reason in reviews.reason_table(group).texts:
            assert reason.startswith(" ") and "," not in reason and 1 <= len(reason.split()) <= 6
    wrong = [
        k
        for k in reviews.KINDS
        if max(reviews.LABELS, key=reviews.label_table(k).prob) != reviews.KINDS[k].gold
    ]
    assert wrong == ["drama", "report"]


def test_the_posterior_of_a_reason_prefers_the_label_that_it_explains():
    review = reviews.review_table("drama").texts[0]
    fitting = reviews.reason_posterior(review, "objective")
    assert math.fsum(fitting.values()) == pytest.approx(1.0)
    facts = sum(p for r, p in fitting.items() if r in reviews.reason_table("facts"))
    assert facts > reviews.group_table("drama").prob("facts")


def test_examples_leave_the_rules_that_agree_with_them():
    both = instructions.rule_posterior([("2", "4")])
    assert {r for r in both if both[r] > 0} >= {" Add two.\n", " Double it.\n"}
    assert " Add two.\n" not in instructions.rule_posterior([("2", "4"), ("3", "6")])


def test_every_integer_is_possible_and_the_law_is_far_from_uniform():
    law = integers.integer_table(0, 100)
    assert len(law.texts) == 101 and min(law.probs) > 1e-3
    assert math.log(101) - law.entropy() > 0.5


def test_right_steps_end_in_the_value_of_the_sum():
    assert sums.right_steps([3, 4, 9], ["+", "-"]) == " 3 + 4 = 7, 7 - 9 = -2."


def test_the_world_does_not_import_torch():
    code = "import sys, posterior_lm.lm.tiny, training.tiny.world; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "False"
