"""Expressions of the language over the values of draws: what `expect` and `prob` take as text.

The text is read and checked as a statement of a program whose parameters are the latents, and its
graph is evaluated over all draws at once. Nothing of it is Python, and no model is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from attrs import evolve

from posterior_lm.graph import lower
from posterior_lm.graph.nodes import ChoiceScore, Input, Latent, LmScore, Node
from posterior_lm.lang import ast
from posterior_lm.lang.diagnostics import CompileError, Diagnostic, InferenceError
from posterior_lm.lang.driver import check
from posterior_lm.lang.parser import parse_fragment
from posterior_lm.lang.signatures import value_type
from posterior_lm.lang.source import NOWHERE, Source, Span
from posterior_lm.target.evaluate import Evaluator
from posterior_lm.target.functions import is_nan
from posterior_lm.target.values import Values, count


def evaluate(
    text: str, wanted: Literal["number", "truth"], types: Mapping[str, str], models: Iterable[str],
    values: Values,
) -> list[float]:  # fmt: skip
    """(N,) the expression of every draw, a truth value as 1 or 0; NaN where it has no value.

    `types` has the declared type of each latent, `models` the aliases of the program's. Raises CompileError for
    an expression that is wrong, InferenceError PLM540 for one that asks a model.
    """
    value = parse_fragment(Source("<expression>", text), "expression")
    statement = ast.Condition(value) if wanted == "truth" else ast.Factor(value)
    named = {name: value_type(kind).kind for name, kind in types.items() if name.isidentifier()}
    params = tuple(ast.Param(ast.Name(name), ast.TypeExpr(kind)) for name, kind in named.items())
    declared = tuple(ast.LmDecl(ast.Name(alias), ast.Literal("tiny")) for alias in models)
    checked = check(
        ast.Module(declared, ast.Program(ast.Name("posterior"), params, (statement,)), span=NOWHERE)
    )
    if checked.errors:
        raise CompileError([_of_an_expression(d, types) for d in checked.errors])
    graph = lower(checked)
    for node in graph.nodes.values():
        if isinstance(node, LmScore | ChoiceScore):
            message = "an expression over draws asks no model"
            help = "use `log_reward` of the draws, or score values with the query"
            raise InferenceError.of("PLM540", message, node.span, "a model would score this", help=help)
    nodes = {i: _of_draws(node, named) for i, node in graph.nodes.items()}
    (term,) = graph.sink.inputs
    root = graph[term].inputs[0] if wanted == "truth" else term
    evaluator = Evaluator(graph.rebuilt(nodes), {}, {}, {})
    return [float(x) for x in evaluator.node(root, values, count(values))]  # type: ignore[arg-type]


def refuse_nan(text: str, found: Iterable[float]) -> None:
    """Raises InferenceError PLM701 where the expression has no value for a draw that counts."""
    lost = [is_nan(x) for x in found]
    if any(lost):
        span = Span(Source("<expression>", text), 0, len(text))
        raise InferenceError.of(
            "PLM701", f"the expression is not a number for {sum(lost)} of {len(lost)} draws", span,
            help="guard it, for example with `if … then … else …`",
        )  # fmt: skip


def _of_draws(node: Node, named: Mapping[str, str]) -> Node:
    """A latent in place of the parameter that stands for it."""
    if isinstance(node, Input):
        return Latent(name=node.name, type=named[node.name], span=node.span)
    return node


def _of_an_expression(found: Diagnostic, types: Mapping[str, str]) -> Diagnostic:
    """What the checker says of a statement, of an expression that stands alone."""
    match found.code:
        case "PLM303":
            found = evolve(
                found, message=found.message.replace("a condition is", "what has a probability is")
            )
        case "PLM304":
            truth = found.primary is not None and "truth" in found.primary.text
            help = 'prob("…") is the probability that it is true' if truth else None
            found = evolve(found, message="an expectation is of a number", help=help)
        case "PLM201" if found.help is None and found.message.startswith("unknown name"):
            plates = [name for name in types if not name.isidentifier()]
            names = ", ".join(f"`{name}`" for name in types) or "none"
            help = f"the latents are {names}"
            if plates:
                help += f"; those of a plate are read by a function: lambda row: row[{plates[0]!r}]"
            found = evolve(found, help=help)
    return found
