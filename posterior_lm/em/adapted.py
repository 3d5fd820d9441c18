"""The model with the M-step's adapter on: the base model's weights, and an identity of its own."""

from __future__ import annotations

import hashlib

from attrs import evolve

from posterior_lm.amortize.adapter import Adapter
from posterior_lm.lm.transformers import TransformersModel


def adapted(adapter: Adapter) -> TransformersModel:
    """The adapted model as it stands, sharing every weight of its base: ask again after a step.

    Its digest is that of the base model and of the adapter's weights, so that whatever was
    made with other weights can be told.
    """
    model = adapter.model()
    digest = digest_of(adapter)
    name = f"{adapter.base.identity.name} + em {digest[:8]}"
    model.identity = evolve(adapter.base.identity, name=name, digest=digest)
    return model


def digest_of(adapter: Adapter) -> str:
    """SHA-256 of the base model's digest and of the adapter's weights, by name."""
    whole = hashlib.sha256(adapter.base.identity.digest.encode())
    for name, tensor in adapter.tensors().items():
        whole.update(name.encode() + b"\0")
        whole.update(tensor.numpy().tobytes())
    return whole.hexdigest()
