"""A policy: trained on a few dozen rows, saved, loaded again, and used on rows that it has not seen.

    python examples/04_fit_and_use.py [FOLDER]

The policy goes into FOLDER/policy, or into a temporary folder. It is trained for less than
a minute, so it is far from what `plm fit` reaches by default. Prints what stands in
04_fit_and_use.out, up to rounding.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

import posterior_lm as plm
from training.tiny.world import sample_task

PROGRAMS = Path(__file__).resolve().parent.parent / "programs"


def rows(seed: int, count: int) -> list[dict[str, object]]:
    """Stories of the little world that `tiny` was trained on, without the sentence in their middle."""
    rng = np.random.default_rng(seed)
    stories = (sample_task("story", rng).fields for _ in range(count))
    return [{name: story[name] for name in ("opening", "ending")} for story in stories]


story = plm.load(PROGRAMS / "story_infilling.plm")
folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()) / "policy"
fitted = story.fit(
    rows(seed=1, count=48), folder, steps=32, sleep=1.0, pairs=48, certify_draws=100, certify_rows=16
)
assert fitted.manifest.checked is not None
print("\n".join(fitted.manifest.checked.lines()))
print("\nsaved:", ", ".join(sorted(path.name for path in folder.iterdir())))

# From here on only the folder is needed: another process could do this, or another machine.
by_policy = story.policy(folder).using("gflownet")
by_prior = story.using("importance")

print("\nESS of 400 draws on new rows")
print("policy  prior")
for row in rows(seed=2, count=4):
    policy, prior = (query.given(row).draw(400, seed=0) for query in (by_policy, by_prior))
    print(f"{policy.ess:6.1f} {prior.ess:6.1f}  {row['opening']} … {row['ending']}")
    print(f"{'':15}{policy.marginal('middle')[0][0]}")
