"""The floors of the house: which module may import what, and how long a module may be.

Every module belongs to the room with the longest matching prefix. It may import the
standard library, its own room, the rooms listed (each on a lower floor), and the listed
packages. Imports inside functions count, those under TYPE_CHECKING do not.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from attrs import frozen

from tests.conftest import ROOT

PACKAGE = ROOT / "posterior_lm"
HEAVY = {"torch", "transformers", "safetensors", "peft", "accelerate"}
LIGHT = {"llguidance", "numpy", "tokenizers", "huggingface_hub", "arviz_stats"}


@frozen
class Room:
    """A floor, what is in it, the rooms that it may import from, and third-party packages."""

    floor: int
    modules: tuple[str, ...]
    below: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()


ROOMS: dict[str, Room] = {
    "installed": Room(0, ("installed",)),
    # Places in a text, errors as data, values apart from programs, patterns, files: what every room shares.
    "words": Room(
        0,
        (
            *("lang.source", "lang.diagnostics", "lang.values", "lang.files", "lang.regex", "lang.automaton"),
            *("storage", "shown", "lm.notices"),
        ),
        (),
        ("attrs",),
    ),
    # Names, options and entry points of methods and objectives, which the language's checker reads too.
    "method table": Room(0, ("infer.methods",), (), ("attrs",)),
    # What writes into texts: plain Python, and no model.
    "tools": Room(1, ("tools",), ("words",), ("attrs",)),
    "language": Room(1, ("lang",), ("installed", "method table"), ("attrs", "lark")),
    "model protocol": Room(1, ("lm.protocol",), (), ("attrs", "numpy")),
    # Tables and tokenizers: light, since plm check may need them.
    "light models": Room(1, ("lm",), ("model protocol",), ("attrs", "jinja2", "numpy", "tokenizers")),
    "heavy models": Room(
        1,
        ("lm.hf",),
        ("model protocol", "light models"),
        ("attrs", "numpy", "torch", "transformers", "safetensors", "peft", "torchao"),
    ),
    "door to models": Room(
        1,
        ("lm.resolve",),
        ("model protocol", "light models", "heavy models"),
        ("attrs", "huggingface_hub"),
    ),
    "supports": Room(2, ("support",), ("model protocol", "tools"), ("attrs", "numpy", "llguidance")),
    "graph": Room(2, ("graph",), ("language", "tools"), ("attrs", "networkx")),
    # The language server, and colours for Pygments: no model, and no library that `plm check` has not.
    "editors": Room(
        3,
        ("editors",),
        ("graph", "language", "method table"),
        ("attrs", "lark", "lsprotocol", "pygls", "pygments"),
    ),
    # The models and functions that a program names, found and loaded.
    "resources": Room(
        3, ("target.resources",), ("graph", "language", "model protocol", "door to models"), ("attrs",)
    ),
    "target": Room(
        4,
        ("target",),
        ("installed", "resources", "graph", "language", "supports", "tools", "model protocol"),
        ("attrs", "numpy"),
    ),
    "inference": Room(
        5,
        ("infer",),
        ("method table", "target", "graph", "supports", "language", "model protocol"),
        ("attrs", "numpy", "arviz_stats"),
    ),
    "training": Room(
        6,
        ("train",),
        (
            "installed",
            "method table",
            "inference",
            "target",
            "graph",
            "supports",
            "language",
            "model protocol",
            "light models",
            "heavy models",
        ),
        ("attrs", "numpy", "torch", "transformers", "peft", "accelerate", "safetensors"),
    ),
    # What a model decodes; the table of methods names them.
    "decoders": Room(
        7,
        ("decode",),
        (
            "training",
            "method table",
            "inference",
            "target",
            "graph",
            "supports",
            "language",
            "model protocol",
        ),
        ("attrs", "numpy"),
    ),
    # From a program to draws.
    "answers": Room(
        7,
        (
            *("api.engine", "api.expressions", "api.posterior", "api.posteriors", "api.saved"),
            "api.tables",
        ),
        (
            "installed",
            "method table",
            "training",
            "inference",
            "resources",
            "target",
            "graph",
            "supports",
            "language",
            "model protocol",
            "door to models",
        ),
        ("attrs", "numpy"),
    ),
    "prediction": Room(
        8,
        ("predict",),
        (
            "answers",
            "training",
            "inference",
            "method table",
            "target",
            "graph",
            "supports",
            "language",
            "model protocol",
        ),
        ("attrs", "numpy"),
    ),
    # Functions of texts and numbers; an encoder of texts is loaded inside the functions that read one.
    "metrics": Room(
        6, ("metrics",), ("installed", "heavy models"), ("attrs", "numpy", "torch", "transformers")
    ),
    "report": Room(
        8,
        ("report",),
        ("answers", "method table", "inference", "target", "graph", "language", "model protocol"),
        ("attrs", "numpy"),
    ),
    "validation": Room(
        9,
        ("validate",),
        (
            "installed",
            "report",
            "prediction",
            "answers",
            "training",
            "inference",
            "method table",
            "target",
            "graph",
            "supports",
            "language",
            "model protocol",
            "light models",
        ),
        ("attrs", "numpy"),
    ),
    "em": Room(
        8,
        ("em",),
        (
            "answers",
            "training",
            "inference",
            "method table",
            "target",
            "graph",
            "language",
            "model protocol",
            "heavy models",
        ),
        ("attrs", "numpy", "torch"),
    ),
    # What a user calls. Nothing below knows of a query.
    "query": Room(
        10,
        ("api", "query"),
        (
            "report",
            "em",
            "validation",
            "prediction",
            "answers",
            "training",
            "inference",
            "method table",
            "target",
            "graph",
            "language",
            "model protocol",
        ),
        ("attrs", "numpy"),
    ),
    # Models and programs by HTTP; an optional package has it all.
    "server": Room(
        11,
        ("server",),
        (
            *("query", "answers", "report", "inference", "method table", "target", "graph", "language"),
            "model protocol",
        ),
        ("attrs", "numpy", "starlette"),
    ),
    "command line": Room(
        12,
        ("cli", "__main__"),
        (
            "front",
            "installed",
            "server",
            "query",
            "report",
            "em",
            "validation",
            "prediction",
            "answers",
            "training",
            "inference",
            "method table",
            "target",
            "graph",
            "supports",
            "language",
            "model protocol",
            "door to models",
            "editors",
        ),
        ("attrs", "click", "rich", "uvicorn"),
    ),
    "front": Room(0, ("",), ()),
}
"""Rooms by name; modules are named below `posterior_lm`, "" is its lazy `__init__`."""


LONG: dict[str, str] = {}
"""Modules of more than 500 lines, and why."""


LATER: dict[str, tuple[str, str]] = {
    "api.engine": ("torch", "only a query with a policy trains or reads weights"),
    "api.query": ("numpy", "a program is loaded, composed and written as text without it"),
    "cli.commands": ("attrs", "plm --help shows its lines at once"),
    "cli.fit": ("torch", "options are refused before it is loaded"),
    "cli.output": ("rich", "a pipe gets plain text"),
    "cli.run": ("torch", "auto trains only where there is a budget for it"),
    "cli.serve": ("starlette uvicorn", "a plain installation has none, and is told so"),
    "cli.lsp": ("pygls", "a plain installation has none, and is told so"),
    "cli.check": ("numpy", "plm check builds the supports of texts alone"),
    "graph.graph": ("networkx", "what is lowered is in order already, and plm check lowers it"),
    "infer.weights": ("arviz_stats", "only draws with diagnostics of their own need it"),
    "lm.chat": ("jinja2", "few programs have roles"),
    "lm.hf.load": ("peft", "few models have an adapter"),
    "lm.hf.placement": ("torchao", "an optional package that few models need"),
    "lm.protocol": ("numpy", "plm check asks chat templates without it"),
    "lm.resolve": ("huggingface_hub numpy tokenizers", "kinds of models need other libraries"),
    "metrics.embeddings": ("torch transformers", "overlap of words is measured without an encoder"),
    "predict.asking": ("torch", "only what a guide may read is asked of the room of training"),
    "support.grammar_parser": ("llguidance", "few programs have a grammar"),
    "train.parallel": ("accelerate", "one process needs none of it"),
}
"""Modules with imports inside functions: what these would load at the top of the file, and why it can wait."""


def modules() -> Iterator[tuple[str, Path]]:
    """Every module as its name below the package, and its file."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def room_of(module: str) -> str:
    """The room that holds the longest prefix of the module."""
    prefixes = {prefix: name for name, room in ROOMS.items() for prefix in room.modules}
    fitting = [p for p in prefixes if module == p or (p and module.startswith(p + "."))]
    if not fitting:
        raise AssertionError(f"posterior_lm.{module} belongs to no room: add it to the table of floors")
    return prefixes[max(fitting, key=len)]


