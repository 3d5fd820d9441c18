"""Against genlm-control and llamppl: particles per second, and log-evidence error per model token.

    python -m benchmarks.peers [--envs DIR] [--rounds 20] [--particles 128] [--only NAME] [--json FILE]

Two targets over `tiny` whose evidence is known from a list: a sentence between two others
(`infilling`), and a sentence that a pattern allows (`pattern`). Each peer runs in an
environment of its own, which the script makes under `--envs` from the package registry, and
gets the same model, the same number of particles, and every setting that makes it faster.
What may come next is handed to the peers as a table of states, which no automaton of theirs
could beat; for `pattern`, genlm-control also runs with its own automaton and AWRS sampler.

In every round each side runs once, one after the other, so a ratio compares what ran side by
side; ratios are medians over rounds. The floor replays our own forward calls with nothing
around them. Errors are root mean squares over rounds of the error of the log evidence.
Model tokens are positions that went through the model, padding too. `cost` is error² times
model tokens: what one side needs for the accuracy of the other.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import venv
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads slow small models down

import numpy as np
import torch
from attrs import define, frozen

from benchmarks.calls import Recorder, bare_seconds
from benchmarks.floor import seconds
from posterior_lm.api.query import loads
from posterior_lm.infer.base import InferenceAlgorithm, run
from posterior_lm.infer.draws import Draws
from posterior_lm.infer.exact import Exact
from posterior_lm.infer.importance import Importance
from posterior_lm.infer.smc import Smc
from posterior_lm.lm.hf.transformers import TransformersModel
from posterior_lm.lm.tiny import WEIGHTS
from posterior_lm.target.target import Target

HERE = Path(__file__).resolve().parent
PACKAGES = {"genlm": ["genlm-control==0.4.1", "genlm-backend==0.3.1"], "llamppl": ["llamppl==0.2.3"]}
BODY = r" (He|She|They|It) [a-z ]+"
ROW = {"opening": "Tom played in the park. It was a windy day.", "ending": "The doctor took care of it."}
PROGRAMS = {
    "infilling": """
lm base = "tiny"
program infilling(opening: text, ending: text) {
  latent z: text(tokens=1..16, stop=".") ~ base(opening)
  observe [" ", ending] ~ base(opening, z)
}
""",
    "pattern": f"""
lm base = "tiny"
program pattern(opening: text, ending: text) {{
  latent z: text(tokens=2..12, stop=".", pattern=r"{BODY}\\.") ~ base(opening)
}}
""",
}
CLOSED = (
    r" (He|She|They|It) (was|went|ran|got|felt|came) (home|away|back|late|lost|wet|tired|cold|early|hurt)"
)
REAL = {
    "infilling": f"""
lm base = "tiny"
program infilling(opening: text, ending: text) {{
  latent z: text(tokens=2..8, stop=".", pattern=r"{CLOSED}\\.") ~ base(opening)
  observe [" ", ending] ~ base(opening, z)
}}
""",
    "pattern": f"""
