"""What of a latent's own tokens its terms leave out: the outputs of tools with `output="intervene"`.

Such an output is set from outside, as `do` sets a variable (Pearl 2009): nothing says how
likely it was, but all that follows is after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from posterior_lm.graph.nodes import LmScore
from posterior_lm.lang.diagnostics import CompileError, error
from posterior_lm.target.pieces import Piece, Splice

if TYPE_CHECKING:
    from posterior_lm.target.evaluate import Evaluator


def uncounted_of(
    evaluator: Evaluator, node: LmScore, text: Sequence[Piece]
) -> Callable[[Sequence[int]], tuple[bool, ...]] | None:
    """What says which tokens of a scored text do not count; None where all do.

    Only of a bare latent any are left out. Raises CompileError PLM346 where the model that
    scores it has other tokens than the latent.
    """
    name = text[0].latent if node.bare and isinstance(text[0], Splice) else None
    latent = next((n for _, n in evaluator.graph.latents() if n.name == name), None)
    if latent is None or all(tool.output == "observe" for tool in latent.tools):
        return None
    if latent.name not in evaluator.spellers[node.lm].own:
        message = f"`{node.lm}` has other tokens than `{name}`, so what its tools wrote cannot be left out"
        help = 'give the tools output="observe", or score it with the model that it is drawn from'
        raise CompileError(error("PLM346", message, node.span, "this model's tokens", help=help))
    support: Any = evaluator.supports[latent.name]
    return support.left_out  # type: ignore[no-any-return]
