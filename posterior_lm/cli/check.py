"""`plm check`: what is wrong with programs, without importing a model, and when each condition is tested (`-v`).

With a tokenizer at hand it finds empty supports and stops that cannot be spelled: of types whose options are
literals, and where the declared model is a small one that lies on this machine. Anything else is found when the
program is run. The graph and supports, which take a tenth of a second to import and need numpy, are imported where
a program needs them: few do, and it would double the time of `plm check`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import click
from attrs import asdict, evolve, frozen

from posterior_lm.cli.commands import ERRORS, FINE, Command
from posterior_lm.cli.options import allow_path_option, allowed_paths, format_option, programs, read
from posterior_lm.cli.output import json_text, report, table
from posterior_lm.graph import lower, optimize
from posterior_lm.graph.conditions import conjuncts
from posterior_lm.graph.named_files import table_beside, text_beside
from posterior_lm.lang import ast
from posterior_lm.lang.ast import nodes, statements
from posterior_lm.lang.automaton import surely_some_text
from posterior_lm.lang.diagnostics import (
    CompileError,
    Diagnostic,
    Label,
    PlmError,
    shortened,
    to_json,
    warning,
)
from posterior_lm.lang.driver import compile_source
from posterior_lm.lang.source import Source
from posterior_lm.lang.typed import CheckedModule, Type
from posterior_lm.lang.values import PlaceSpec
from posterior_lm.lm.resolve import peek_conversation, peek_special_tokens, peek_tokenizer, resolve
from posterior_lm.target.certainty import impossible

if TYPE_CHECKING:
    from posterior_lm.graph.conditions import Conjunct
    from posterior_lm.graph.graph import RewardGraph
    from posterior_lm.lm.protocol import Tokenizer
    from posterior_lm.support.spec import Spec


@click.command(cls=Command)
@click.argument("files", nargs=-1, required=True, metavar="FILE…")
@click.option("--lint", is_flag=True, help="Warn of what is legal and probably not meant.")
@click.option("-v", "--verbose", is_flag=True, help="Say of each condition when it is tested.")
@allow_path_option
@format_option("full", "concise", "json")
@click.pass_context
def command(ctx: click.Context, files: tuple[str, ...], lint: bool, verbose: bool, format: str) -> None:
    """Say what is wrong with programs.

    FILE is a program, a folder of programs, or - for standard input. Diagnostics go to
    standard error, with --format json to standard output. With -v each condition is
    listed by kind: `mask` is never broken, `prefix` can fail before the value is whole,
    `end` is tested on whole values.

    \b
    Example:
      plm check programs/story_infilling.plm --lint
    """
    found: list[Diagnostic] = []
    sorted_: list[tuple[str, list[Row]]] = []
    names = programs(files)
    for name in names:
        checked, wrong = _check(name, lint)
        found += wrong
        if verbose and checked is not None:
            sorted_.append((name, rows(checked, allowed_paths())))
    errors = sum(d.severity == "error" for d in found)
    if format == "json":
        diagnostics = [to_json(d) for d in found]
        if verbose:
            conditions = [row.to_json(name) for name, table in sorted_ for row in table]
            click.echo(json_text({"diagnostics": diagnostics, "conditions": conditions}))
        else:
            click.echo(json_text(diagnostics))
    else:
        if found:
            report(found, format)
        for name, table in sorted_:
            click.echo("\n".join(lines(name, table)))
        if format == "full" and not errors:
            click.echo(f"{len(names)} program{'s' * (len(names) != 1)} checked: no errors")
    ctx.exit(ERRORS if errors else FINE)


def _check(name: str, lint: bool) -> tuple[CheckedModule | None, list[Diagnostic]]:
    """The module, where it has no error, and what was found."""
    try:
        source = read(name)
    except CompileError as wrong:
        return None, list(wrong.diagnostics)
    return check_source(source, name, lint=lint)


def check_source(source: Source, name: str, *, lint: bool) -> tuple[CheckedModule | None, list[Diagnostic]]:
    """The module of a text, where it has no error, and what was found; files that `name` names lie beside it."""
    checked = compile_source(source, lint=lint)
    found = list(checked.diagnostics)
    if checked.errors:
        return None, found
    allowed = allowed_paths()
    found += check_supports(checked, name, allowed) + check_conversations(checked, name)
    if lint:
        found += typed_special_tokens(checked, name)
    if any(d.severity == "error" for d in found):
        return None, found
    return checked, found + check_conditions(checked, allowed)


# ---- conditions: what no value satisfies, and when each is tested

WIDEST = 40
"""Characters of a condition that are shown."""


@frozen
class Row:
    """A part of a condition and what it is for one latent that it reads."""

    line: int
    condition: str
    latent: str | None
    kind: str
    why: str

    def to_json(self, file: str) -> dict[str, object]:
        return {"file": file, **asdict(self)}


def check_conditions(checked: CheckedModule, allowed: tuple[Path, ...] = ()) -> list[Diagnostic]:
    """PLM340 for finite latents, for a module without errors; texts need a tokenizer and wait for one."""
    body = list(statements(checked.module.program.body))
    finite = any(isinstance(s, ast.Latent) and checked.type(s.type).is_finite for s in body)
    if not finite or not any(isinstance(s, ast.Condition) for s in body):
        return []
    return impossible(optimize(lower(checked, allowed=allowed)))


def rows(checked: CheckedModule, allowed: tuple[Path, ...] = ()) -> list[Row]:
    """One row per part of a condition and latent, for a module without errors.

    A part that reads no latent is `known`: it is settled when data is bound.
    """
    graph = optimize(lower(checked, allowed=allowed))
    found = []
    for part in conjuncts(graph):
        line, text = part.statement.line, _condition_text(graph, part)
        if not part.readings:
            found.append(Row(line, text, None, "known", "no latent changes it"))
        for reading in part.readings:
            found.append(Row(line, text, reading.latent, reading.kind, reading.why))
    return found


def _condition_text(graph: RewardGraph, part: Conjunct) -> str:
    text = " ".join(graph[part.node].span.text.split())
    return f"not {text}" if part.negated else text


def lines(name: str, found: list[Row]) -> list[str]:
    """The rows as an aligned table under the name of their program."""
    if not found:
        return [f"{name}: no conditions"]
    cells = [[str(r.line), shortened(r.condition, WIDEST), r.latent or "-", r.kind, r.why] for r in found]
    head = ("line", "condition", "latent", "kind", "why")
    return [name, *table(head, cells, (True, False, False, False, False))]


# ---- supports: what is empty, and what cannot be spelled

LARGEST = 2**20
"""Bytes of tokenizer.json that are read: about 20,000 tokens, a tenth of a second."""
FEW = 100_000
"""Values of a finite type that are certainly not too many to list."""
_SPELT = {"pattern", "grammar", "json"}
"""Options that can leave nothing over any vocabulary; the last two name files."""


def check_supports(checked: CheckedModule, name: str, allowed: tuple[Path, ...] = ()) -> list[Diagnostic]:
    """PLM330 to PLM339 and PLM531 at the types of latents, PLM344 at tables, PLM347 at files, for a module without errors."""
    models = _models(checked.module)
    found: list[Diagnostic] = _tables(checked.module, allowed)
    tokenizers: dict[str, Tokenizer | None] = {}
    for latent in statements(checked.module.program.body):
        if not isinstance(latent, ast.Latent):
            continue
        whole, alias = checked.type(latent.type), checked.dist(latent.dist).model
        item = whole.item or whole
        ends = None if whole.item is None else item.begins
        parts = dict.fromkeys(part for part in (ends, *item.columns.values()) if part is not None)
        for type_ in parts or (item,):
            wrong = _language(type_, allowed)
            found += wrong
            if wrong or alias not in models or not type_.is_written:
                continue
            end = str(whole.options["end"]) if type_ is ends else None
            if models[alias] == "tiny" and never_empty(type_) and _certainly_ends(type_, end):
                continue
            if alias not in tokenizers:
                tokenizers[alias] = _tokenizer(models[alias], name)
            tokenizer = tokenizers[alias]
            if tokenizer is None:
                continue
            from posterior_lm.support.build import build_support

            try:
                build_support(_spec(type_, allowed, end), tokenizer, span=type_.span)
            except CompileError as wrong_type:
                found += wrong_type.diagnostics
    return found


def _certainly_ends(type_: Type, end: str | None) -> bool:
    """Whether the end of a list has as many tokens as its items may have, whatever they are: no token is empty."""
    if end is None or type_.name != "text":
        return True
    low, high = _ends(type_.options["tokens"])
    return low <= 1 and len(end.encode()) <= high


def _tables(module: ast.Module, allowed: tuple[Path, ...]) -> list[Diagnostic]:
    """What is wrong with the files of lookup tables: PLM344, PLM347."""
    found: list[Diagnostic] = []
    for declared in module.declarations:
        if isinstance(declared, ast.ToolDecl) and declared.tool.function.id == "lookup":
            path = declared.tool.args[0]
            assert isinstance(path, ast.Literal)
            try:
                table_beside(path, allowed=allowed)
            except CompileError as wrong_table:
                found += wrong_table.diagnostics
    return found


def _language(type_: Type, allowed: tuple[Path, ...]) -> tuple[Diagnostic, ...]:
    """What is wrong with a pattern, grammar or schema whatever the model: PLM334 to PLM339."""
    asked = [o for o in type_.at.options if o.name in _SPELT]
    if not asked or never_empty(type_):
        return ()
    from posterior_lm.support.grammar_parser import check_grammar
    from posterior_lm.support.spec import TextSpec, language

    try:
        spec = _spec(type_, allowed)
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


# ---- conversations: what a chat template says of them, and special tokens that are typed by hand

_MARKUP = re.compile(r"<[^<>\s]+>|\[[A-Z_/]+\]|<\|")
"""What special tokens look like: only a text with such a thing is worth reading a vocabulary for."""


def check_conversations(checked: CheckedModule, name: str) -> list[Diagnostic]:
    """PLM550 to PLM553 at contexts with roles, for models whose template can be read here."""
    models = _models(checked.module)
    found: list[Diagnostic] = []
    for call in nodes(checked.module.program.body):
        if not isinstance(call, ast.Call):
            continue
        roles = [arg for arg in call.args if isinstance(arg, ast.Role)]
        spec = models.get(call.function.id)
        if not roles or spec is None:
            continue
        places = count()
        messages = [(role.role, tuple(_said(checked, part, places) for part in role.args)) for role in roles]
        try:
            peek_conversation(spec, _home(name), messages)
        except PlmError as problem:
            refused = getattr(problem.__cause__, "message", None)
            span = call.span if refused is None else roles[refused].span
            label = "this conversation" if refused is None else "this message"
            # A model that is not there is no mistake of the program's text.
            told = [d for d in problem.diagnostics if d.code in ("PLM550", "PLM551", "PLM552", "PLM553")]
            found += [evolve(d, primary=Label(span, label)) for d in told]
    return found


def _said(checked: CheckedModule, part: ast.Expr, places: Iterator[int]) -> str | int:
    """A part of a message: its text, some text for what data decide, a number for what is drawn."""
    if checked.value(part).latents:
        return next(places)
    known = checked.constant(part)
    return str(known) if isinstance(known, str) else "x"


def typed_special_tokens(checked: CheckedModule, name: str) -> list[Diagnostic]:
    """PLM554 at texts that spell a special token of a model of the program, for models on this machine."""
    texts = [
        n for n in nodes(checked.module.program) if isinstance(n, ast.Literal) and isinstance(n.value, str)
    ]
    texts = [text for text in texts if _MARKUP.search(str(text.value))]
    found: list[Diagnostic] = []
    for spec in sorted({s for s in _models(checked.module).values() if s is not None}) if texts else ():
        try:
            tokens = peek_special_tokens(spec, _home(name))
        except PlmError:
            continue
        for text in texts:
            spelt = next((t for t in sorted(tokens, key=len, reverse=True) if t in str(text.value)), None)
            if spelt is not None and all(text.span != d.primary.span for d in found if d.primary):
                found.append(
                    warning(
                        "PLM554",
                        f"'{spelt}' is a special token of {spec}, and ordinary characters in a text",
                        text.span,
                        "the model does not read the token here",
                        help="write the context as a conversation: base(system(…), user(…), assistant(…))",
                    )
                )
    return found


def _models(module: ast.Module) -> dict[str, str | None]:
    return {d.name.id: _spec_name(d) for d in module.declarations if isinstance(d, ast.LmDecl)}


def _home(name: str) -> Path | None:
    return None if name == "-" else Path(name).resolve().parent


def _spec_name(declared: ast.LmDecl) -> str | None:
    model = declared.model
    first = model if isinstance(model, ast.Literal) else model.args[0]
    return first.value if isinstance(first, ast.Literal) and isinstance(first.value, str) else None


def _tokenizer(spec: str | None, name: str) -> Tokenizer | None:
    """The tokenizer of a small local model; None where there is none that is cheap to read."""
    if spec is None:
        return None
    base = _home(name)
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


def _spec(type_: Type, allowed: tuple[Path, ...] = (), end: str | None = None) -> Spec:
    """The specification of a type of literals, of a place of a list with that end. Raises CompileError (PLM336, PLM347) for a file that it names."""
    from posterior_lm.support.spec import TextSpec

    if type_.finite is not None:
        return type_.finite if end is None else PlaceSpec(type_.finite, end)
    options: dict[str, object] = dict(type_.options)
    # A range of parameters is known when data are: until then any range will do.
    low, high = _ends(options["tokens"]) if type_.is_written else (0, 64)
    for option in type_.at.options:
        if option.name in _SPELT - {"pattern"}:
            assert isinstance(option.value, ast.Literal)
            options[option.name] = text_beside(option.value, allowed=allowed).value
    place = {"mark": end, "may_end": end is not None}
    return TextSpec.of({**options, **place, "tokens_low": low, "tokens_high": high})


def _ends(range_: object) -> tuple[int, int]:
    assert isinstance(range_, tuple)
    low, high = range_
    return low, high
