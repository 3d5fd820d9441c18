"""A policy: trained on a few dozen rows, saved, loaded again, and used on rows that it has not seen.

    python examples/04_fit_and_use.py [FOLDER]

The policy goes into FOLDER, which holds none yet, or into a temporary one. It is trained
for less than a minute, so it is far from what `plm fit` reaches by default. Prints what
stands in 04_fit_and_use.out, up to rounding and the time it took.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

import posterior_lm as plm
from posterior_lm.lm.tiny.world import sample_task

# How did the story begin, if it went on like this? The prior of a first sentence knows nothing of the rest.
BEGINNING = plm.loads("""
lm base = "tiny"

program beginning(rest: text) {
  latent first: text(tokens=1..25, stop=".") ~ base()
  observe [" ", rest] ~ base(first)
}
""")


def rows(seed: int, count: int) -> list[dict[str, object]]:
    """Stories of the little world that `tiny` was trained on, without their first sentences."""
    rng = np.random.default_rng(seed)
    found: list[dict[str, object]] = []
    while len(found) < count:
        rest = sample_task("plain", rng).fields["rest"]
        if len(rest) == 2:
            found.append({"rest": "".join(rest).strip()})
    return found


folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()) / "policy"
fitted = BEGINNING.fit(rows(seed=1, count=48), folder, steps=60, compile=1.0, pairs=64, certify_rows=16)
assert fitted.manifest.checked is not None
print("\n".join(fitted.manifest.checked.lines()))
print("\nsaved:", ", ".join(sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))))

# From here on only the folder is needed: another process could do this, or another machine.
with_policy = BEGINNING.policy(folder).using("gflownet")
from_prior = BEGINNING.using("importance")

print("\nESS of 400 draws on new rows")
print("policy  prior")
for row in rows(seed=2, count=4):
    policy, prior = (query.given(row).draw(400, seed=0) for query in (with_policy, from_prior))
    print(f"{policy.ess:6.1f} {prior.ess:6.1f}  … {row['rest']}")
    print(f"{'':15}{policy.marginal('first')[0][0]}")
