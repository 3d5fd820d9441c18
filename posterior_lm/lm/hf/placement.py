"""Where a model's weights go and what they take: the device, the memory that is free there, a precision, fewer bits."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from contextlib import suppress
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch.nn.functional import linear
from transformers import BitsAndBytesConfig, TorchAoConfig

from posterior_lm.lang.diagnostics import ModelError
from posterior_lm.lm.hf.threads import machine
from posterior_lm.lm.notices import notice
from posterior_lm.lm.user_cache import cache_folder
from posterior_lm.lm.weights import QUANTIZED, Weights
from posterior_lm.storage import kept_first

PACKAGES = {"cuda": ("bitsandbytes", "cuda-quantized"), "cpu": ("torchao", "cpu-quantized")}
"""Which package computes with quantised weights on a kind of device, and the extra that brings it."""


def device_of(name: str | None) -> torch.device:
    """The device of a name, the first GPU without one, else the CPU. Raises ModelError PLM514."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ModelError.of(
            "PLM514", f"there is no device {name!r} here", help='use "cpu", or leave the device out'
        ) from None
    if device.type == "meta":
        raise ModelError.of("PLM514", "the device 'meta' holds no numbers", help='use "cpu"')
    return device


def check_memory(what: str, needed: int, dtype: str, device: torch.device) -> None:
    """Raises ModelError PLM519 where the weights alone take more than is free, before they are read."""
    free = free_memory(device)
    if free is not None and needed > free:
        where = "memory" if device.type == "cpu" else f"memory of {device}"
        raise ModelError.of(
            "PLM519",
            f"the weights of {what} take {needed / 2**30:.1f} GiB in {dtype}, and {free / 2**30:.1f} GiB of "
            f"{where} are free",
            help="use dtype=bfloat16 (half of float32) or quantize=8bit, another device, or a smaller model",
        )


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be had on the device; None where the system does not say."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + held
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
    try:  # a container may be allowed less
        limit, used = (
            Path(f"/sys/fs/cgroup/memory.{name}").read_text("ascii").strip() for name in ("max", "current")
        )
        return free if limit == "max" else min(free, int(limit) - int(used))
    except (OSError, ValueError):
        return free


# ------------------------------------------------------------------------------- a precision

SLOW = 2.0
"""Times that products of a low precision take longer than float32's where a processor has no instructions for them:
6 and more were seen without, 0.3 to 0.5 with them."""


def dtype_of(weights: Weights, name: str, device: torch.device) -> str:
    """What a model is computed in where its user does not say: as it is stored, or float32 where the
    processor multiplies the stored precision in software and there is memory for it. Widening changes no weight."""
    stored = weights.dtype
    slower = slow_products(stored, device.type)
    free = free_memory(device)
    if slower is None or (free is not None and weights.bytes_in("float32", None) > free):
        return stored
    notice(
        f"the model {name} is computed in float32, as this processor multiplies {stored} in software, "
        f"{slower:.0f} times slower (dtype={stored})"
    )
    return "float32"


@cache
def slow_products(dtype: str, device: str) -> float | None:
    """How many times slower than float32 the products of a low precision are on a processor without
    instructions for them; else None. Timed once on a machine, and kept: answers hang on the precision."""
    if device != "cpu" or dtype not in ("bfloat16", "float16"):
        return None
    key = {"dtype": dtype, **machine()}
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
    path = cache_folder() / "precisions" / f"{name}.json"

    def measured() -> bytes:
        return json.dumps({"slower": _slower(getattr(torch, dtype)), **key}, indent=1).encode()

    slower = None
    with suppress(OSError, ValueError, LookupError, TypeError):
        slower = float(json.loads(kept_first(path, measured))["slower"])
    slower = _slower(getattr(torch, dtype)) if slower is None else slower
    return slower if slower >= SLOW else None


def _slower(dtype: torch.dtype) -> float:
    best = dict.fromkeys((torch.float32, dtype), float("inf"))
    for _ in range(5):  # in turn, so that other work on the machine meets both
        for kind in best:
            states, weights = torch.ones(64, 512, dtype=kind), torch.ones(1024, 512, dtype=kind)
            start = perf_counter()
            linear(states, weights)
            best[kind] = min(best[kind], perf_counter() - start)
    return best[dtype] / best[torch.float32]


# ------------------------------------------------------------------------------- fewer bits


def quantization(quantize: str, dtype: torch.dtype, device: torch.device, what: str) -> Any:
    """What `from_pretrained` takes to keep linear layers in 8 or 4 bits.

    bitsandbytes computes with them on CUDA, torchao on a CPU. Raises ModelError PLM514 for another word or
    device, PLM518 without the package.
    """
    if quantize not in QUANTIZED:
        message = f"there is no quantization {quantize!r}"
        raise ModelError.of("PLM514", message, help=f"use one of {', '.join(QUANTIZED)}")
    if device.type == "cpu" and quantize == "4bit":
        message = "weights of 4 bits cannot be computed with on a CPU here"
        raise ModelError.of("PLM514", message, help="use quantize=8bit")
    if device.type not in PACKAGES:
        message = f"there is no quantization on the device {str(device)!r}"
        raise ModelError.of("PLM514", message, help="use a CUDA device or the CPU, or leave quantize out")
    package, extra = PACKAGES[device.type]
    if importlib.util.find_spec(package) is None:
        raise ModelError.of(
            "PLM518",
            f"the model {what} in {quantize} on {device.type} needs the package {package}, which is not installed",
            help=f"pip install 'posterior_lm[{extra}]'",
        )
    if device.type == "cuda":
        if quantize == "8bit":
            return BitsAndBytesConfig(load_in_8bit=True)
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=dtype, bnb_4bit_quant_type="nf4")
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig())
