"""Going on from a checkpoint: only from one of the very same work."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from posterior_lm.amortize import checkpoint
from posterior_lm.lang.diagnostics import DataError, error


def load_same(folder: Path, kind: str, what: str, identity: Mapping[str, object]) -> checkpoint.Checkpoint:
    """The newest checkpoint of the folder, whose state names the same `identity` under `kind`.

    `what` is what is resumed, in words. Raises DataError PLM622 where there is none or it is
    damaged, PLM625 naming what differs.
    """
    found = checkpoint.load(folder)
    if found is None:
        raise DataError(
            error(
                "PLM622",
                f"{folder} holds no checkpoint to go on from",
                where=str(folder),
                help=f"leave out --resume to begin a new {what}",
            )
        )
    known = found.state.get(kind)
    stored: Mapping[str, object] = known if isinstance(known, Mapping) else {}
    odd = sorted(k for k in {*stored, *identity} if stored.get(k) != identity.get(k))
    if odd:
        said = ", ".join(f"{k} ({stored.get(k)!r}, now {identity.get(k)!r})" for k in odd[:4])
        raise DataError(
            error(
                "PLM625",
                f"the checkpoint in {folder} is of another {what}: it differs in {said}",
                where=str(folder),
                help="resume with the same program, rows and settings, or begin anew in another folder",
            )
        )
    return found
