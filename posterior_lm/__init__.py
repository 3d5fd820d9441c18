"""posterior_lm: a probabilistic programming language for language models.

    import posterior_lm as plm

    query = plm.load("programs/story_infilling.plm").given(opening=…, ending=…)
    posterior = query.draw(1000, seed=0)

Nothing heavy is imported until a query is asked.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from posterior_lm.api.posterior import Posterior
    from posterior_lm.api.query import Query, load, loads, program
    from posterior_lm.api.shards import results
    from posterior_lm.lang.diagnostics import (
        CompileError,
        DataError,
        InferenceError,
        ModelError,
        PlmError,
    )
    from posterior_lm.lm.masked_table import MaskedTable
    from posterior_lm.lm.protocol import LanguageModel, MaskedModel
    from posterior_lm.lm.resolve import load_model
    from posterior_lm.lm.tabular import TabularModel
    from posterior_lm.predict import Prediction
    from posterior_lm.target.target import Target
    from posterior_lm.validate.reliability import reliability

__version__ = "0.1.0"

_HOMES = {
    "Query": "posterior_lm.api.query",
    "load": "posterior_lm.api.query",
    "loads": "posterior_lm.api.query",
    "program": "posterior_lm.api.query",
    "results": "posterior_lm.api.shards",
    "Posterior": "posterior_lm.api.posterior",
    "Prediction": "posterior_lm.predict",
    "Target": "posterior_lm.target.target",
    "LanguageModel": "posterior_lm.lm.protocol",
    "MaskedModel": "posterior_lm.lm.protocol",
    "MaskedTable": "posterior_lm.lm.masked_table",
    "TabularModel": "posterior_lm.lm.tabular",
    "load_model": "posterior_lm.lm.resolve",
    "PlmError": "posterior_lm.lang.diagnostics",
    "CompileError": "posterior_lm.lang.diagnostics",
    "DataError": "posterior_lm.lang.diagnostics",
    "ModelError": "posterior_lm.lang.diagnostics",
    "InferenceError": "posterior_lm.lang.diagnostics",
    "reliability": "posterior_lm.validate.reliability",
    "load_ipython_extension": "posterior_lm.api.notebook",  # `%load_ext posterior_lm`
}

__all__ = [
    "CompileError",
    "DataError",
    "InferenceError",
    "LanguageModel",
    "MaskedModel",
    "MaskedTable",
    "ModelError",
    "PlmError",
    "Posterior",
    "Prediction",
    "Query",
    "TabularModel",
    "Target",
    "load",
    "load_model",
    "loads",
    "program",
    "reliability",
    "results",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