def imports(module: str, path: Path, inside: bool | None = None) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import that runs, relative ones made absolute.

    Those inside functions alone, or those outside alone, as `inside` says.
    """
    for line, name, is_inside in _imports(module, path):
        if inside is None or inside == is_inside:
            yield line, name


@cache
def _imports(module: str, path: Path) -> list[tuple[int, str, bool]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    within = {id(inner) for function in functions for inner in ast.walk(function)}
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    package = ["posterior_lm", *module.split(".")] if module else ["posterior_lm"]
    if path.name != "__init__.py":
        package = package[:-1]
    found: list[tuple[int, str, bool]] = []
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name, id(node) in within) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                longer = f"{start}.{alias.name}"
                found.append((node.lineno, longer if _is_module(longer) else start, id(node) in within))
    return found


def _is_module(name: str) -> bool:
    place = ROOT.joinpath(*name.split("."))
    return name.startswith("posterior_lm.") and (place.with_suffix(".py").exists() or place.is_dir())


def broken(module: str, name: str) -> str | None:
    """What is wrong with `module` importing `name`; None where it may."""
    room = room_of(module)
    top = name.split(".")[0]
    if top in sys.stdlib_module_names:
        return None
    if top != "posterior_lm":
        return None if top in ROOMS[room].packages else f"{top} is not for the room {room!r}"
    other = room_of(name.removeprefix("posterior_lm").lstrip("."))
    if other in (room, "words", *ROOMS[room].below):
        return None
    return f"the room {other!r} is not for the room {room!r}"


@pytest.mark.parametrize(("module", "path"), list(modules()), ids=lambda x: x if isinstance(x, str) else "")
def test_imports_go_down_only(module: str, path: Path) -> None:
    found = [
        f"line {line}: {problem}" for line, name in imports(module, path) if (problem := broken(module, name))
    ]
    assert found == [], f"posterior_lm.{module}"


def test_the_table_itself_goes_down_only() -> None:
    for name, room in ROOMS.items():
        for below in room.below:
            same = room.modules[0].split(".")[0] == ROOMS[below].modules[0].split(".")[0] == "lm"
            assert ROOMS[below].floor < room.floor or same, f"{name} lists {below}"


def test_only_two_rooms_know_a_model_library() -> None:
    assert {name for name, room in ROOMS.items() if HEAVY & set(room.packages)} == {
        "heavy models",
        "training",
        "em",
        "metrics",
    }


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("lang.check.types", "posterior_lm.graph.nodes"),
        ("lang.parser", "numpy"),
        ("graph.nodes", "numpy"),
        ("graph.lower", "posterior_lm.lm.protocol"),
        ("support.text", "posterior_lm.lang.ast"),
        ("support.text", "posterior_lm.lm.tabular"),
        ("lm.protocol", "torch"),
        ("lm.tabular", "transformers"),
        ("lm.resolve", "training.tiny.world"),
        ("cli.main", "benchmarks.paper"),
        ("lm.hf.transformers", "posterior_lm.target.target"),
        ("target.target", "posterior_lm.infer.base"),
        ("target.target", "posterior_lm.lm.resolve"),
        ("infer.exact", "posterior_lm.api.posterior"),
        ("api.posterior", "posterior_lm.api.query"),
        ("api.query", "posterior_lm.cli.main"),
        ("cli.run", "torch"),
    ],
)
def test_what_the_table_forbids(module: str, name: str) -> None:
    assert broken(module, name) is not None


@pytest.mark.parametrize(
    "arguments",
    ["check programs --lint", "check programs --format json", "fmt --check programs",
     "graph programs/story_infilling.plm", "explain PLM401"],
)  # fmt: skip
def test_commands_that_need_no_model_import_none(arguments: str) -> None:
    """In a process of its own; these programs are checked without numpy too, which keeps it quick."""
    script = (
        "import sys\n"
        "from posterior_lm.cli.main import cli\n"
        "try:\n    cli(sys.argv[1:], prog_name='plm')\n"
        "except SystemExit as leaving:\n    assert not leaving.code, leaving.code\n"
        f"print(sorted(set({sorted(HEAVY | LIGHT)!r}) & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


@cache
def loaded(name: str) -> frozenset[str]:
    """Every module and package that importing `name` imports, by what stands at the tops of our files."""
    found: set[str] = set()
    paths = {f"posterior_lm.{module}".rstrip("."): (module, path) for module, path in modules()}
    stack = [name]
    while stack:
        parts = stack.pop().split(".")
        whole = [".".join(parts[:k]) for k in range(1, len(parts) + 1)]
        for one in whole if parts[0] == "posterior_lm" else parts[:1]:
            if one not in found:
                found.add(one)
                stack += [other for _, other in imports(*paths[one], inside=False)] if one in paths else []
    return frozenset(found)


def test_imports_inside_functions_save_something() -> None:
    found: set[str] = set()
    for module, path in modules():
        for line, name in imports(module, path, inside=True):
            where = f"posterior_lm.{module}, line {line}: {name}"
            assert module in LATER, f"{where}: move it to the top, or say in LATER what it would load"
            assert loaded(name) & set(LATER[module][0].split()), f"{where}: it loads no {LATER[module][0]}"
            found.add(module)
    assert found == set(LATER), "these have no imports inside functions any more"


def test_a_program_in_python_is_built_without_numpy() -> None:
    script = (
        "import sys, posterior_lm as plm\n"
        "query = plm.load('programs/story_infilling.plm').given(opening='Once').using('smc', threshold=0.5)\n"
        "str((query * query) ** 0.5)\n"
        f"print(sorted(set({sorted(HEAVY | LIGHT)!r}) & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_modules_are_short() -> None:
    lengths = {
        str(path.relative_to(PACKAGE)): len(path.read_text(encoding="utf-8").splitlines())
        for _, path in modules()
    }
    long = {name for name, n in lengths.items() if n > 500}
    assert long == set(LONG), "split it, or say why in LONG"


def test_the_page_shows_the_floors() -> None:
    """The table of CONTRIBUTING is this one, from the top down."""
    rows = []
    for name, room in sorted(ROOMS.items(), key=lambda item: -item[1].floor):
        held = ", ".join("`%s`" % (module or "__init__") for module in room.modules)
        beyond = ", ".join(package for package in room.packages if package != "attrs")
        rows.append(f"| {room.floor} | {name} | {held} | {beyond} |")
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = page.split("| floor | room |")[1].split("\n\n")[0].splitlines()[2:]
    assert table == rows, "\n".join(rows)
