"""A planted failure: a policy that was trained on one kind of row and is asked about another.

    python examples/05_planted_failure.py

Its certificate is about rows like those that it was trained on, and says nothing against
it. So `auto` looks again, at the row itself, before it uses a policy. Prints what stands in
05_planted_failure.out, up to rounding and the time it took.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import posterior_lm as plm

PROGRAMS = Path(__file__).resolve().parent.parent / "programs"
DATA = PROGRAMS / "data" / "tempered_continuation.jsonl"

# The density p(next | prompt)^beta: the larger beta, the fewer sentences matter.
tempered = plm.load(PROGRAMS / "tempered_continuation.plm")
prompts = [json.loads(line)["prompt"] for line in DATA.read_text(encoding="utf-8").splitlines()]

# The mistake: every training row has beta = 3, and nothing tells the policy what beta is.
folder = Path(tempfile.mkdtemp()) / "policy"
rows = [{"prompt": prompt, "beta": 3.0} for prompt in prompts]
fitted = tempered.fit(rows, folder, steps=30, compile=0.7, pairs=64, draws=8, certify_draws=100)
assert fitted.manifest.checked is not None
print("the certificate, of rows with beta = 3:")
print("\n".join(fitted.manifest.checked.lines()))

for beta in (3.0, 1.0):
    asked = tempered.policy(folder).given(prompt=prompts[0], beta=beta)
    print(f"\nbeta = {beta:g}")
    for name, query in (("auto", asked), ("policy", asked.using("gflownet"))):
        posterior = query.draw(400, seed=0)
        print(f"{name:6}  ESS {posterior.ess:5.1f}, log evidence {posterior.log_evidence:6.2f} nats")
        print(f"        {posterior.reason.replace(str(folder), 'FOLDER')}")
