"""Train the byte-level BPE tokenizer of `tiny` on documents of its world.

Text is split before merging so that a word carries at most one leading space,
every digit is a token (the first digit of a number may carry the space), and
punctuation is always a token of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

VOCAB_SIZE = 1024
BOS, EOS = "<s>", "</s>"
PIECES = r""" ?[0-9]| ?[+\-="?]|[.,:\n]| ?\p{L}[\p{L}']*|\s|[^\s\p{L}]"""


def train_tokenizer(texts: Iterable[str]):
    """A `tokenizers.Tokenizer` with `VOCAB_SIZE` entries; adds `<s>`, never `</s>`."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    bos = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, bos)]
    )
    return tokenizer


def save_tokenizer(tokenizer, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json for `AutoTokenizer`."""
    tokenizer.save(str(folder / "tokenizer.json"))
    # Written by hand: the class name that newer releases of transformers write is
    # unknown to older ones, and this one loads in both.
    facts = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 512,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
