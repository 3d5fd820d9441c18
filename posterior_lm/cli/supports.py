"""What `plm check` finds with a tokenizer at hand: empty supports, stops that cannot be spelled.

Only types whose options are literals, and only where the declared model is a small
one that lies on this machine: anything else is found when the program is run.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from posterior_lm.lang import ast
from posterior_lm.lang.check.values import constant
from posterior_lm.lang.diagnostics import CompileError, Diagnostic, PlmError
from posterior_lm.lang.walk import statements

if TYPE_CHECKING:
    from posterior_lm.lm.base import Tokenizer
    from posterior_lm.support.spec import Spec

LARGEST = 2**20
"""Bytes of tokenizer.json that are read: about 20,000 tokens, a tenth of a second."""
FEW = 100_000
"""Values of a finite type that are certainly not too many to list."""
_LATER = {"tools"}
"""Options whose text is known only when it is drawn: such a type is looked at when the program is run."""
_SPELT = {"pattern", "grammar", "json"}
"""Options that can leave nothing over any vocabulary; the last two name files."""


def check_supports(module: ast.Module, name: str) -> list[Diagnostic]:
    """PLM330 to PLM339 and PLM531 at the types of latents, PLM344 at tables, for a module without errors."""
    models = {d.name.id: d for d in module.declarations if isinstance(d, ast.LmDecl)}
    found: list[Diagnostic] = _tables(module)
    tokenizers: dict[str, Tokenizer | None] = {}
    for latent in statements(module.program.body):
        if not isinstance(latent, ast.Latent):
            continue
        wrong = _language(latent.type)
        found += wrong
        alias = _speller(latent.dist, models)
        if wrong or alias is None or not _literal(latent.type):
            continue
        if _spec_name(models[alias]) == "tiny" and never_empty(latent.type):
            continue
        if alias not in tokenizers:
            tokenizers[alias] = _tokenizer(models[alias], name)
        tokenizer = tokenizers[alias]
        if tokenizer is None:
            continue
        from posterior_lm.support.build import build_support

        try:
            build_support(_spec(latent.type), tokenizer, span=latent.type.span)
        except CompileError as wrong_type:
            found += wrong_type.diagnostics
    return found


def _tables(module: ast.Module) -> list[Diagnostic]:
    """What is wrong with the files of lookup tables: PLM344."""
    found: list[Diagnostic] = []
    for declared in module.declarations:
        if isinstance(declared, ast.ToolDecl) and declared.tool.function.id == "lookup":
            from posterior_lm.graph.lower_tools import table_beside

            path = declared.tool.args[0]
            assert isinstance(path, ast.Literal)
            try:
                table_beside(path)
            except CompileError as wrong_table:
                found += wrong_table.diagnostics
    return found


def _language(declared: ast.TypeExpr) -> tuple[Diagnostic, ...]:
    """What is wrong with a pattern, grammar or schema whatever the model: PLM334 to PLM339."""
    asked = [o for o in declared.options if o.name in _SPELT]
    if not asked or never_empty(declared):
        return ()
    from posterior_lm.support.language import language
    from posterior_lm.support.parser import check_grammar
    from posterior_lm.support.spec import TextSpec

    try:
        spec = _spec(declared)
        assert isinstance(spec, TextSpec)
        if wrong := spec.checks(declared.span):
            return wrong
        language(spec, next((o.value.span for o in asked if o.name == "pattern"), declared.span))
        check_grammar(spec, next((o.value.span for o in asked if o.name != "pattern"), declared.span))
    except CompileError as wrong_text:
        return wrong_text.diagnostics
    return ()


def _speller(dist: ast.Expr, models: dict[str, ast.LmDecl]) -> str | None:
    """The alias of the declared model that draws a latent; None where something else does."""
    while isinstance(dist, ast.PowerExpr):
        dist = dist.base
    if isinstance(dist, ast.Call) and dist.function.id == "choice" and dist.args:
        return _speller(dist.args[0], models)
    if isinstance(dist, ast.Call) and dist.function.id in models:
        return dist.function.id
    return None


def _literal(declared: ast.TypeExpr) -> bool:
    parts: list[ast.Expr] = []
    for part in (*declared.args, *(o.value for o in declared.options)):
        parts += [part.low, part.high] if isinstance(part, ast.Range) else [part]
    return all(constant(p) is not None for p in parts) and not any(o.name in _LATER for o in declared.options)


def never_empty(declared: ast.TypeExpr) -> bool:
    """Whether a type of literals has a support over any vocabulary that has all 256 bytes.

    True of nearly every type that has no grammar, and known without importing numpy, which would double the
    time of `plm check`. A stop of k bytes is k tokens at most, a filler byte before it
    makes up any greater length, and texts that differ differ in their tokens.
    """
    texts = [
        c for p in (*declared.args, *(o.value for o in declared.options)) if isinstance(c := _value(p), str)
    ]
    if any("\ud800" <= char <= "\udfff" for text in texts for char in text):
        return False
    options = {o.name: o.value for o in declared.options}
    if declared.name == "one_of":
        return len(declared.args) < FEW
    if declared.name == "int":
        low, high = _ends(declared.args[0])
        return 0 <= high - low < FEW
    if not _literal(declared):
        return False
    low, high = _ends(options["tokens"])
    stop = _value(options["stop"]) if "stop" in options else None
    if asked := _SPELT & set(options):
        if asked != {"pattern"} or "canonical" in options:
            return False
        from posterior_lm.lang.regex.lengths import surely_some_text

        chars = _value(options["chars"]) if "chars" in options else None
        pattern = str(_value(options["pattern"]))
        return surely_some_text(pattern, _text(stop), _text(chars), low, high)
    room = high if stop is None else high - len(str(stop).encode())
    return not {"chars", "canonical"} & set(options) and stop != "" and 0 <= low <= high and room >= 0


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _value(part: ast.Expr | ast.Range) -> object:
    return None if isinstance(part, ast.Range) else constant(part)


def _spec_name(declared: ast.LmDecl) -> str | None:
    model = declared.model
    name = constant(model if isinstance(model, ast.Literal) else model.args[0])
    return name if isinstance(name, str) else None


def _tokenizer(declared: ast.LmDecl, name: str) -> Tokenizer | None:
    """The tokenizer of a small local model; None where there is none that is cheap to read."""
    spec = _spec_name(declared)
    if spec is None:
        return None
    base = None if name == "-" else Path(name).resolve().parent
    from posterior_lm.lm.registry import peek_tokenizer, resolve

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


def _spec(declared: ast.TypeExpr) -> Spec:
    """The specification of a type of literals. Raises CompileError (PLM336) for a file that it names."""
    from posterior_lm.support.spec import ChoiceSpec, IntSpec, TextSpec

    options = {o.name: o.value for o in declared.options}
    values = {k: constant(v) for k, v in options.items() if not isinstance(v, ast.Range)}
    if declared.name == "one_of":
        return ChoiceSpec(tuple(str(constant(a)) for a in declared.args))
    if declared.name == "int":
        low, high = _ends(declared.args[0])
        return IntSpec(low, high, str(values.get("lead", "")))
    # A range of parameters is known when data are: until then any range will do.
    low, high = _ends(options["tokens"]) if _literal(declared) else (0, 64)
    for name in _SPELT & set(options) - {"pattern"}:
        from posterior_lm.graph.beside import text_beside

        path = options[name]
        assert isinstance(path, ast.Literal)
        values[name] = str(text_beside(path).value)
    text = {name: None if value is None else str(value) for name, value in values.items()}
    return TextSpec(
        min_tokens=low,
        max_tokens=high,
        stop=text.get("stop"),
        end="stop" if "stop" in text else str(values.get("end", "eos")),  # type: ignore[arg-type]
        chars=text.get("chars"),
        canonical=bool(values.get("canonical", False)),
        pattern=text.get("pattern"),
        grammar=text.get("grammar"),
        json=text.get("json"),
    )


def _ends(part: ast.Expr | ast.Range) -> tuple[int, int]:
    assert isinstance(part, ast.Range)
    return int(str(constant(part.low))), int(str(constant(part.high)))
