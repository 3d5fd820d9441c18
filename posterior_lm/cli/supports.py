"""What `plm check` finds with a tokenizer at hand: empty supports, stops that cannot be spelled.

Only types whose options are literals, and only where the declared model is a small
one that lies on this machine: anything else is found when the program is run. Supports, which need numpy, and
the graph are imported where a program needs them: few do, and it would double the time of `plm check`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from posterior_lm.graph.lower import table_beside, text_beside
from posterior_lm.lang import ast
from posterior_lm.lang.ast import statements
from posterior_lm.lang.automaton import surely_some_text
from posterior_lm.lang.diagnostics import CompileError, Diagnostic, PlmError
from posterior_lm.lang.typed import CheckedModule, Type
from posterior_lm.lm.resolve import peek_tokenizer, resolve

if TYPE_CHECKING:
    from posterior_lm.lm.protocol import Tokenizer
    from posterior_lm.support.spec import Spec

LARGEST = 2**20
"""Bytes of tokenizer.json that are read: about 20,000 tokens, a tenth of a second."""
FEW = 100_000
"""Values of a finite type that are certainly not too many to list."""
_SPELT = {"pattern", "grammar", "json"}
"""Options that can leave nothing over any vocabulary; the last two name files."""


def check_supports(checked: CheckedModule, name: str) -> list[Diagnostic]:
    """PLM330 to PLM339 and PLM531 at the types of latents, PLM344 at tables, for a module without errors."""
    models = {d.name.id: _spec_name(d) for d in checked.module.declarations if isinstance(d, ast.LmDecl)}
    found: list[Diagnostic] = _tables(checked.module)
    tokenizers: dict[str, Tokenizer | None] = {}
    for latent in statements(checked.module.program.body):
        if not isinstance(latent, ast.Latent):
            continue
        type_ = checked.type(latent.type)
        wrong = _language(type_)
        found += wrong
        alias = checked.dist(latent.dist).model
        if wrong or alias not in models or not type_.is_written:
            continue
        if models[alias] == "tiny" and never_empty(type_):
            continue
        if alias not in tokenizers:
            tokenizers[alias] = _tokenizer(models[alias], name)
        tokenizer = tokenizers[alias]
        if tokenizer is None:
            continue
        from posterior_lm.support.build import build_support

        try:
            build_support(_spec(type_), tokenizer, span=type_.span)
        except CompileError as wrong_type:
            found += wrong_type.diagnostics
    return found


def _tables(module: ast.Module) -> list[Diagnostic]:
    """What is wrong with the files of lookup tables: PLM344."""
    found: list[Diagnostic] = []
    for declared in module.declarations:
        if isinstance(declared, ast.ToolDecl) and declared.tool.function.id == "lookup":
            path = declared.tool.args[0]
            assert isinstance(path, ast.Literal)
            try:
                table_beside(path)
            except CompileError as wrong_table:
                found += wrong_table.diagnostics
    return found


def _language(type_: Type) -> tuple[Diagnostic, ...]:
    """What is wrong with a pattern, grammar or schema whatever the model: PLM334 to PLM339."""
    asked = [o for o in type_.at.options if o.name in _SPELT]
    if not asked or never_empty(type_):
        return ()
    from posterior_lm.support.grammar_parser import check_grammar
    from posterior_lm.support.spec import TextSpec, language

    try:
        spec = _spec(type_)
        assert isinstance(spec, TextSpec)
        if wrong := spec.checks(type_.span):
            return wrong
        language(spec, next((o.value.span for o in asked if o.name == "pattern"), type_.span))
        check_grammar(spec, next((o.value.span for o in asked if o.name != "pattern"), type_.span))
    except CompileError as wrong_text:
        return wrong_text.diagnostics
    return ()


def never_empty(type_: Type) -> bool:
    """Whether a type of literals has a support over any vocabulary that has all 256 bytes.

    True of nearly every type that has no grammar, and known without importing numpy, which would double the
    time of `plm check`. A stop of k bytes is k tokens at most, a filler byte before it
    makes up any greater length, and texts that differ differ in their tokens.
    """
    options = type_.options
    texts = [text for text in (*type_.choices, *options.values()) if isinstance(text, str)]
    if any("\ud800" <= char <= "\udfff" for text in texts for char in text) or not type_.is_written:
        return False
    if type_.name != "text":
        return type_.finite is not None and 0 < type_.finite.size < FEW
    low, high = _ends(options["tokens"])
    stop = options.get("stop")
    if asked := _SPELT & set(options):
        if asked != {"pattern"} or "canonical" in options:
            return False

        return surely_some_text(str(options["pattern"]), _text(stop), _text(options.get("chars")), low, high)
    room = high if stop is None else high - len(str(stop).encode())
    return not {"chars", "canonical"} & set(options) and stop != "" and 0 <= low <= high and room >= 0


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _spec_name(declared: ast.LmDecl) -> str | None:
    model = declared.model
    first = model if isinstance(model, ast.Literal) else model.args[0]
    return first.value if isinstance(first, ast.Literal) and isinstance(first.value, str) else None


def _tokenizer(spec: str | None, name: str) -> Tokenizer | None:
    """The tokenizer of a small local model; None where there is none that is cheap to read."""
    if spec is None:
        return None
    base = None if name == "-" else Path(name).resolve().parent

    try:
        path = resolve(spec, base).path
        if path is None:
            return None
        file = path / "tokenizer.json" if path.is_dir() else path
        if os.path.getsize(file) > LARGEST:
            return None
        return peek_tokenizer(spec, base)
    except (OSError, ValueError, PlmError):
        return None  # a model that is not there is no mistake of the program's text


def _spec(type_: Type) -> Spec:
    """The specification of a type of literals. Raises CompileError (PLM336) for a file that it names."""
    from posterior_lm.support.spec import TextSpec

    if type_.finite is not None:
        return type_.finite
    options: dict[str, object] = dict(type_.options)
    # A range of parameters is known when data are: until then any range will do.
    low, high = _ends(options["tokens"]) if type_.is_written else (0, 64)
    for option in type_.at.options:
        if option.name in _SPELT - {"pattern"}:
            assert isinstance(option.value, ast.Literal)
            options[option.name] = text_beside(option.value).value
    return TextSpec.of({**options, "tokens_low": low, "tokens_high": high})


def _ends(range_: object) -> tuple[int, int]:
    assert isinstance(range_, tuple)
    low, high = range_
    return low, high
