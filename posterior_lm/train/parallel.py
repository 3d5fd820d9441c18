"""Several processes on one fit: who they are, and sums over all of them.

Started by `accelerate launch` or `torchrun`, each process takes its share of every
step's draws and all of them hold the same weights. Alone, everything here does
nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import torch
from attrs import frozen
from torch import Tensor


@frozen
class World:
    """This process's number among `size` processes."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """The slots of `count` that are this process's own."""
        return range(self.rank, count, self.size)

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([t.detach().reshape(-1) for t in tensors])
        torch.distributed.all_reduce(flat)
        at = 0
        for t in tensors:
            t.detach().copy_(flat[at : at + t.numel()].view_as(t))
            at += t.numel()

    def all_reduce(self, numbers: Sequence[float]) -> list[float]:
        """The sum of each number over all processes."""
        if self.size == 1:
            return [float(n) for n in numbers]
        column = torch.tensor(list(numbers), dtype=torch.float64, device=_device())
        torch.distributed.all_reduce(column)
        return column.tolist()

    def merged(self, before: Tensor, after: Tensor) -> Tensor:
        """`before` with what any process has changed in its `after`; the mean where several have."""
        if self.size == 1:
            return after
        kept = (after == before) | (torch.isnan(after) & torch.isnan(before))
        sums = torch.stack([torch.where(kept, 0.0, after), (~kept).to(after.dtype)])
        torch.distributed.all_reduce(sums)
        return torch.where(sums[1] > 0, sums[0] / sums[1].clamp(min=1), before)

    def broadcast(self, value: Any) -> Any:
        """The value that process 0 has; values are JSON."""
        return self.gather(value)[0]

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in the order of their numbers; values are JSON."""
        if self.size == 1:
            return [value]
        # As text, since the collectives for objects would pickle them.
        text = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8, device=_device())
        sizes = [torch.zeros(1, dtype=torch.int64, device=_device()) for _ in range(self.size)]
        torch.distributed.all_gather(sizes, torch.tensor([len(text)], device=_device()))
        width = max(int(s) for s in sizes)
        padded = torch.zeros(width, dtype=torch.uint8, device=_device())
        padded[: len(text)] = text
        found = [torch.zeros_like(padded) for _ in range(self.size)]
        torch.distributed.all_gather(found, padded)
        return [json.loads(bytes(f[: int(n)].tolist())) for f, n in zip(found, sizes, strict=True)]

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            torch.distributed.barrier()


def join_world() -> World:
    """The world that the launcher's environment describes; joined once, by accelerate."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    return World(state.process_index, state.num_processes)


def _device() -> torch.device:
    gpu = torch.distributed.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if gpu else torch.device("cpu")
