"""5xx: language models and backends."""

from __future__ import annotations

from posterior_lm.lang.codes.base import Code

CODES = (
    Code(
        code="PLM501",
        title="not available yet",
        explanation="The program is right, but what it asks for has no backend in this version, "
        "such as predicting a text that a latent's own distribution reads.",
        wrong="plm predict FILE prompt, where `latent z: text(…) ~ base(prompt)`",
        right="plm predict FILE NAME, where `observe NAME ~ base(z)`",
    ),
    Code(
        code="PLM510",
        title="a language model that cannot be found",
        explanation="Nothing of this name was found: it is not tiny, not a folder, not a .json file, and "
        "not on the hub or in its local cache. Without a network, download the model "
        "elsewhere and pass its folder: --lm base=PATH.",
        wrong='lm base = "no-such-model"',
        right='lm base = "tiny"',
    ),
    Code(
        code="PLM511",
        title="a model folder without weights",
        explanation="The folder exists, but holds no weights that can be read safely, such as "
        "model.safetensors.",
        wrong="a folder with config.json and tokenizer.json only",
        right="a folder with model.safetensors too",
    ),
    Code(
        code="PLM512",
        title="a model folder without a tokenizer",
        explanation="The folder holds no tokenizer, that is no tokenizer.json.",
        wrong="a folder with model.safetensors and config.json only",
        right="a folder with tokenizer.json too",
    ),
    Code(
        code="PLM513",
        title="a tokenizer that cannot be used",
        explanation="The bytes that each token adds cannot be told from this tokenizer, so supports "
        "cannot be exact.",
        wrong="a tokenizer that lower-cases its text",
        right="a byte-level or SentencePiece tokenizer",
    ),
    Code(
        code="PLM514",
        title="a model that failed to load",
        explanation="The files were found, but loading them failed. The message holds the reason.",
        wrong="a damaged weight file",
        right="the same file, downloaded again",
    ),
    Code(
        code="PLM515",
        title="--lm names no language model of the program",
        explanation="--lm NAME=PATH replaces a language model that the program declares.",
        wrong='--lm bsae=models/x, with lm base = "tiny" in the program',
        right="--lm base=models/x",
    ),
    Code(
        code="PLM516",
        title="a model without weights to adapt",
        explanation="A policy is a LoRA adapter on the weights of a transformers model. A table, or a model "
        "of another kind, has no weights that an adapter could change.",
        wrong='plm fit, where the guide reads lm base = tabular("table.json")',
        right='plm fit, where the guide reads lm base = "tiny"',
    ),
    Code(
        code="PLM517",
        title="a layer that the model lacks",
        explanation="An adapter names linear layers by their last name, and the model has none of this name. "
        "Without names, every linear layer but the head is adapted.",
        wrong="layers q_proj for a model whose layers are c_attn, c_fc and c_proj",
        right="layers c_attn for that model, or no names at all",
    ),
    Code(
        code="PLM520",
        title="a context longer than the window",
        explanation="A model reads a fixed number of tokens. Context, latents and scored text together "
        "are longer; the message says by how many tokens.",
        wrong="a prompt of 300 tokens for a model that reads 256",
        right="a shorter prompt, or another model with --lm",
    ),
    Code(
        code="PLM531",
        title="a text that the tokenizer cannot spell",
        explanation="A stop, a choice, an observation or a lead holds characters for which the model's "
        "vocabulary has no tokens.",
        wrong="a stop with a character outside the model's vocabulary",
        right='a stop such as "."',
    ),
    Code(
        code="PLM540",
        title="a backend that cannot do this program",
        explanation="The method asked for cannot handle this program. --method auto chooses one that can.",
        wrong="--method exact on a latent of fifty tokens with a budget of a second",
        right="--method importance",
    ),
    Code(
        code="PLM541",
        title="use is not allowed",
        explanation="A program that runs Python code by use needs the caller's consent, since a program "
        "file may come from anywhere.",
        wrong="a program with use, loaded as it is",
        right="the same, with use allowed by the caller",
    ),
    Code(
        code="PLM542",
        title="an imported object fails",
        explanation="The object that use names cannot be imported, or raised an error when it was called.",
        wrong='use score from "no_such_module:score"',
        right='use score from "my_package:score"',
    ),
)
