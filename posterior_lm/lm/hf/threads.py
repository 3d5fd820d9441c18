"""How many threads a model computes with on a CPU, phase by phase: as the user says, or measured on the machine.

Threads that wake up for every small product cost a small model more than they compute, and a large one
wants all of them; where one turns into the other depends on the machine, on what OpenMP's threads do
while they wait, and on the shape of a call. So each phase is measured once, when it is first needed,
and its number is kept in the user's cache folder.

Other numbers of threads round differently, so one seed gives the same answer only with the same number:
a number that cannot be kept for the next run is not used, and a policy and a saved posterior state
theirs. `OMP_NUM_THREADS` and `--threads` settle it; then nothing is measured or changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from posterior_lm.lm.protocol import ModelIdentity
from posterior_lm.lm.user_cache import cache_folder, cannot_write
from posterior_lm.storage import kept_first

if TYPE_CHECKING:
    from posterior_lm.lm.hf.forward import Forward

DECODE, SCORE, BACKWARD = PHASES = ("decode", "score", "backward")
"""Calls of few columns; of many; with gradients, the backward pass included."""
FEW = 192
"""Columns of all rows up to which a call is one of few. They are measured at 64 and 512."""
FIXED_BY = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables by which users say how many threads there are."""

GAIN = 1.1
"""More threads have to be so many times as fast: a choice that noise decides would be another tomorrow."""
TURNS = 6
ENOUGH = 0.4
"""Seconds after which a phase is measured no further. Where warming up took longer, it has to do."""
LARGE = 2.5e9
"""Operations a thread of a call from which every thread is used, unmeasured: they last a twentieth of a second and
more, so that each of a few hundred products lasts several times longer than it takes to wake a thread."""


class Threads:
    """The numbers of one model: found when they are first needed, or taken from a checkpoint."""

    def __init__(self, identity: ModelIdentity) -> None:
        self._model = (identity.digest, identity.dtype)
        self.numbers: dict[str, int] = {}
        self.used: dict[str, int] = {}
        """What each phase was last computed with."""
        self._measuring = False

    @contextmanager
    def on(self, forward: Forward, phase: str) -> Iterator[None]:
        """The phase's number of threads inside this block, and the caller's again behind it."""
        if forward.device.type != "cpu" or self._measuring:
            yield
            return
        before = torch.get_num_threads()
        number = before
        if before > 1 and not is_fixed():
            if phase not in self.numbers:
                self.numbers[phase] = self._find(forward, phase, before)
            number = min(self.numbers[phase], before)  # never more than the caller allows
        self.used[phase] = number
        with giving(number):
            yield

    def take(self, numbers: object) -> bool:
        """Numbers by phase from another run, in place of measured ones; False where there will be others.

        Raises ValueError for what are no such numbers.
        """
        if not isinstance(numbers, Mapping) or not all(
            phase in PHASES and type(number) is int and number > 0 for phase, number in numbers.items()
        ):
            raise ValueError(f"{numbers!r} are no numbers of threads")
        self.numbers |= numbers
        most = torch.get_num_threads()
        return all(number == most if is_fixed() else number <= most for number in numbers.values())

    def _find(self, forward: Forward, phase: str, most: int) -> int:
        size = sum(weight.numel() for weight in forward.module.parameters())
        if 2 * COLUMNS[phase] * size > LARGE * most:
            return most
        key = {"model": self._model, "phase": phase, "most": most, **machine()}
        name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
        path = cache_folder() / "threads" / f"{name}.json"

        def measured() -> bytes:
            self._measuring = True
            try:
                found = fewest(candidates(most), WORK[phase](forward))
            except Exception:  # a model's code may refuse in any way
                found = most
            finally:
                self._measuring = False
            return json.dumps({"threads": found, **key}, indent=1).encode()

        try:
            number = _number(kept_first(path, measured), most)
            if number is None:  # damaged, or of another version
                path.unlink(missing_ok=True)
                number = _number(kept_first(path, measured), most)
        except (OSError, ValueError) as problem:  # the next run could find another number
            cannot_write(cache_folder(), (getattr(problem, "strerror", None) or str(problem)).lower())
            return most
        return number or most