lm base = "tiny"
program pattern(opening: text, ending: text) {{
  latent z: text(tokens=2..8, stop=".", pattern=r"{CLOSED}\\.") ~ base(opening)
}}
""",
}
"""The same with few enough values that a model of many words can list their evidence."""
SIDES = {
    "infilling": [("importance", "direct")],
    "pattern": [("importance", "direct"), ("smc", "direct"), ("importance", "awrs")],
}
"""For each target the method, and the sampler of genlm-control."""


@frozen(eq=False)
class Job:
    """A target, its evidence, and what the peers are told of it."""

    target: Target
    model: TransformersModel
    exact: Draws
    spec: dict[str, object]

    @property
    def log_evidence(self) -> float:
        """Nats: the listed values, and the unbiased estimate of what is not listed."""
        listed, certificate = self.exact.log_evidence, self.exact.certificate
        assert listed is not None and certificate is not None
        return listed + math.log1p(certificate.estimate or 0.0)

    @classmethod
    def of(
        cls, name: str, text: str, model: TransformersModel, weights: Path, folder: Path, batch: int
    ) -> Job:
        """A program `text` with the model out of the folder `weights`; `folder` has what is written for peers."""
        target = loads(text, f"<{name}>").lm(base=model).given(ROW).target()
        # Of a large model less is listed: what is left out is estimated without bias, and shown with its error.
        listing = Exact(values=300, mass=0.98) if CLOSED in text else Exact(values=1_500, mass=1 - 1e-4)
        exact = run(listing, target, n=1, rng=np.random.default_rng(0))
        spell = model.tokenizer.encode
        path = folder / f"{name}.npz"
        np.savez(path, next=table_of(target))
        (stop,) = target.latents[0].support.stop_ids
        spec = {
            "model": str(weights),
            "prompt": [*model.tokenizer.start_ids, *spell(ROW["opening"])],
            "prompt_text": ROW["opening"],
            "observed": list(spell(" " + ROW["ending"])) if name == "infilling" else [],
            "body": (CLOSED if CLOSED in text else BODY) if name == "pattern" else "",
            "stop": stop,
            "max_tokens": target.latents[0].support.max_tokens,
            "table": str(path),
            "batch": batch,
        }
        return cls(target, model, exact, spec)


def table_of(target: Target) -> np.ndarray:
    """(S, V) the state that follows each token in each state of the support, −1 where it is not allowed.

    A value ends with the stop, after which nothing is allowed, and with no other token.
    """
    support = target.latents[0].support
    places, rows = {support.start(): 0}, []
    waiting = [support.start()]
    (stop,) = support.stop_ids
    for state in waiting:
        row = np.full(len(support.allowed(state)), -1, dtype=np.int32)
        for token in np.flatnonzero(support.allowed(state)).tolist():
            then = support.advance(state, token)
            if then not in places:
                places[then] = len(places)
                waiting.append(then)
            row[token] = places[then]
            assert support.must_stop(then) == (token == stop)
        rows.append(row)
    return np.array(rows)


@define
class Peer:
    """A peer's process, which is told what to run and answers with what it found."""

    process: subprocess.Popen[str]

    @classmethod
    def start(cls, name: str, envs: Path, told: Path | str, script: str | None = None) -> Peer:
        """A peer that runs a script of this folder, by default its side of this comparison, and is `told` something."""
        child = HERE / (script or f"peers_child_{name}.py")
        command = [str(envs / name / "bin" / "python"), str(child), str(told)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        peer = cls(process)
        peer.read()
        return peer

    def read(self) -> dict[str, float]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):  # a library may print something of its own
                found: dict[str, float] = json.loads(line)
                return found
        raise RuntimeError(f"{self.process.args} ended with {self.process.wait()}")

    def run(self, **job: object) -> dict[str, float]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return self.read()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def make_environment(name: str, envs: Path) -> None:
    """An environment with the peer's packages on our torch and transformers, unless it is there already."""
    folder = envs / name
    if (folder / "made").exists():
        return
    print(f"making {folder}", flush=True)
    venv.create(folder, with_pip=True, clear=True)
    same = [f"{package}=={version(package).split('+')[0]}" for package in ("torch", "transformers")]
    subprocess.run([str(folder / "bin" / "pip"), "install", "-q", *same, *PACKAGES[name]], check=True)
    (folder / "made").write_text("\n".join(PACKAGES[name]) + "\n", encoding="utf-8")


def ours(job: Job, method: str, particles: int, seed: int) -> dict[str, float]:
    """One run of ours, and of its forward calls alone."""
    algorithm: InferenceAlgorithm = Smc() if method == "smc" else Importance()
    found = []

    def work() -> None:
        found.append(run(algorithm, job.target, n=particles, rng=np.random.default_rng(seed)))

    with Recorder().watching(job.model) as recorder:
        spent = seconds(work)
    return {
        "log_evidence": found[0].log_evidence,
        "seconds": spent,
        "tokens": recorder.positions,
        "calls": len(recorder.calls),
        "floor": bare_seconds(job.model, recorder.calls),
    }


