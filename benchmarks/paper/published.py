"""The figures that Hu et al. (2024), "Amortizing intractable inference in large language models", report.

They stand beside ours, marked as theirs, and are never mixed with them: their models, data and
judges are others. `source` says where a figure was read: in the paper's poster or a published
note on it, on a page that quotes the paper, or in a notebook of its code.
"""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen

POSTER, QUOTED, CODE = "the authors' poster", "pages that quote the paper", "a notebook of its code"


@frozen
class PaperFigure:
    """One figure of the paper: of which task, setting, method and metric, in the units of our table."""

    task: str
    setting: str
    method: str
    metric: str
    value: float
    source: str
    model: str


def figures() -> Iterator[PaperFigure]:
    """Every figure, in the order of the table."""
    for setting, task, metric, model, source, table in _TABLES:
        for method, value in table.items():
            yield PaperFigure(task, setting, method, metric, value, source, model)


_J, _L = "instruct GPT-J 6B", "GPT-2 Large"
_TABLES: tuple[tuple[str, str, str, str, str, dict[str, float]], ...] = (
    ("uniform", "integers", "share_valid", _J, QUOTED, {"base": 0.505, "ppo": 0.958, "gflownet": 1.0}),
    ("uniform", "integers", "kl_draws", _J, QUOTED, {"base": 3.37, "gflownet": 9.75e-5}),
    ("uniform, rerun", "integers", "kl_draws", _J, CODE, {"gflownet": 0.0102}),
    ("infilling", "infilling", "bert_score", _L, POSTER, {"prompting": 0.081, "sft": 0.094, "gflownet": 0.184}),
    ("infilling", "infilling", "gleu4", _L, POSTER, {"prompting": 0.032, "sft": 0.037, "gflownet": 0.042}),
    ("infilling", "infilling", "judge", _L, POSTER, {"prompting": 2.4, "sft": 2.7, "gflownet": 3.4}),
    ("no labels", "subjectivity", "accuracy", _J, POSTER, {"zero-shot": 0.517}),
    ("10 labels", "subjectivity", "accuracy", _J, POSTER,
     {"few-shot": 0.613, "sft": 0.643, "gflownet": 0.714, "gflownet+em": 0.752}),
    ("20 labels", "subjectivity", "accuracy", _J, POSTER,
     {"few-shot": 0.618, "sft": 0.691, "gflownet": 0.811, "gflownet+em": 0.787}),
    ("50 labels", "subjectivity", "accuracy", _J, POSTER,
     {"few-shot": 0.658, "sft": 0.897, "gflownet": 0.877, "gflownet+em": 0.899}),
    ("3 operands", "arithmetic", "accuracy_tool", _J, POSTER,
     {"few-shot": 0.355, "sft": 0.721, "ppo": 0.306, "gflownet": 0.952}),
    ("4 operands", "arithmetic", "accuracy_tool", _J, POSTER,
     {"few-shot": 0.210, "sft": 0.196, "ppo": 0.137, "gflownet": 0.754}),
    ("5 operands", "arithmetic", "accuracy_tool", _J, POSTER,
     {"few-shot": 0.105, "sft": 0.128, "ppo": 0.056, "gflownet": 0.407}),
)  # fmt: skip

CAVEATS = {
    "integers": "The paper's two sets of figures for its own policy differ by two orders of magnitude; its target "
    "leaves out 100, which the prompt allows.",
    "subjectivity": "The paper's 50-label policy without EM is below supervised fine-tuning, and EM lowers it at 20.",
    "arithmetic": "All 500 questions of the paper's file of three and four operands are training questions; its "
    "five-operand file has none of them. It reads the answer off the last result of the tool.",
}
"""What a reader has to know of the paper's figures of a task."""
