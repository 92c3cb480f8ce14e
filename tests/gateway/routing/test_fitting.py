"""What a fit promises, on made-up embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gateway.routing.fitting import fit, measured
from gateway.routing.head import Head
from gateway.routing.labelled import OUT_OF_SCOPE, Labelled, library_for, library_tasks

DIM = 16


def clouds(
    tasks: list[str], count: int, spread: float, seed: int = 0
) -> tuple[list[Labelled], np.ndarray]:
    """Prompts whose rows lie around their task's."""
    random = np.random.default_rng(seed)
    centres = {task: np.random.default_rng(list(task.encode())).normal(size=DIM) for task in tasks}
    labelled = [Labelled(f"{task} {i}", task) for task in tasks for i in range(count)]
    rows = np.array([centres[one.task] + spread * random.normal(size=DIM) for one in labelled])
    return labelled, np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def empty() -> np.ndarray:
    return np.zeros((0, DIM), np.float32)


@pytest.mark.parametrize("tasks", [["a", "b"], ["a", "b", "c", "d"], ["a", "b", OUT_OF_SCOPE]])
def test_clear_tasks_are_told_apart(tasks: list[str]) -> None:
    labelled, rows = clouds(tasks, 40, 0.3)
    head = fit(labelled, rows, [], empty())

    unseen, unseen_rows = clouds(tasks, 40, 0.3, seed=1)
    decided = [head.decide(row) for row in unseen_rows]

    right = np.mean([one.task == prompt.task for one, prompt in zip(decided, unseen, strict=True)])
    assert right > 0.9
    assert head.facts["held_out"]["accuracy"] > 0.9


def test_probabilities_are_calibrated() -> None:
    tasks = ["a", "b", "c"]
    labelled, rows = clouds(tasks, 300, 2.0)
    head = fit(labelled, rows, [], empty())

    unseen, unseen_rows = clouds(tasks, 1000, 2.0, seed=1)
    truth = np.array([tasks.index(one.task) for one in unseen])
    told = measured(head.tasks, head.probabilities(unseen_rows), truth, head.scope_threshold)

    assert 0.4 < told["accuracy"] < 0.97  # hard enough for probabilities to matter
    assert told["ece"] < 0.05


def test_without_prompts_out_of_scope_a_twentieth_is_refused() -> None:
    tasks = ["a", "b", "c"]
    head = fit(*clouds(tasks, 200, 0.6), [], empty())

    _, unseen = clouds(tasks, 200, 0.6, seed=1)
    refused = np.mean([not head.decide(row).is_in_scope for row in unseen])
    assert 0 < refused < 0.15
    far = np.zeros(DIM, np.float32)
    assert head.decide(far).task == OUT_OF_SCOPE


def test_expecting_more_out_of_scope_refuses_more() -> None:
    labelled, rows = clouds(["a", "b", OUT_OF_SCOPE], 200, 1.5)

    low, high = (
        fit(labelled, rows, [], empty(), expected_out_of_scope=share) for share in (0.02, 0.7)
    )

    assert high.scope_threshold < low.scope_threshold


def test_a_head_comes_back_from_its_directory(tmp_path: Path) -> None:
    labelled, rows = clouds(["a", "b", "c", OUT_OF_SCOPE], 30, 0.5)
    head = fit(labelled, rows, [], empty())
    head.save(tmp_path)

    again = Head.load(tmp_path)

    assert (again.tasks, again.scope_threshold) == (head.tasks, head.scope_threshold)
    assert again.facts == head.facts
    assert np.array_equal(again.probabilities(rows), head.probabilities(rows))


def test_fitting_is_deterministic() -> None:
    labelled, rows = clouds(["a", "b", OUT_OF_SCOPE], 50, 0.8)
    first, second = (fit(labelled, rows, [], empty()) for _ in range(2))

    assert np.array_equal(first.weights, second.weights)
    assert first.scope_threshold == second.scope_threshold


def test_the_library_is_for_usual_tasks() -> None:
    assert {"math", "sql", "translation", OUT_OF_SCOPE} < set(library_tasks())

    mine = library_for(["math", "sql", "pottery", OUT_OF_SCOPE])
    assert {one.task for one in mine} == {"math", "sql", OUT_OF_SCOPE}
    assert {one.task for one in library_for(["math", "sql"])} == {"math", "sql"}
    assert library_for(["math", "pottery", "weaving", OUT_OF_SCOPE]) == []
    assert library_for([OUT_OF_SCOPE]) == []


def test_the_library_has_many_prompts_each_once() -> None:
    for task in library_tasks():
        prompts = [one.text for one in library_for([task, OUT_OF_SCOPE]) if one.task == task]
        if task != OUT_OF_SCOPE:
            assert len(prompts) >= 190
            assert len(set(prompts)) == len(prompts)
