"""What stands on a command line: options that several commands share, what is wrong with them, and files as they name them.

Files are written back whole or not at all.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import click

from posterior_lm import storage
from posterior_lm.infer.methods import AMORTIZED, AUTO, METHODS, OBJECTIVES, losses
from posterior_lm.lang.diagnostics import CompileError, DataError, PlmError, either
from posterior_lm.lang.lexer import LARGEST_SOURCE
from posterior_lm.lang.parser import read_source
from posterior_lm.lang.source import Source
from posterior_lm.storage import folder_named

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def format_option(*choices: str) -> Decorator:
    """`--format`; the first choice is the default."""
    return click.option(
        "--format",
        type=click.Choice(choices),
        default=choices[0],
        show_default=True,
        help="How results are written; with json, diagnostics on standard error are JSON too."
        + (" jsonl writes each row's result as it is done, one a line." if "jsonl" in choices else "")
        if "json" in choices
        else "How results are written.",
    )


def data_option(more: str = "", *, required: bool = False, multiple: bool = False) -> Decorator:
    """`--data`; `more` is what the command does with the rows."""
    told = "Rows of parameters: .jsonl, .json, .csv, .parquet; - reads JSON lines from standard input."
    return click.option(
        "--data", metavar="FILE", required=required, multiple=multiple, help=f"{told} {more}".rstrip()
    )


_PATHS = "posterior_lm.allowed paths"


def _allow_path(ctx: click.Context, option: click.Parameter, values: tuple[str, ...]) -> None:
    ctx.meta[_PATHS] = tuple(map(Path, values))


allow_path_option = click.option(
    "--allow-path", multiple=True, metavar="FOLDER", callback=_allow_path, expose_value=False,
    help="Let files that the program names lie below this folder too, not below its own alone.",
)  # fmt: skip
"""`--allow-path`; kept with the command's context, for `allowed_paths`."""


def allowed_paths() -> tuple[Path, ...]:
    """The folders of `--allow-path` of the running command; () in a thread of a server, which runs none."""
    ctx = click.get_current_context(silent=True)
    found: tuple[Path, ...] = () if ctx is None else ctx.meta.get(_PATHS, ())
    return found


def threads_option() -> Decorator:
    """`--threads`."""

    def told(ctx: click.Context, option: click.Parameter, number: int | None) -> None:
        if number is None:
            return
        # PyTorch reads this when it is imported, which no command does before its options are read.
        os.environ["OMP_NUM_THREADS"] = str(number)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(number)

    return click.option(
        "--threads", type=click.IntRange(min=1), metavar="N", callback=told, expose_value=False,
        help="Of models on the CPU.  [default: $OMP_NUM_THREADS, else measured]",
    )  # fmt: skip


_LOADING = "posterior_lm.loading"


def loading() -> dict[str, str]:
    """`--dtype` and `--device` of the command that runs, which only what opens the program reads."""
    ctx = click.get_current_context(silent=True)
    return {} if ctx is None else ctx.meta.get(_LOADING, {})


def loading_option(name: str) -> Decorator:
    """`--dtype` or `--device`."""

    def kept(ctx: click.Context, option: click.Parameter, value: str | None) -> None:
        if value is not None:
            ctx.meta.setdefault(_LOADING, {})[option.name] = value

    told = {"dtype": "Compute with every model in this dtype.  [default: what its weights are stored in]",
            "device": "Put every model there.  [default: the first GPU, else the CPU]"}  # fmt: skip
    return click.option(f"--{name}", metavar="NAME", expose_value=False, callback=kept, help=told[name])