def compare(job: Job, method: str, sampler: str, peers: dict[str, Peer], rounds: int, particles: int) -> dict:
    """The figures of one method on one target; the first round warms up and is not counted."""
    sides: dict[str, Callable[[int], dict[str, float]]] = {
        "ours": lambda seed: ours(job, method, particles, seed)
    }
    for name, peer in peers.items():
        if name == "genlm" or sampler == "direct":
            sides[name] = lambda seed, peer=peer: peer.run(  # type: ignore[misc]
                seed=seed, particles=particles, method=method, sampler=sampler
            )
    found: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for seed in range(rounds + 1):
        for name, work in sides.items():
            result = work(seed)
            if seed:
                found[name].append(result)
    exact = job.log_evidence
    figures: dict[str, dict[str, float]] = {}
    for name, rows in found.items():
        error = math.sqrt(statistics.fmean((r["log_evidence"] - exact) ** 2 for r in rows))
        tokens = statistics.fmean(r["tokens"] for r in rows)
        figures[name] = {
            "particles_per_second": particles / statistics.median(r["seconds"] for r in rows),
            "rmse": error,
            "mean_ratio": statistics.fmean(math.exp(r["log_evidence"] - exact) for r in rows),
            "tokens": tokens,
            "calls": statistics.fmean(r["calls"] for r in rows),
            "cost": error**2 * tokens,
        }
        if name != "ours":
            figures[name]["times_faster"] = statistics.median(
                theirs["seconds"] / mine["seconds"] for theirs, mine in zip(rows, found["ours"], strict=True)
            )
            figures[name]["cost_ratio"] = figures[name]["cost"] / figures["ours"]["cost"]
    figures["ours"]["over_floor"] = statistics.median(r["seconds"] / r["floor"] for r in found["ours"])
    return figures


def figures(
    weights: Path,
    programs: Mapping[str, str],
    envs: Path,
    *,
    rounds: int,
    particles: int,
    peers: tuple[str, ...],
) -> dict[str, object]:
    """Every program with the model of a folder, against each peer; they load it in the dtype that it is stored in."""
    model = TransformersModel.from_folder(weights, device="cpu", dtype=stored_dtype(weights))
    found: dict[str, object] = {
        "packages": PACKAGES, "rounds": rounds, "particles": particles,
        "torch": torch.__version__, "threads": torch.get_num_threads(),
    }  # fmt: skip
    for name in peers:
        make_environment(name, envs)
    for title, text in programs.items():
        with TemporaryDirectory(prefix="plm-peers-") as folder:
            job = Job.of(title, text, model, weights, Path(folder), 2 * particles)
            spec = Path(folder) / "spec.json"
            spec.write_text(json.dumps(job.spec), encoding="utf-8")
            certificate = job.exact.certificate
            assert certificate is not None
            error = 0.0 if certificate.complete else certificate.estimate_se or math.inf
            print(f"{title}: log evidence {job.log_evidence:.4f} ± {error:.4f}", flush=True)
            started: dict[str, Peer] = {}
            results: dict[str, object] = {
                "log_evidence": job.log_evidence,
                "standard_error": error,
                "listed": len(job.exact),
            }
            try:
                for name in peers:
                    started[name] = Peer.start(name, envs, spec)
                for method, sampler in SIDES[title]:
                    sides = compare(job, method, sampler, started, rounds, particles)
                    results[method if sampler == "direct" else f"{method}-{sampler}"] = sides
                    print(f"  {method} {sampler}")
                    for side, row in sides.items():
                        print(f"    {side:8}", "  ".join(f"{k} {v:.4g}" for k, v in row.items()), flush=True)
            finally:
                for peer in started.values():
                    peer.close()
            found[title] = results
    return found


def stored_dtype(weights: Path) -> str:
    """What the peers, told nothing, load a folder's weights in."""
    config = json.loads((weights / "config.json").read_text(encoding="utf-8"))
    return str(config.get("dtype") or config.get("torch_dtype") or "float32")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--envs", type=Path, default=HERE / ".envs", help="where the peers' environments are")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--particles", type=int, default=128)
    parser.add_argument("--only", choices=list(PACKAGES), action="append", help="leave the other peers out")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args(argv)
    found = figures(
        Path(WEIGHTS), PROGRAMS, options.envs, rounds=options.rounds, particles=options.particles,
        peers=tuple(options.only or PACKAGES),
    )  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
