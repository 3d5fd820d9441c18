"""A planted failure: a policy that was trained on one kind of row and is asked about another.

    python examples/05_planted_failure.py

Its certificate is about rows like those that it was trained on, and finds little against
it. So `auto` looks again, at the row itself, before it uses a policy. Prints what stands
in 05_planted_failure.out, up to rounding.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import posterior_lm as plm
from training.tiny.world import sample_task

# The mistake: the guide does not read the opening. Where all stories begin alike, nothing tells.
FORGETFUL = plm.loads(r"""
lm base = "tiny"

program forgetful(opening: text, ending: text) {
  latent middle: text(tokens=1..25, stop=".") ~ base(opening)
  observe [" ", ending] ~ base(opening, middle)
  guide middle ~ base("Ending: ", ending, "\nMiddle:")
}
""")
KITCHEN = "Emma sat in the kitchen. It was a warm day."
PARK = "Tom played in the park. It was a windy day."

rng = np.random.default_rng(1)
stories = (sample_task("story", rng).fields for _ in range(32))
rows: list[dict[str, object]] = [{"opening": KITCHEN, "ending": story["ending"]} for story in stories]

folder = Path(tempfile.mkdtemp()) / "policy"
fitted = FORGETFUL.fit(
    rows,
    folder,
    steps=60,
    sleep=1.0,
    pairs=48,
    learning_rate=0.003,
    certify_draws=200,
    certify_rows=24,
    seed=1,
)
assert fitted.manifest.checked is not None
print("the certificate, of stories in the kitchen:")
print("\n".join(fitted.manifest.checked.lines()))

asked = FORGETFUL.policy(folder).given(ending="The doctor took care of it.")
for name, opening in (("kitchen", KITCHEN), ("park", PARK)):
    print(f"\na story in the {name}")
    for method in ("auto", "gflownet"):
        posterior = asked.given(opening=opening).using(method).draw(400, seed=0)
        print(f"{method:9} ESS {posterior.ess:5.1f}, log evidence {posterior.log_evidence:6.2f} nats")
        print(f"          {posterior.reason.replace(str(folder), 'FOLDER')}")
