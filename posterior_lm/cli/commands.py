"""What a command is: imported when it is called, its errors told as data, its end one of a few exit codes.

0 fine; 1 the program, the data or the model has errors, or what was to be checked does
not hold (`fmt --check`, `calibrate`); 2 misuse of the command line; 70 a mistake of posterior_lm; 130 interrupted.
A reader that closes the pipe has what it wanted: 0.

`plm --help` loads this and click alone: what a near miss or an error needs is imported where there is one.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from posterior_lm.cli.waiting import waiting

if TYPE_CHECKING:
    from posterior_lm.lang.diagnostics import Diagnostic

FINE, ERRORS, MISUSE, INTERNAL, INTERRUPTED = 0, 1, 2, 70, 130
REPORT = "https://github.com/posterior-lm/posterior_lm/issues"


class PipeClosed(Exception):
    """Whoever read standard output has stopped."""


@contextlib.contextmanager
def closing_pipe() -> Iterator[None]:
    """Hides a closed pipe from click, which would leave with exit code 1."""
    try:
        yield
    except BrokenPipeError as closed:
        raise PipeClosed from closed


def prepare_streams() -> None:
    """Makes the standard streams fit to be read and written, whatever state they were left in.

    One that was closed (`>&-`, `<&-`), for which Python has None, becomes /dev/null: whoever closes standard
    output wants as little of it as a reader who closes a pipe. In this order, since what is opened takes the
    lowest number that is free. A character that standard output cannot spell is written as an escape, as
    standard error does.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def code_of(run: Callable[[], object]) -> int:
    """Runs a command and returns its exit code, whatever happens in it."""
    try:
        try:
            result = run()
            sys.stdout.flush()
            return result if isinstance(result, int) else FINE
        except click.exceptions.Exit as leaving:
            sys.stdout.flush()
            return leaving.exit_code
        except click.ClickException as misuse:
            misuse.show()
            return misuse.exit_code
    except (BrokenPipeError, PipeClosed):
        _silence()
        return FINE
    except (KeyboardInterrupt, click.Abort):
        _silence()
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except Exception as problem:  # the last line of defence: a user never sees a traceback unasked
        return _unexpected(problem)


def code_of_diagnostics(diagnostics: Sequence[Diagnostic]) -> int:
    """2 where only options of the command line are wrong (PLM802), else 1."""
    return MISUSE if diagnostics and all(d.code == "PLM802" for d in diagnostics) else ERRORS


def _unexpected(problem: Exception) -> int:
    if isinstance(problem, OSError) and problem.filename is None and problem.errno is not None:
        # Standard output itself failed: a full disk behind a redirection.
        _silence()
        from posterior_lm.cli.output import report
        from posterior_lm.lang.diagnostics import error

        report([error("PLM805", f"cannot write the result: {os.strerror(problem.errno).lower()}")])
        return ERRORS
    with contextlib.suppress(BrokenPipeError):
        if os.environ.get("PLM_DEBUG") == "1":
            click.echo("".join(traceback.format_exception(problem)), err=True, nl=False)
        what = f"{type(problem).__name__}: {problem}".split("\n", 1)[0][:200]
        how = "" if os.environ.get("PLM_DEBUG") == "1" else ", with what PLM_DEBUG=1 adds"
        click.echo(
            f"Sorry: a mistake of posterior_lm itself ({what}). Please report it at {REPORT}{how}.", err=True
        )
    return INTERNAL


def _silence() -> None:
    """Points standard output at nothing, so that the interpreter's last flush cannot fail."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)


# ---- commands of click


class ExitCodes(click.Command):
    """A command that is run by itself: it leaves by SystemExit alone, with the codes above."""

    def make_context(self, *args: Any, **more: Any) -> click.Context:
        with closing_pipe():
            return super().make_context(*args, **more)

    def invoke(self, ctx: click.Context) -> Any:
        with closing_pipe():
            return super().invoke(ctx)

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **more: Any
    ) -> Any:
        """Runs one command line and exits."""
        more = {**more, "standalone_mode": False}
        raise SystemExit(code_of(lambda: super(ExitCodes, self).main(args, prog_name, **more)))


class LazyGroup(ExitCodes, click.Group):
    """Command `name` is the object `command` of module `package.name`.

    `moved` says of commands that are gone what stands for them, `large` which import for long: that is said, unless lines of
    JSON are to stand alone.
    """

    def __init__(
        self,
        *args: Any,
        lines: Mapping[str, str],
        package: str,
        moved: Mapping[str, str],
        large: Sequence[str] = (),
        **more: Any,
    ) -> None:
        super().__init__(*args, **more)
        self.lines, self.package, self.moved, self.large = lines, package, moved, large

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.lines)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.lines:
            return None
        return import_module(f"{self.package}.{name}").command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.lines and not args[0].startswith("-"):
            from posterior_lm.lang.diagnostics import meant

            hint = meant(args[0], self.lines, f"the commands are {', '.join(self.lines)}", quote="'")
            hint = self.moved.get(args[0], hint)
            ctx.fail(f"no such command '{args[0]}'; {hint}")
        said = args and args[0] in self.large and "jsonl" not in args
        with waiting(lambda: "starting") if said else contextlib.nullcontext():
            return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self.lines.items()))


class Command(click.Command):
    """A command whose `PlmError`s are reported in the format that `--format` asked for."""

    def invoke(self, ctx: click.Context) -> Any:
        from posterior_lm.cli.output import report
        from posterior_lm.lang.diagnostics import PlmError

        try:
            return super().invoke(ctx)
        except PlmError as wrong:
            report(wrong.diagnostics, ctx.params.get("format", "full"))
            ctx.exit(code_of_diagnostics(wrong.diagnostics))
