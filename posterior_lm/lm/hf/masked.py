"""Any masked language model of the transformers library as a `MaskedModel`: BERT-like encoders, masked diffusion models."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from attrs import field, frozen
from transformers import MODEL_FOR_MASKED_LM_MAPPING, PreTrainedModel

from posterior_lm.lang.diagnostics import ModelError
from posterior_lm.lm.hf.head import CHUNK
from posterior_lm.lm.hf.load import class_in, config_of, first_line, module_of, window_of
from posterior_lm.lm.hf.placement import check_memory, device_of, dtype_of
from posterior_lm.lm.protocol import Blanks, ModelIdentity
from posterior_lm.lm.tokenizers import HFTokenizer, load_tokenizer
from posterior_lm.lm.weights import failed, find_weights

TOKENS = 8192
"""Tokens of a forward pass."""
SAME = 1e-6
"""Nats by which what is said of a place moves at least, where the model reads what stands behind it."""


@frozen(eq=False)
class TransformersMasked:
    """A frozen `MaskedModel` over an `AutoModelForMaskedLM`. Texts of one length are computed together, so nothing is padded."""

    module: PreTrainedModel = field(repr=False)
    tokenizer: HFTokenizer = field(repr=False)
    identity: ModelIdentity
    mask_id: int
    max_length: int | None

    @classmethod
    def from_folder(
        cls, folder: str | Path, *, name: str | None = None, revision: str | None = None,
        dtype: str | None = None, device: str | None = None,
    ) -> TransformersMasked:  # fmt: skip
        """The model of an existing folder; options as `TransformersModel.from_folder` has them.

        Raises `ModelError` PLM511 to PLM514 and PLM519, PLM514 too for a model without masks and for one that reads
        nothing behind them.
        """
        folder, name = Path(folder), name or str(folder)
        weights = find_weights(folder)
        tokenizer = load_tokenizer(folder, name)
        if tokenizer.mask_id is None:
            help = (
                "use a model that was trained to fill masks: its tokenizer or its config.json names the token"
            )
            raise failed(folder, "it has no token for a masked place", help=help)
        config = config_of(folder)
        kind = class_in(MODEL_FOR_MASKED_LM_MAPPING, config)
        if kind is None:
            why = f"its model_type {config.model_type!r} is no masked language model"
            raise failed(folder, why, help='a causal model is declared without masked(…): lm base = "FOLDER"')
        place = device_of(device)
        dtype = dtype or dtype_of(weights, name, place)
        check_memory(name, weights.bytes_in(dtype, None), dtype, place)
        module = module_of(weights, kind, config, getattr(torch, dtype), place).eval().requires_grad_(False)
        identity = ModelIdentity(name, "masked", weights.digest, revision, dtype)
        window = window_of(config)
        padding = getattr(getattr(module.base_model, "embeddings", None), "padding_idx", None)
        if window is not None and padding is not None:
            window -= padding + 1  # RoBERTa numbers its places from there
        if window is not None:
            window -= len(tokenizer.start_ids) + len(tokenizer.end_ids)
        model = cls(module, tokenizer, identity, tokenizer.mask_id, window)
        model._try(folder)
        return model

    def _try(self, folder: Path) -> None:
        """Raises ModelError PLM514 where a forward pass fails, or does not read what stands behind a masked place."""
        ids = [i for i, spelled in enumerate(self.tokenizer.token_bytes) if spelled][:2]
        try:
            one, other = self.fill([Blanks((ids[0], None, i), (1,)) for i in ids])
        except Exception as problem:  # a model's code may fail in any way
            raise failed(folder, f"a first forward pass ended in: {first_line(problem)}") from None
        size = len(self.tokenizer.token_bytes)
        if one.shape[1] != size:
            raise failed(folder, f"it predicts {one.shape[1]} ids but the tokenizer has {size}")
        said = np.isfinite(one)
        if not np.abs(one[said] - other[said]).max() > SAME:
            why = "it does not read what stands behind a masked place, so it fills none"
            raise failed(folder, why, help='a causal model is declared without masked(…): lm base = "FOLDER"')

    def fill(self, texts: Sequence[Blanks]) -> list[np.ndarray]:
        """See `MaskedModel`; equal texts are computed once."""
        longest = max((len(text.ids) for text in texts), default=0)
        if self.max_length is not None and longest > self.max_length:
            raise ModelError.of(
                "PLM520",
                f"a text of {longest} tokens does not fit into the window of {self.identity.name}, {self.max_length}",
                help="let the guide read less of the context, or use a model with a longer window",
            )
        distinct = list(dict.fromkeys(texts))
        by_length: dict[int, list[Blanks]] = defaultdict(list)
        for text in distinct:
            by_length[len(text.ids)].append(text)
        found: dict[Blanks, np.ndarray] = {}
        for length, some in by_length.items():
            many = max(1, min(TOKENS // length, CHUNK // (length * self.tokenizer.vocabulary_size)))
            for begin in range(0, len(some), many):
                part = some[begin : begin + many]
                found |= zip(part, self._filled(part), strict=True)
        return [found[text] for text in texts]

    @torch.inference_mode()
    def _filled(self, texts: Sequence[Blanks]) -> list[np.ndarray]:
        """Texts of one length."""
        start, end = self.tokenizer.start_ids, self.tokenizer.end_ids
        rows = [(*start, *(self.mask_id if i is None else i for i in text.ids), *end) for text in texts]
        logits = self.module(input_ids=torch.tensor(rows, device=self.module.device)).logits
        out = []
        for row, text in zip(logits, texts, strict=True):
            asked = row[[len(start) + place for place in text.asked]].float()
            asked[:, self.mask_id] = -torch.inf  # a mask is no answer
            out.append(torch.log_softmax(asked, dim=-1).cpu().numpy())
        return out
