"""Prediction: answers left out, how the draws vote on them, and what they do not agree on.

python examples/09_predict.py
"""

from pathlib import Path

import posterior_lm as plm

PROGRAMS = Path(__file__).resolve().parent.parent / "programs"

# A label with two values. The reason for it is a latent that the prediction averages over.
rationale = plm.load(PROGRAMS / "latent_rationale.plm")
print("P(subjective), 90 % interval, entropy within and between reasons:")
for review in ("A clever film.", "A girl lost a key.", "The story of a war goes nowhere."):
    found = rationale.given(review=review).predict("label", n=300)
    low, high = found.interval("subjective")
    print(
        f"  {found.prob('subjective'):.2f}  {low:.2f} .. {high:.2f}"
        f"  {found.aleatoric:.2f} + {found.epistemic:.2f}  {review}"
    )

# A whole number has no list of values: the model writes it, after steps that it wrote before.
sums = (
    plm.program("sums", "question: text", "answer: int", lm={"base": "tiny"})
    .latent(
        "steps",
        'text(tokens=3..24, chars="0123456789+-=, ", stop=".")',
        'base("Question: ", question, " Answer:")',
    )
    .observe('[" The answer is ", answer, "."]', 'base("Question: ", question, " Answer:", steps)')
)
print("\nSums by steps; the right answers are 7, 11 and 9:")
for question in ("3 + 4 = ?", "9 + 4 - 2 = ?", "8 - 5 + 9 - 3 = ?"):
    asked = sums.given(question=question)
    soft = asked.predict("answer", n=200)
    hard, likeliest = (asked.predict("answer", n=200, vote=vote) for vote in ("hard", "likeliest"))
    print(
        f"  {question:18} soft {soft.best} ({soft.prob(soft.best):.2f})  hard {hard.best}"
        f"  likeliest {likeliest.best}  {soft.aleatoric:.2f} + {soft.epistemic:.2f}  others {soft.other:.2f}"
    )
