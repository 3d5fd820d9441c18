"""The folder of a run while it trains: what it may hold before, and the checkpoint of each round."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from posterior_lm.amortize import checkpoint, metrics
from posterior_lm.amortize.resuming import load_same
from posterior_lm.em.rounds import Round
from posterior_lm.em.saved import RECORD
from posterior_lm.lang.diagnostics import DataError, error
from posterior_lm.storage import plain, structured

METRICS = metrics.NAME
Weights = Mapping[str, Tensor]


def check_folder(folder: Path, resume: bool) -> None:
    """Raises DataError PLM621 for a folder that holds a result or an unfinished run, unless that is resumed."""
    done, begun = (folder / RECORD).exists(), (folder / checkpoint.ROOM).exists()
    if resume:
        return
    if done or begun:
        what = "an unfinished run of EM" if begun else "a result of EM"
        raise DataError(
            error(
                "PLM621",
                f"the folder {folder} already holds {what}",
                where=str(folder),
                help="give another folder with --out" + (", or go on with --resume" if begun else ""),
            )
        )
    (folder / METRICS).unlink(missing_ok=True)


def save_round(
    folder: Path, rounds: tuple[Round, ...], weights: Mapping[str, Weights], identity: Mapping[str, object],
    seconds: float,
) -> None:  # fmt: skip
    """Keep the state after a round: `weights` by what they are of ("model", "guide", and both of the best round)."""
    checkpoint.save(
        folder,
        step=rounds[-1].number,
        tensors={f"{of}/{name}": t for of, tensors in weights.items() for name, t in tensors.items()},
        arrays={},
        state={
            "rounds": [r.to_json() for r in rounds],
            "em": plain(identity),
            "seconds": seconds,
        },
    )


def resume_from(
    folder: Path, identity: Mapping[str, object]
) -> tuple[tuple[Round, ...], dict[str, dict[str, Tensor]], float]:
    """The rounds, the weights and the seconds of the newest checkpoint, and cuts the measurements back to it.

    Raises DataError PLM622 where there is none or it is damaged, PLM625 where it is of another run.
    """
    found = load_same(folder, "em", "run of EM", plain(identity))
    weights: dict[str, dict[str, Tensor]] = {}
    try:
        rounds = structured(tuple[Round, ...], found.state["rounds"])
        for key, tensor in found.tensors.items():
            of, _, name = key.partition("/")
            weights.setdefault(of, {})[name] = tensor
        seconds = float(str(found.state["seconds"]))
        if not rounds or {"model", "guide", "best model", "best guide"} - set(weights):
            raise ValueError("a part of it is missing")
    except (KeyError, ValueError, TypeError) as problem:
        raise DataError(
            error("PLM622", f"{found.path} is no checkpoint of EM ({problem})", where=str(found.path))
        ) from None
    metrics.cut(folder / METRICS, rounds[-1].number)
    return rounds, weights, seconds
