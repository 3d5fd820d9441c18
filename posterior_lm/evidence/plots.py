"""Pictures: what they need, said before any work is done, and how one is written."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

from posterior_lm.extras import need
from posterior_lm.lang.diagnostics import DataError, error
from posterior_lm.storage import unnameable, write_whole


def need_plots(png: str | Path) -> None:
    """Raises DataError PLM732 where matplotlib is absent, PLM612 where the file cannot be written."""
    try:
        need("matplotlib.figure", "plots")
    except ImportError as problem:
        raise DataError(error("PLM732", str(problem), help="or leave --plot out")) from None
    if why := unnameable(png):
        raise _cannot(png, why, None)
    folder = Path(png).absolute().parent
    if not folder.is_dir():
        raise _cannot(png, "its folder is missing", f"make it: mkdir -p {folder}")
    if Path(png).is_dir():
        raise _cannot(png, "it is a folder", "name a file in it, such as plot.png")
    if not os.access(folder, os.W_OK):
        raise _cannot(png, "its folder takes no file", None)


def _cannot(png: str | Path, why: str, help: str | None) -> DataError:
    return DataError(error("PLM612", f"cannot write {png}: {why}", where=str(png), help=help))


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure, in inches; it needs no display."""
    return need("matplotlib.figure", "plots").Figure(figsize=(width, height), layout="constrained")


def save(figure: Any, png: Path) -> None:
    """Write the figure as a PNG, whole or not at all. Raises DataError PLM612."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    write_whole(png, picture.getvalue())
