"""The tasks by name, in the order of the table."""

from __future__ import annotations

from posterior_lm.bench.task import Task
from posterior_lm.bench.tasks import arithmetic, continuation, infilling, integers, subjectivity

TASKS: dict[str, Task] = {
    task.name: task
    for task in (integers.TASK, continuation.TASK, infilling.TASK, subjectivity.TASK, arithmetic.TASK)
}
