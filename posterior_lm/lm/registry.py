"""From the name of a model in a program to the model: the only door to torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from posterior_lm.lang.diagnostics import ModelError, error
from posterior_lm.lm.locate import Location, find_folder, resolve

if TYPE_CHECKING:
    from posterior_lm.lm.base import LanguageModel, Tokenizer

__all__ = ["Location", "load_model", "peek_tokenizer", "resolve"]


def load_model(
    spec: str,
    *,
    base_dir: str | Path | None = None,
    kind: str = "auto",
    revision: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
) -> LanguageModel:
    """The model that `spec` names; `ModelError` PLM510 to PLM514.

    `kind` "tabular" or "transformers" says which it is, whatever its name looks
    like. `revision`, `dtype` ("float32" by default) and `device` are for
    transformers models only; a table refuses them.
    """
    location = resolve(spec, base_dir, kind)
    if location.kind == "tabular" and location.path is not None:
        from posterior_lm.lm.tabular import TabularModel

        for option, value in (("revision", revision), ("dtype", dtype), ("device", device)):
            if value is not None:
                raise ModelError(
                    error("PLM514", f"the table {spec} has no {option}", help=f"leave out {option}")
                )
        return TabularModel.from_json(location.path, name=spec)
    folder, found = find_folder(spec, base_dir=base_dir, revision=revision, kind=kind)
    # After the folder is found: a missing model is reported without waiting for torch.
    from posterior_lm.lm.transformers import TransformersModel

    return TransformersModel.from_folder(
        folder, name=spec, revision=found, dtype=dtype or "float32", device=device
    )


def peek_tokenizer(spec: str, base_dir: str | Path | None = None) -> Tokenizer | None:
    """The tokenizer alone, without torch; None for a hub name, which only loading may look up.

    Raises what loading would: PLM510 to PLM514 for a table, PLM512 and PLM513 for a folder.
    """
    location = resolve(spec, base_dir)
    if location.path is None:
        return None
    if location.kind == "tabular":
        from posterior_lm.lm.tabular import TabularModel

        return TabularModel.from_json(location.path).tokenizer
    from posterior_lm.lm.tokenizer import load_tokenizer

    return load_tokenizer(location.path)
