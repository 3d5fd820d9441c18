"""The old name of `posterior_lm.api.query`, kept for one release."""

import warnings

from posterior_lm.api.query import Query, load, loads, program

warnings.warn(
    "posterior_lm.query is now posterior_lm.api.query; import Query, load, loads and program from posterior_lm",
    DeprecationWarning,
    stacklevel=2,
)

__all__ = ["Query", "load", "loads", "program"]