def data_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--given`, `--data`, `--row`, `--lm`, `--dtype`, `--device`, `--threads`, `--allow-use`: what the program is asked about."""
    options: tuple[Decorator, ...] = (
        allow_path_option,
        threads_option(),
        click.option("--allow-use", is_flag=True, help="Let `use` statements import Python objects."),
        click.option("--lm", multiple=True, metavar="ALIAS=MODEL",
                     help="Another model for a declared one: a folder, a GGUF file, a table or a hub name, and "
                     "options after commas: base=PATH,dtype=bfloat16,device=cuda:0,quantize=8bit,revision=…"),
        loading_option("dtype"),
        loading_option("device"),
        click.option("--row", type=click.IntRange(min=0), metavar="N", help="Only this row of the data."),
        data_option(),
        click.option("--given", "-g", multiple=True, metavar="NAME=VALUE",
                     help="A parameter, before what the data says. VALUE is read by the declared type, a "
                     "table as JSON; @FILE reads it from a file, @@ stands for @."),
    )  # fmt: skip
    for option in options:
        function = option(function)
    return function


def program_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--given`, `--lm`, `--dtype`, `--device`, `--threads`, `--allow-use`, for commands that ask about many rows at once."""
    options: tuple[Decorator, ...] = (
        allow_path_option,
        threads_option(),
        click.option("--allow-use", is_flag=True, help="Let `use` statements import Python objects."),
        click.option("--lm", multiple=True, metavar="ALIAS=MODEL",
                     help="Another model for a declared one, as for plm run."),
        loading_option("dtype"),
        loading_option("device"),
        click.option("--given", "-g", multiple=True, metavar="NAME=VALUE",
                     help="A parameter of every row, as for plm run."),
    )  # fmt: skip
    for option in options:
        function = option(function)
    return function


def training_options(what: str, resumed: str) -> Decorator:
    """`--set`, `--seed`, `--resume` and `--format`: settings of `what`, and what `--resume` goes on from."""

    def given(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in (
            format_option("text", "json"),
            click.option("--resume", is_flag=True, help=f"Go on {resumed} in --out."),
            click.option("--seed", type=click.IntRange(min=0), metavar="N",
                         help="Of everything random.  [default: 0]"),
            click.option("--set", "more", multiple=True, metavar="NAME=VALUE", help=f"Any other setting of {what}."),
        ):  # fmt: skip
            function = option(function)
        return function

    return given


class Named(click.Option):
    """An option whose value is a name in a table; its help is written when it is asked for."""

    def __init__(self, *args: Any, told: Callable[[], str], **more: Any) -> None:
        super().__init__(*args, **{**more, "help": told()})
        self.told = told

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        self.help = self.told()
        return super().get_help_record(ctx)


def method_option(what: str = "") -> Decorator:
    """`--method`; `what` it is for."""

    def told() -> str:
        decoders = [name for name, one in METHODS.items() if one.decoder]
        others = [name for name in METHODS if name not in decoders]
        return f"{what}{', '.join(others)}, or a decoder: {either(decoders)}.  [default: the program's, else {AUTO}]"

    return click.option("--method", cls=Named, told=told, metavar="NAME", shell_complete=completing(METHODS))


def objective_option() -> Decorator:
    """`--objective`."""

    def told() -> str:
        peers = [name for name, one in OBJECTIVES.items() if one.peer]
        default = METHODS[AMORTIZED].options["objective"].default
        return f"{either(losses())}; {either(peers)} to compare with.  [default: {default}]"

    return click.option(
        "--objective", cls=Named, told=told, metavar="NAME", shell_complete=completing(OBJECTIVES)
    )


def completing(table: Iterable[str]) -> Callable[..., list[str]]:
    """What a shell completes the beginning of a name to."""
    return lambda ctx, option, begun: [name for name in table if name.startswith(begun)]


def draw_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`-n`, `--seed`, `--method`, `--policy`, `--em`, `--budget`: how the posterior is found."""
    for option in (
        budget_option("Stop after so many seconds, for each row of data."),
        click.option("--policy", metavar="DIR", help="Propose with the policy that `plm fit` wrote there."),
        click.option("--em", metavar="DIR", help="Ask with the model and the guide that `plm em` wrote there."),
        method_option(),
        seed_option("Of everything random; each row of data has one of its own, made of it."),
        click.option("-n", type=click.IntRange(min=1), metavar="N", help="Number of draws.  [default: 1000]"),
    ):  # fmt: skip
        function = option(function)
    return function


def seed_option(help: str = "Of everything random.") -> Decorator:
    """`--seed`."""
    return click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help=help)


def budget_option(help: str) -> Decorator:
    """`--budget`."""
    return click.option("--budget", type=float, callback=_seconds, metavar="SECONDS", help=help)


def _seconds(ctx: click.Context, option: click.Parameter, value: float | None) -> float | None:
    if value is not None and not (math.isfinite(value) and value > 0):
        raise click.BadParameter(f"{value:g} is not a positive number of seconds")
    return value


def plot_option(help: str) -> Decorator:
    """`--plot`."""
    return click.option("--plot", callback=_png, metavar="FILE.png", help=help)


