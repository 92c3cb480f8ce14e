"""The seven tasks of the demo fleet: pure Python generators of problems with known answers."""

from examples.demo.tasks import (
    arithmetic,
    entities,
    functions,
    sentiment,
    sql,
    translation,
    triage,
)
from examples.demo.tasks.problem import Problem, Task

__all__ = ["TASKS", "Problem", "Task"]

TASKS: dict[str, Task] = {
    arithmetic.NAME: arithmetic,
    sql.NAME: sql,
    functions.NAME: functions,
    entities.NAME: entities,
    triage.NAME: triage,
    sentiment.NAME: sentiment,
    translation.NAME: translation,
}
