"""`plm`: the table of commands and the door to them."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import NoReturn

import click

from posterior_lm import __version__
from posterior_lm.cli.commands import LazyGroup, prepare_streams
from posterior_lm.lm.notices import ModelNotice

COMMANDS = {
    "check": "Say what is wrong with programs.",
    "fmt": "Rewrite programs in the canonical layout.",
    "graph": "Show the log-reward graph of a program.",
    "score": "Score given values of the latents, term by term.",
    "run": "Draw from the posterior of a program.",
    "report": "Draw from the posterior of a program and write one page about it.",
    "fit": "Train a policy that draws from the posterior of a program.",
    "em": "Train a guide and the model of what is observed, in turns.",
    "calibrate": "Test a method on rows that the program simulates.",
    "compare": "Run every method beside the exact posterior.",
    "predict": "Predict what was left unobserved.",
    "serve": "Serve models: log-probs and draws as vLLM has them, and posteriors of programs.",
    "playground": "Try programs on a page in the browser.",
    "lsp": "Serve editors: diagnostics, hover, completion, rename and more as one types.",
    "explain": "Explain a diagnostic code, or list them all.",
}
"""Each command with the first line of its help, so that `plm --help` imports none of them."""


@click.group(
    cls=LazyGroup,
    lines=COMMANDS,
    large=("score", "run", "report", "fit", "em", "calibrate", "compare", "predict"),
    moved={"bench": "the paper's tasks are run by `python -m benchmarks.paper` in a checkout"},
    package="posterior_lm.cli",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 fine, 1 the program, the data or the model has errors or a check failed, 2 misuse, "
    "70 a mistake of posterior_lm itself, 130 interrupted.",
)
@click.version_option(__version__, prog_name="plm")
def cli() -> None:
    """Probabilistic programs over language models.

    \b
    Example:
      plm run programs/story_infilling.plm --data programs/data/story_infilling.jsonl --row 0
    """


def _one_line(message: Warning | str, category: type[Warning], *_: object, **__: object) -> str:
    return f"{'note' if issubclass(category, ModelNotice) else 'warning'}: {message}\n"


def prepare_libraries() -> None:
    """Hides what libraries warn of and log: it is for developers, and would spoil JSON on standard error."""
    if not sys.warnoptions:
        logging.disable(logging.WARNING)
        warnings.simplefilter("ignore")
        warnings.filterwarnings("default", ".* is now called ", DeprecationWarning)
        warnings.filterwarnings("default", category=ModelNotice)
        warnings.formatwarning = _one_line


def main(command: click.Command = cli, name: str = "plm") -> NoReturn:
    """The entry point of `plm`, or of another command; exits with a code of `commands`."""
    # Before torch can be imported: OpenMP threads that spin while they wait make small
    # models tens of times slower on a machine whose cores are busy.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    prepare_libraries()
    prepare_streams()
    command(prog_name=name)
    raise SystemExit(0)
