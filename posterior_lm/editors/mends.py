"""The edits that diagnostics propose, where they can be made without asking: those that their help spells out.

A help line is a sentence for people; this is the table of the sentences that say exactly what to write. A test
makes every edit in every program that is wrong on purpose, and asks that it mends what it says.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from posterior_lm.lang import ast
from posterior_lm.lang.diagnostics import Diagnostic
from posterior_lm.lang.source import Span

Edit = tuple[Span, str]
Edits = list[Edit]
Rule = Callable[[ast.Module, Diagnostic, Span, re.Match[str]], Edits]


def _write(new: str) -> Rule:
    """In place of what is marked; `new` may hold groups of the help."""
    return lambda module, d, span, match: [(span, match.expand(new))]


def _insert(before: str, after: str = "") -> Rule:
    """Around what is marked."""

    def rule(module: ast.Module, d: Diagnostic, span: Span, match: re.Match[str]) -> Edits:
        ends = Span(span.source, span.start, span.start), Span(span.source, span.end, span.end)
        texts = match.expand(before), match.expand(after)
        return [(end, text) for end, text in zip(ends, texts, strict=True) if text]

    return rule


def _doubled(new: str) -> Rule:
    """In place of what is marked and the same character before it, as of `**`."""
    return lambda module, d, span, match: [(Span(span.source, span.start - 1, span.end), new)]


def _close(module: ast.Module, d: Diagnostic, span: Span, match: re.Match[str]) -> Edits:
    """A bracket where the second label says that one is missing, behind what stands there before spaces."""
    if not d.secondary:
        return []
    at = len(span.source.text[: d.secondary[0].span.start].rstrip())
    return [(Span(span.source, at, at), f"\n{match[1]}\n" if match[1] == "}" else match[1])]


def _declare(module: ast.Module, d: Diagnostic, span: Span, match: re.Match[str]) -> Edits:
    at = module.program.span.start
    return [(Span(span.source, at, at), f"{match[1]}\n\n")]


def _call(module: ast.Module, d: Diagnostic, span: Span, match: re.Match[str]) -> Edits:
    """Parentheses behind a distribution; a function of values would have no arguments in them."""
    fits = d.code == "PLM312" and span.text == match[1]
    return _insert("", "()")(module, d, span, match) if fits else []


def _seam(module: ast.Module, d: Diagnostic, span: Span, match: re.Match[str]) -> Edits:
    """The space between two texts, from the end of the first to the beginning of the second."""
    first = [(span, "")] if span.text == " " else []
    return [*first, (d.secondary[0].span, match[1])] if d.secondary else []


def _drop(module: ast.Module, d: Diagnostic, span: Span, match: re.Match[str]) -> Edits:
    """The declaration or statement of a name that nothing reads, with its line where it is alone there."""
    for made in (*module.declarations, *ast.statements(module.program.body)):
        if module.program.body == (made,):
            continue  # a program is not empty
        if isinstance(made, ast.LmDecl | ast.ToolDecl | ast.UseDecl | ast.Let) and made.name.span == span:
            text, end = span.source.text, made.span.end
            return [
                (Span(span.source, made.span.start, end + len(text[end:]) - len(text[end:].lstrip())), "")
            ]
    return []


def _move_up(module: ast.Module, d: Diagnostic, span: Span, match: re.Match[str]) -> Edits:
    """The statement of the second label to the line above that of the first."""
    if not d.secondary:
        return []
    late = d.secondary[0].span
    around = [s for s in ast.statements(module.program.body) if not isinstance(s, ast.Block)]
    moved = next((s for s in around if s.span.start <= late.start < s.span.end), None)
    reader = next((s for s in around if s.span.start <= span.start < s.span.end), None)
    if moved is None or reader is None:
        return []
    text, source = span.source.text, span.source
    end = moved.span.end
    end += len(text[end:]) - len(text[end:].lstrip())
    at = Span(source, reader.span.start, reader.span.start)
    indent = " " * (source.position(at.start)[1] - 1)
    return [(at, f"{moved.span.text}\n{indent}"), (Span(source, moved.span.start, end), "")]


def _mark_choices(module: ast.Module, d: Diagnostic, span: Span, match: re.Match[str]) -> Edits:
    """The mark behind every choice of the type that the first label is in; raw strings hold it as others do."""
    types = [n for n in ast.nodes(module.program) if isinstance(n, ast.TypeExpr)]
    mine = next(t for t in types if any(arg.span == span for arg in t.args))
    ends = [arg.span.end - 1 for arg in mine.args]
    return [(Span(span.source, end, end), match[1]) for end in ends]


def _next_line(module: ast.Module, d: Diagnostic, span: Span, match: re.Match[str]) -> Edits:
    """A statement below that of the first label."""
    mine = next(
        s for s in ast.statements(module.program.body)
        if isinstance(s, ast.Latent) and s.span.start <= span.start < s.span.end
    )  # fmt: skip
    indent = " " * (span.source.position(mine.span.start)[1] - 1)
    return [(Span(span.source, mine.span.end, mine.span.end), f"\n{indent}{match[1]}")]


_NAME = r"[A-Za-z_][\w.]*"
RULES: tuple[tuple[re.Pattern[str], str, Rule], ...] = tuple(
    (re.compile(help), marked, rule)
    for help, marked, rule in (
        (rf"did you mean '({_NAME})'\?", _NAME, _write(r"\1")),
        (r'did you mean ("[^"\\]*")\?', r'r?".*"', _write(r"\1")),
        (r"choose another(?: name)?, such as '(\w+)'", _NAME, _write(r"\1")),
        (r"write (-?\d+\.\.-?\d+|uniform\(-?\d+, -?\d+\)|\"[^\"\\]*\")", r"[^=]*", _write(r"\1")),
        (r"write \w+=(\d+\.\.\d+)", r"\d+", _write(r"\1")),
        (r"write (\w+)=…", _NAME, _write(r"\1")),
        (r"write (\w+=)…", r"-?[\d.]+", _insert(r"\1")),
        (r"write '~' between .*", "=", _write("~")),
        (r"write '(==|=)'.*", "==?|~", _write(r"\1")),
        (r"write '(and|or|not)'", r"[&|!]+", _write(r" \1 ")),
        (r"write a straight quote: (\")|write a plain minus: (-)|a range has two dots: (\.\.)", ".",
         lambda module, d, span, match: [(span, match[match.lastindex or 0])]),
        (r"this is a no-break space.*", ".", _write(" ")),
        (r"statements need nothing between them: drop it", ";+", _write("")),
        (r"drop it", r"[\])}]", _write("")),
        (r"a power is written '(\^)'", r"\*", _doubled("^")),
        (r"a comment begins with '(#)'", "/", _doubled("#")),
        (r"separate items with ','", ".*", _insert(", ")),
        (r"add '([)\]}])'", r"[(\[{]", _close),
        (r"strings stand in quotes: \w+=(\"[^\"\\]*\")", _NAME, _write(r"\1")),
        (r"put it into a list to spell it: .*", ".*", _insert("[", "]")),
        (r"declare it above the program: (lm .*)", _NAME, _declare),
        (r"move the (?:let|latent) statement above this one", _NAME, _move_up),
        (r"(?:a language model is called:|write) (\w+)\(…\)", _NAME, _call),
        (r"the escapes are .*", r"\\.", _insert(r"\\")),
        (r"drop the space here: .*", " ", _write("")),
        (r"(?:drop the space here and )?score (\[\" \", \w+\])", ".", _seam),
        (r"drop it", _NAME, _drop),
        (r"end every choice with a mark, such as \".*(.)\" and \".*\1\"", r'r?".*"', _mark_choices),
        (r"score its end on the next line: (observe .*)", ".*", _next_line),
    )
)  # fmt: skip
"""The help, what has to be marked for it to be meant, and the edit."""


def mends(module: ast.Module, diagnostic: Diagnostic) -> Edits:
    """The edits that mend a diagnostic of this module; [] where its help leaves something to decide."""
    span = diagnostic.primary.span if diagnostic.primary else None
    if span is None or diagnostic.help is None:
        return []
    for help, marked, rule in RULES:
        if (match := help.fullmatch(diagnostic.help)) and re.fullmatch(marked, span.text, re.DOTALL):
            return rule(module, diagnostic, span, match)
    return []