def _png(ctx: click.Context, option: click.Parameter, value: str | None) -> str | None:
    if value is not None and not value.lower().endswith(".png"):
        raise click.BadParameter(f"{value!r} does not end in .png, and a picture is a PNG file")
    return value


# ---- their values


def misuse(message: str, help: str | None = None) -> NoReturn:
    """Ends the command with PLM802, exit code 2."""
    raise PlmError.of("PLM802", message, help=help)


def pairs(option: str, given: Iterable[str], form: str = "NAME=VALUE") -> dict[str, str]:
    """`NAME=TEXT` options by name, as they were written."""
    found: dict[str, str] = {}
    for item in given:
        name, equals, text = item.partition("=")
        name = name.strip()
        if not equals or not name:
            misuse(f"{option} takes {form}, not {item!r}", f"write `{option} {form}`")
        if name in found:
            misuse(f"{option} {name} stands twice", "keep one of them")
        found[name] = text
    return found


def stated(more: Iterable[str], flags: Mapping[str, object]) -> dict[str, object]:
    """The settings that `--set` and the other options give, the latter first."""
    named = {name: number_or_text(text) for name, text in pairs("--set", more).items()}
    return named | {name: value for name, value in flags.items() if value is not None}


def number_or_text(text: str) -> object:
    """The value of `--set NAME=VALUE`: a number where it reads as one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


# ---- files


def programs(names: Iterable[str]) -> list[str]:
    """The files named, folders replaced by the `.plm` files in them.

    Raises CompileError PLM801 for a folder without any.
    """
    found: list[str] = []
    for name in names:
        if name != "-" and os.path.isdir(name):
            inside = sorted(str(path) for path in Path(name).rglob("*.plm") if path.is_file())
            if not inside:
                message, help = (
                    f"the folder {name} holds no .plm file",
                    "name a program, or a folder that holds one",
                )
                raise CompileError.of("PLM801", message, where=name, help=help)
            found += inside
        else:
            found.append(name)
    return list(dict.fromkeys(found))


def read(name: str) -> Source:
    """The text of a program; `-` is standard input. Raises CompileError PLM801."""
    if name != "-":
        return read_source(name)
    data = sys.stdin.buffer.read(4 * LARGEST_SOURCE + 4)  # every character has at most four bytes
    try:
        return Source("<stdin>", data.decode("utf-8"))
    except UnicodeDecodeError as wrong:
        message = f"standard input is not UTF-8 text: byte {wrong.start} is 0x{data[wrong.start]:02X}"
        raise CompileError.of("PLM801", message, where="<stdin>", help="send it as UTF-8") from None


def replace(name: str, text: str) -> None:
    """Writes a file whole or not at all, keeping its permissions. Raises CompileError PLM805."""
    try:
        if not os.access(name, os.W_OK):
            raise PermissionError(13, "permission denied")
        storage.replace(Path(name), text.encode())
    except OSError as problem:
        raise CompileError.of(
            "PLM805", f"cannot write {name}: {(problem.strerror or str(problem)).lower()}", where=name
        ) from None


def check_result(name: str, program: str, given: Iterable[str], data: str | None) -> None:
    """Raises DataError PLM805 where the result would replace a file that the command reads.

    `given` are the values of `--given`, some of which name a file. Called before any work is done.
    """
    values = [text.partition("=")[2] for text in given]
    named = [v[1:] for v in values if v.startswith("@") and not v.startswith("@@")]
    for read in (program, *named, *([] if data is None else [data])):
        if read != "-" and os.path.realpath(read) == os.path.realpath(name):
            problem = f"cannot write {name}: this command reads it"
            raise DataError.of("PLM805", problem, where=name, help="name another file for the result")


def check_folder(name: str, file: str | None = None) -> None:
    """Raises DataError PLM612 where nothing can be written into a folder of this name, or not this file.

    Called before any work is done.
    """
    path = folder_named(name).absolute()
    existing = next(p for p in (path, *path.parents) if p.exists())
    if not existing.is_dir():
        raise DataError.of("PLM612", f"cannot write into {name}: {existing} is a file", where=name)
    if not os.access(existing, os.W_OK):
        raise DataError.of("PLM612", f"cannot write into {name}: permission denied", where=name)
    if file is not None and (path / file).is_dir():
        raise DataError.of("PLM612", f"cannot write into {name}: {file} in it is a folder", where=name)
