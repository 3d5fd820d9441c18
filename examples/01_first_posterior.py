"""A first posterior: which sentence joins the two ends of a story?

    python examples/01_first_posterior.py

Prints what stands in 01_first_posterior.out; other processors may round a few draws
differently.
"""

from __future__ import annotations

from pathlib import Path

import posterior_lm as plm

PROGRAMS = Path(__file__).resolve().parent.parent / "programs"

story = plm.load(PROGRAMS / "story_infilling.plm").given(
    opening="Emma sat in the kitchen. It was a warm day.",
    ending="They ordered pizza instead.",
)
posterior = story.draw(2000, seed=0)

print("the likeliest middles:")
for one in posterior.merged()[:5]:
    print(f"{one.weight:6.3f}  {one.values['middle']!r}")

burned = posterior.prob(lambda values: "burn" in values["middle"])
print(f"\nsomething burned: {burned.value:.2f}, with 90 % between {burned.low:.2f} and {burned.high:.2f}")
print(f"log evidence {posterior.log_evidence:.2f} ± {posterior.log_evidence_se:.2f} nats")
print(posterior.verdict)

print("\none value, statement by statement:")
score = story.score({"middle": " The soup burned."})
for statement, log_reward in score.terms:
    print(f"{log_reward:8.3f}  {statement.label}")
print(f"{score.log_reward:8.3f}  log reward")
