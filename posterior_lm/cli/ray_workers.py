"""Workers that are actors of Ray, on this machine or on a cluster: one program with its models in each.

The program, its files and its models must lie at the same places on every machine; that they are the same is
looked at when an actor is ready. Results come back to whoever asked, which writes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from attrs import asdict, define

from posterior_lm.cli.workers import Said, Shard, Task, Worker, settings_of_threads
from posterior_lm.installed import need
from posterior_lm.lang.diagnostics import ModelError, PlmError


class Actor:
    """A worker, as an actor: what it says comes one by one."""

    def __init__(self) -> None:
        self.worker = Worker()

    def open(self, task: dict[str, Any]) -> Iterator[Said]:
        yield from self.worker.open(Task(**task))

    def answer(self, first: int, rows: list[dict[str, Any]]) -> Iterator[Said]:
        yield from self.worker.answer(first, rows)


@define(eq=False)
class _Heard:
    """An actor, and what it is saying; None where it was not asked."""

    actor: Any
    saying: Any = None


class Actors:
    """Workers that are actors, one CPU each, and of the GPUs that there are a share.

    Raises PlmError PLM810 without Ray, ModelError PLM633 where the cluster cannot be reached.
    """

    def __init__(self, task: Task, workers: int, address: str | None) -> None:
        try:
            self.ray = ray = need("ray", "ray")
        except ImportError:
            help = "pip install 'posterior_lm[ray]'"
            raise PlmError.of("PLM810", "--engine ray needs Ray, which is not installed", help=help) from None
        self.task, self.all = task, dict[int, _Heard]()
        self.began = not ray.is_initialized()
        if self.began:
            here = {} if address else {"num_cpus": workers, "include_dashboard": False}
            try:
                ray.init(address=address or "local", logging_level="error", log_to_driver=False, **here)
            except (ConnectionError, RuntimeError, ValueError, OSError) as problem:
                why = str(problem).splitlines()[0].rstrip(".")
                help = "start one with `ray start --head`, or leave out --address"
                raise ModelError.of(
                    "PLM633", f"no Ray cluster answers: {why}", where=address, help=help
                ) from None
        gpus = ray.cluster_resources().get("GPU", 0)
        self.actor = ray.remote(Actor).options(
            num_cpus=1, num_gpus=min(1.0, gpus / workers), max_restarts=0, scheduling_strategy="SPREAD",
            runtime_env={"env_vars": settings_of_threads()},
        )  # fmt: skip

    def start(self) -> int:
        number = len(self.all)
        actor = self.actor.remote()
        saying = actor.open.options(num_returns="streaming").remote(asdict(self.task))
        self.all[number] = _Heard(actor, saying)
        return number

    def give(self, worker: int, shard: Shard) -> None:
        heard = self.all[worker]
        heard.saying = heard.actor.answer.options(num_returns="streaming").remote(shard.first, shard.rows)

    def wait(self) -> tuple[int, str, bytes]:
        while True:
            saying = {heard.saying: number for number, heard in self.all.items() if heard.saying is not None}
            ready, _ = self.ray.wait(list(saying), num_returns=1, fetch_local=False)
            number = saying[ready[0]]
            try:
                word, content = self.ray.get(next(ready[0]))
            except StopIteration:
                self.all[number].saying = None
                continue
            except self.ray.exceptions.RayError as problem:
                self.all[number].saying = None
                return number, "gone", " ".join(str(problem).split())[:300].encode()
            if word in ("ready", "end", "failed"):
                self.all[number].saying = None
            if word == "failed":  # a process would end itself
                self.ray.kill(self.all[number].actor)
                return number, "gone", content
            return number, word, content

    def close(self) -> None:
        for heard in self.all.values():
            self.ray.kill(heard.actor)
        if self.began:
            self.ray.shutdown()
