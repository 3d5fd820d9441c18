"""A click group whose commands are imported when they are called, and whose errors have exit codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import click

from posterior_lm.cli import outcome


class ExitCodes(click.Command):
    """A command that is run by itself: it leaves by SystemExit alone, with the codes of `outcome`."""

    def make_context(self, *args: Any, **more: Any) -> click.Context:
        with outcome.closing_pipe():
            return super().make_context(*args, **more)

    def invoke(self, ctx: click.Context) -> Any:
        with outcome.closing_pipe():
            return super().invoke(ctx)

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **more: Any
    ) -> Any:
        """Runs one command line and exits."""
        more = {**more, "standalone_mode": False}
        raise SystemExit(outcome.code_of(lambda: super(ExitCodes, self).main(args, prog_name, **more)))


class LazyGroup(ExitCodes, click.Group):
    """Command `name` is the object `command` of module `package.name`, or of the module that `homes` names.

    `moved` says of commands that are gone what stands for them.
    """

    def __init__(
        self, *args: Any, lines: Mapping[str, str], package: str, homes: Mapping[str, str],
        moved: Mapping[str, str], **more: Any,
    ) -> None:  # fmt: skip
        super().__init__(*args, **more)
        self.lines, self.package, self.homes, self.moved = lines, package, homes, moved

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.lines)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.lines:
            return None
        return import_module(f"{self.package}.{self.homes.get(name, name)}").command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.lines and not args[0].startswith("-"):
            from posterior_lm.lang.near import nearest

            close = nearest(args[0], self.lines)
            hint = f"did you mean '{close}'?" if close else f"the commands are {', '.join(self.lines)}"
            hint = self.moved.get(args[0], hint)
            ctx.fail(f"no such command '{args[0]}'; {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self.lines.items()))


class Command(click.Command):
    """A command whose `PlmError`s are reported in the format that `--format` asked for."""

    def invoke(self, ctx: click.Context) -> Any:
        from posterior_lm.lang.diagnostics import PlmError

        try:
            return super().invoke(ctx)
        except PlmError as wrong:
            outcome.report(wrong.diagnostics, ctx.params.get("format", "full"))
            ctx.exit(outcome.code_of_diagnostics(wrong.diagnostics))
