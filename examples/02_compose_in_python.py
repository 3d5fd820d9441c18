"""Composing in Python: verbs, products, powers, and prediction.

    python examples/02_compose_in_python.py

Prints what stands in 02_compose_in_python.out; other processors may round a few draws
differently.
"""

from __future__ import annotations

from pathlib import Path

import posterior_lm as plm

PROGRAMS = Path(__file__).resolve().parent.parent / "programs"
SENTENCE = 'text(tokens=1..25, stop=".")'

# The same program as in the file, written with the verbs of the language.
story = (
    plm.program("story", "opening: text", "ending: text", lm={"base": "tiny"})
    .latent("middle", SENTENCE, "base(opening)")
    .observe('[" ", ending]', "base(opening, middle)")
    .guide("middle", r'base("Beginning: ", opening, "\nEnding: ", ending, "\nMiddle:")')
)
same = story.fingerprint == plm.load(PROGRAMS / "story_infilling.plm").fingerprint
print(f"the same log reward as the file: {same}\n")

# A second program about the same latent: it is weary of animals.
no_animals = (
    plm.program("no_animals", "opening: text", lm={"base": "tiny"})
    .latent("middle", SENTENCE, "base(opening) ^ 0")
    .factor('if contains(middle, "dog") or contains(middle, "cat") then -5 else 0')
)
both = story * no_animals
print(f"{both}")

row = {"opening": "One day, Mia walked to the park with her dog.", "ending": "It was a strange day."}
for name, query in {"story": story, "story * no_animals": both, "story ** 2": story**2}.items():
    posterior = query.given(row).draw(1000, seed=0)
    animals = posterior.prob(lambda v: "dog" in v["middle"] or "cat" in v["middle"])
    best, _ = posterior.marginal("middle")[0]
    print(f"{name:20} P(animals) {animals.value:.2f}  ESS {posterior.ess:5.0f}  {best!r}")

# What was observed can be left out and predicted.
rationale = plm.load(PROGRAMS / "latent_rationale.plm")
print()
for review in ("A clever film.", "A girl lost a key.", "The story of a war goes nowhere."):
    prediction = rationale.given(review=review).predict("label", n=500)
    print(f"P(subjective) {prediction.prob('subjective'):.2f}  {review}")
