"""What a model's folder stores, read from the heads of its safetensors files alone: no torch, no numbers.

Which files are the weights is decided here, and nothing else is ever read as such: an index may not name
files elsewhere, and an adapter that lies beside a model is no part of it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cached_property
from math import prod
from pathlib import Path

from attrs import field, frozen

from posterior_lm import storage
from posterior_lm.lang.diagnostics import ModelError
from posterior_lm.lm.user_cache import file_digest

DTYPES = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2}
"""What weights can be computed with, and bytes of a number. Log-probs are float32 or better whatever it is."""
QUANTIZED = {"8bit": 1.1, "4bit": 0.6}
"""Ways of keeping linear layers in fewer bits, and about how many bytes a number takes with its scales."""
WHOLE = 2**26
"""Weight files up to 64 MiB enter a digest with their content, larger ones with their own digest."""
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_ONE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_STORED = {"F32": "float32", "F64": "float64", "F16": "float16", "BF16": "bfloat16"}
_LARGEST_HEAD = 100_000_000  # as the library has it


@frozen(slots=False, eq=False)
class Weights:
    """The weight files of a folder, and (stored type, numbers) of each tensor by name."""

    folder: Path
    files: tuple[Path, ...]
    tensors: Mapping[str, tuple[str, int]] = field(repr=False)

    @cached_property
    def dtype(self) -> str:
        """The dtype that most numbers are stored in; bfloat16 where that is no dtype to compute with."""
        share: dict[str, int] = {}
        for kind, numbers in self.tensors.values():
            if kind[:1] not in "IUB" or kind == "BF16":  # floats: whole numbers are buffers
                name = _STORED.get(kind, "bfloat16")
                share[name] = share.get(name, 0) + numbers
        return max(share, key=lambda name: share[name], default="bfloat16")

    def bytes_in(self, dtype: str, quantize: str | None = None) -> int:
        """Bytes of memory that the weights take."""
        each = DTYPES[dtype] if quantize is None else QUANTIZED[quantize]
        return int(sum(numbers for _, numbers in self.tensors.values()) * each)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over config.json and the weight files, by name."""
        digest = hashlib.sha256((self.folder / "config.json").read_bytes())
        for path in self.files:
            size = path.stat().st_size
            digest.update(f"{path.name} {size}\n".encode())
            digest.update(path.read_bytes() if size <= WHOLE else file_digest(path).encode())
        return digest.hexdigest()


def find_weights(folder: Path) -> Weights:
    """The weights of a folder. Raises ModelError PLM511 without any, PLM514 for files that are damaged."""
    files = _files(folder)
    tensors: dict[str, tuple[str, int]] = {}
    for path in files:
        try:
            tensors |= _head(path)
        except (OSError, ValueError) as problem:
            why = (isinstance(problem, OSError) and problem.strerror) or str(problem)
            raise failed(folder, f"{path.name} is damaged: {why}") from None
    return Weights(folder, files, tensors)


def _files(folder: Path) -> tuple[Path, ...]:
    if (folder / _ONE).is_file():
        return (folder / _ONE,)
    if not (folder / _INDEX).is_file():
        raise _no_weights(folder)
    try:
        names = set(storage.read_object(folder / _INDEX)["weight_map"].values())
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        raise failed(folder, f"{_INDEX} is no index of weights") from None
    for name in sorted(map(str, names)):
        if not re.fullmatch(r"[^/\\]+\.safetensors", name):
            raise failed(
                folder,
                f"{_INDEX} names {name!r}, which is no file of safetensors in the folder",
                "put the weights into the folder: files elsewhere are not read",
            )
        if not (folder / name).is_file():
            raise failed(folder, f"{name} is missing, which {_INDEX} names")
    if not names:
        raise _no_weights(folder)
    return tuple(folder / name for name in sorted(names))


def _no_weights(folder: Path) -> ModelError:
    help = "save the model there with model.save_pretrained(folder), which writes model.safetensors"
    others = sorted(p.name for kind in ("*.bin", "*.pt", "*.pth") for p in folder.glob(kind))
    if (folder / ADAPTER).is_file():
        why = "only an adapter"
        help = f"name the model that it was trained on, with adapter={folder}"
    elif others:
        why = f"only {others[0]}, which is pickled and not read"
    else:
        stray = sorted(p.name for p in folder.glob("*.safetensors"))
        why = f"no {_ONE}, only {stray[0]}" if stray else "no *.safetensors file"
    return ModelError.of("PLM511", f"the folder {folder} holds no weights: there is {why}", help=help)


def _head(path: Path) -> dict[str, tuple[str, int]]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_LARGEST_HEAD, size - 8):
            raise ValueError("its head is cut short")
        try:
            head = json.loads(file.read(length))
            tensors = {name: entry for name, entry in head.items() if name != "__metadata__"}
            ends = [int(entry["data_offsets"][1]) for entry in tensors.values()]
            if 8 + length + max(ends, default=0) > size:
                raise ValueError("it is cut short")
            return {name: (str(e["dtype"]), prod(map(int, e["shape"]))) for name, e in tensors.items()}
        except (AttributeError, LookupError, TypeError, RecursionError, UnicodeDecodeError):
            raise ValueError("its head is no table of tensors") from None


# ------------------------------------------------------------------------------- adapters


def check_adapter(folder: Path) -> None:
    """Raises ModelError PLM514 for a folder that holds no LoRA adapter in safetensors."""
    for name in (ADAPTER, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise ModelError.of(
                "PLM514",
                f"the adapter {folder} cannot be applied: {name} is missing",
                help="name a folder that peft's save_pretrained wrote",
            )


def with_adapter(digest: str, folder: Path) -> str:
    """The digest of a model whose weights have the adapter of this folder added to them."""
    parts = [digest, file_digest(folder / ADAPTER), file_digest(folder / ADAPTER_WEIGHTS)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def failed(folder: Path | str, why: str, help: str | None = None) -> ModelError:
    """PLM514: a folder whose files were found, and loading them failed."""
    return ModelError.of(
        "PLM514",
        f"the model in {folder} failed to load: {why.rstrip('.')}",
        help=help or "check that the folder loads with AutoModelForCausalLM.from_pretrained(folder)",
    )
