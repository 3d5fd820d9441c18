"""The tasks by name, in the order of the table."""

from __future__ import annotations

from benchmarks.paper.task import Task
from benchmarks.paper.tasks import arithmetic, continuation, infilling, integers, subjectivity

TASKS: dict[str, Task] = {
    task.name: task
    for task in (integers.TASK, continuation.TASK, infilling.TASK, subjectivity.TASK, arithmetic.TASK)
}
