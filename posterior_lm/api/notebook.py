"""What `%load_ext posterior_lm` adds to a notebook: the cell magic `%%plm NAME`."""

from __future__ import annotations

import warnings
from typing import Any

from posterior_lm.api.query import loads
from posterior_lm.api.watching import shell
from posterior_lm.lang.diagnostics import DataError, meant

USAGE = "the first line is %%plm NAME, or %%plm NAME --given"


def load_ipython_extension(ipython: Any) -> None:
    """`%load_ext posterior_lm`."""
    # tqdm, which transformers imports, says so below a cell where ipywidgets is absent; nothing here shows its bars.
    warnings.filterwarnings("ignore", "IProgress not found")
    ipython.register_magic_function(plm, magic_kind="cell", magic_name="plm")


def plm(line: str, cell: str) -> None:
    """`%%plm NAME [--given]`: the program in the cell, as a Query by that name.

    With --given, parameters are given the notebook's variables of their names; those without one are left open.
    """
    words = line.split()
    names = [word for word in words if not word.startswith("-")]
    odd = [word for word in words if word.startswith("-") and word != "--given"]
    if odd:
        help = meant(odd[0], ["--given"], USAGE)
        raise DataError.of("PLM802", f"`%%plm` has no option `{odd[0]}`", help=help)
    if len(names) != 1 or not names[0].isidentifier():
        what = f"not `{' '.join(names)}`" if names else "and there is none"
        raise DataError.of("PLM802", f"`%%plm` takes one name for the query, {what}", help=USAGE)
    ipython = shell()
    query = loads(cell, f"%%plm {names[0]}")
    if "--given" in words:
        params = [param.name.id for param in query.module.program.params]
        query = query.given({name: ipython.user_ns[name] for name in params if name in ipython.user_ns})
    ipython.push({names[0]: query})
