"""A fit that is killed, goes on, and ends with the weights of one that was left alone.

    python examples/06_resume_after_kill.py

`plm fit` runs as a process of its own and is killed by SIGKILL, which no program can
catch. Prints what stands in 06_resume_after_kill.out.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROGRAMS = Path(__file__).resolve().parent.parent / "programs"
FIT = [
    *(sys.executable, "-m", "posterior_lm", "fit", str(PROGRAMS / "tempered_continuation.plm")),
    *("--data", str(PROGRAMS / "data" / "tempered_continuation.jsonl")),
    *("--steps", "6", "--rows", "2", "--draws", "4", "--set", "pairs=16", "--set", "checkpoint_every=2"),
    *("--set", "certify_draws=20"),
]


def steps_of(folder: Path) -> int:
    """How many steps the fit in this folder has measured."""
    metrics = folder / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


def weights_of(folder: Path) -> str:
    """The SHA-256 of the policy's weights, as its manifest has it."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return str(manifest["files"]["adapter_model.safetensors"])


top = Path(tempfile.mkdtemp())
alone, killed = top / "alone", top / "killed"
quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}

subprocess.run([*FIT, "--out", str(alone)], check=True, **quiet)
print("left alone: done")

process = subprocess.Popen([*FIT, "--out", str(killed)], **quiet)
while steps_of(killed) < 3 and process.poll() is None:
    time.sleep(0.01)
process.send_signal(signal.SIGKILL)
process.wait()
print("killed: a policy is there:", (killed / "manifest.json").exists())
print("killed: a checkpoint is there:", any((killed / "checkpoints").glob("step-*")))

again = subprocess.run([*FIT, "--out", str(killed)], check=False, capture_output=True, text=True)
refused = next(line for line in again.stderr.splitlines() if line.startswith("error"))  # after the progress
print("without --resume:", refused.replace(str(top), "TOP"))

subprocess.run([*FIT, "--out", str(killed), "--resume"], check=True, **quiet)
print("resumed: done")
print("the same weights, bit for bit:", weights_of(killed) == weights_of(alone))