def _number(content: bytes, most: int) -> int | None:
    with suppress(ValueError, KeyError, TypeError):
        found = json.loads(content)["threads"]
        if type(found) is int and 1 <= found <= most:
            return found
    return None


_of: WeakKeyDictionary[nn.Module, Threads] = WeakKeyDictionary()


def threads_of(module: nn.Module, identity: ModelIdentity) -> Threads:
    """Those of a module, which all its adapters share."""
    return _of.setdefault(module, Threads(identity))


@contextmanager
def threads(forward: Forward, columns: int | None) -> Iterator[None]:
    """The threads of a call of so many columns of all rows; None: of a pass with gradients, and its backward pass."""
    own = _of.get(forward.module)
    if own is None:
        yield
        return
    with own.on(forward, BACKWARD if columns is None else DECODE if columns <= FEW else SCORE):
        yield


@contextmanager
def giving(number: int) -> Iterator[None]:
    """So many threads inside this block. Setting them costs a tenth of a microsecond."""
    before = torch.get_num_threads()
    if number == before:
        yield
        return
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def is_fixed() -> bool:
    """Whether the user says how many threads there are."""
    return any(os.environ.get(name) for name in FIXED_BY)


def machine() -> dict[str, object]:
    """What a measurement depends on beside the model."""
    return {
        "cpu": _cpu(), "cores": os.cpu_count(), "wait policy": os.environ.get("OMP_WAIT_POLICY", ""),
        "torch": torch.__version__,
    }  # fmt: skip


def _cpu() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


# ------------------------------------------------------------------------------- measuring


def candidates(most: int) -> list[int]:
    """All threads first, then the powers of two below, downward."""
    return [most, *(2**k for k in reversed(range(most.bit_length())) if 2**k < most)]


def fewest(
    numbers: Sequence[int], work: Callable[[], object], clock: Callable[[], float] = time.perf_counter
) -> int:
    """The smallest of the numbers of threads (the largest first) whose calls no other's are `GAIN` times as fast as.

    What counts is the fastest of a few calls of each, in turn, after one that warms up.
    """
    best: dict[int, float] = {}
    began = clock()
    for turn in range(TURNS):
        for number in best or numbers:
            with giving(number):
                start = clock()
                work()
                seconds = clock() - start
            best[number] = min(seconds, best.get(number, seconds) if turn > 1 else seconds)
        fastest = min(best.values())
        if clock() - began > ENOUGH:
            break
        if turn:  # what is twice as slow need not be tried again
            best = {number: seconds for number, seconds in best.items() if seconds <= 2 * fastest}
    return min(number for number, seconds in best.items() if seconds <= GAIN * fastest)


COLUMNS = {DECODE: 64, SCORE: 512, BACKWARD: 256}
"""Of the call that a phase is measured with."""


def _ids(forward: Forward, rows: int, columns: int) -> Tensor:
    return forward.tensor(np.arange(columns).reshape(rows, -1) % forward.vocabulary_size)


def _decode(forward: Forward) -> Callable[[], object]:
    """The next token for each of 64 rows."""
    ids, cache = _ids(forward, 64, COLUMNS[DECODE]), forward.new_cache()
    return lambda: torch.log_softmax(forward(ids, cache=cache, keep=1), dim=-1)


def _score(forward: Forward) -> Callable[[], object]:
    """Eight rows of 64 tokens."""
    ids = _ids(forward, 8, COLUMNS[SCORE])
    return lambda: torch.log_softmax(forward(ids), dim=-1)


def _backward(forward: Forward) -> Callable[[], object]:
    """Forward and backward through every layer for 8 rows of 32 tokens."""
    ids = _ids(forward, 8, COLUMNS[BACKWARD])

    def work() -> None:
        with torch.enable_grad(), torch.inference_mode(False):
            states = forward.module.get_input_embeddings()(ids.clone()).detach().requires_grad_()
            logits = forward.module(inputs_embeds=states, use_cache=False).logits
            torch.logsumexp(logits.float(), dim=-1).sum().backward()

    return work


WORK: Mapping[str, Callable[[Forward], Callable[[], object]]] = {
    DECODE: _decode, SCORE: _score, BACKWARD: _backward
}  # fmt: skip
