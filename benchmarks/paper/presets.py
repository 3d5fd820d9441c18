"""The paper's settings of training for each task, for models of the sizes that it used.

Read in the code that Hu et al. (2024) released: the adapter's rank, scale and layers, the
learning rate and its warm-up, texts a step (rows × draws), steps, and where the reward's
temperature begins. `tiny` keeps the sizes of `plans`, at which these would not train it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from posterior_lm.lm.protocol import LanguageModel

PAPER: Mapping[str, Mapping[str, object]] = {
    "integers": {
        "rank": 512, "alpha": 32.0, "targets": ["k_proj", "v_proj"], "learning_rate": 5e-4, "balance_learning_rate": 5e-4,
        "warmup": 10, "rows": 1, "draws": 64, "steps": 2560, "tempered": 0.0, "replayed": 0.0,
    },
    "continuation": {
        "rank": 64, "alpha": 16.0, "targets": ["c_attn", "c_proj", "c_fc"], "learning_rate": 1e-4, "balance_learning_rate": 1e-4,
        "warmup": 20, "rows": 32, "draws": 8, "steps": 8900, "tempered": 0.5, "replayed": 0.25,
    },
    "infilling": {
        "rank": 64, "alpha": 16.0, "targets": ["c_attn", "c_proj"], "learning_rate": 1e-4, "balance_learning_rate": 1e-4,
        "warmup": 20, "rows": 16, "draws": 64, "steps": 2000, "tempered": 0.5, "replayed": 0.25,
        "reward_temperature": 1.1,
    },
    "subjectivity": {
        "rank": 256, "alpha": 16.0, "targets": ["k_proj", "v_proj"], "learning_rate": 5e-4, "balance_learning_rate": 5e-4,
        "warmup": 100, "rows": 8, "draws": 64, "steps": 1000, "tempered": 0.25, "replayed": 0.5,
        "reward_temperature": 1.2, "capacity": 100,
    },
    "arithmetic": {
        "rank": 64, "alpha": 16.0, "targets": ["q_proj", "k_proj", "v_proj", "out_proj"], "learning_rate": 1e-4,
        "balance_learning_rate": 1e-4, "warmup": 20, "rows": 32, "draws": 16, "steps": 2000, "tempered": 0.5,
        "replayed": 0.25, "reward_temperature": 1.1, "capacity": 50,
    },
}  # fmt: skip
"""Settings of a fit by task."""


def preset(models: Mapping[str, str], *, quick: bool) -> dict[str, dict[str, object]]:
    """The paper's settings where the base is another model than `tiny`; with `quick` all but its steps and batch."""
    if models.get("base", "tiny") == "tiny":
        return {}
    left_out = ("steps", "rows", "draws", "warmup", "rank", "alpha") if quick else ()
    return {task: {k: v for k, v in own.items() if k not in left_out} for task, own in PAPER.items()}


def fitting(
    model: LanguageModel, settings: Mapping[str, Mapping[str, object]]
) -> dict[str, dict[str, object]]:
    """The settings with those layers only that the model has; every linear layer where it has none of them."""
    from posterior_lm.train.adapter import check_model, linear_names

    found = {task: dict(own) for task, own in settings.items()}
    if any("targets" in own for own in found.values()):
        known = linear_names(check_model(model))
        for own in found.values():
            own["targets"] = [name for name in own.get("targets", ()) if name in known]  # type: ignore[attr-defined]
    return found
