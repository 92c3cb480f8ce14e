"""What a fit promises, on made-up embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gateway.routing.fitted import Fitted
from gateway.routing.fitting import Known, fit
from gateway.routing.head import Decision
from gateway.routing.labelled import OUT_OF_SCOPE, Labelled, library_for, library_tasks
from gateway.routing.scanning import SHAPE_COUNT
from gateway.routing.scoring import bins_of, expected_calibration_error
from gateway.routing.words import Words, hashes_of

DIM = 16
NO_WORDS = Words.of([], np.zeros(0, np.float32))


def clouds(
    tasks: list[str], count: int, spread: float, seed: int = 0
) -> tuple[list[Labelled], np.ndarray]:
    """Prompts whose rows lie around their task's."""
    random = np.random.default_rng(seed)
    centres = {task: np.random.default_rng(list(task.encode())).normal(size=DIM) for task in tasks}
    labelled = [Labelled(f"{task} {i}", task) for task in tasks for i in range(count)]
    rows = np.array([centres[one.task] + spread * random.normal(size=DIM) for one in labelled])
    return labelled, np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def fitted(labelled: list[Labelled], rows: np.ndarray, **asked: float) -> Fitted:
    """Of rows alone: the same for both steps, and no words."""
    texts = ["" for _ in labelled]
    known = Known(rows, rows, NO_WORDS.matrix(texts), np.zeros((len(rows), SHAPE_COUNT), "f4"))
    return fit(labelled, [], known, NO_WORDS, **asked)


def decided(made: Fitted, rows: np.ndarray) -> list[Decision]:
    """By the full step."""
    places, weights = NO_WORDS.weigh(hashes_of(""))
    none = np.zeros(SHAPE_COUNT, np.float32)
    logits = [made.full.logits(row, places, weights, none) for row in rows]
    return [made.full.decided(one, "full") for one in logits]


@pytest.mark.parametrize("tasks", [["a", "b"], ["a", "b", "c", "d"], ["a", "b", OUT_OF_SCOPE]])
def test_clear_tasks_are_told_apart(tasks: list[str]) -> None:
    made = fitted(*clouds(tasks, 40, 0.3))

    unseen, rows = clouds(tasks, 40, 0.3, seed=1)
    found = decided(made, rows)

    right = np.mean([one.task == prompt.task for one, prompt in zip(found, unseen, strict=True)])
    assert right > 0.85
    assert made.facts["held_out"]["accuracy"] > 0.85


def test_probabilities_are_calibrated() -> None:
    tasks = ["a", "b", "c", OUT_OF_SCOPE]
    made = fitted(*clouds(tasks, 300, 2.0))

    unseen, rows = clouds(tasks, 1000, 2.0, seed=1)
    found = decided(made, rows)
    bins = bins_of(found, [one.task for one in unseen])

    right = sum(one.accuracy * one.count for one in bins) / len(found)
    assert 0.4 < right < 0.97  # hard enough for probabilities to matter
    assert expected_calibration_error(bins) < 0.05


def test_without_prompts_out_of_scope_a_few_are_refused() -> None:
    tasks = ["a", "b", "c"]
    made = fitted(*clouds(tasks, 200, 0.6))

    found = decided(made, clouds(tasks, 200, 0.6, seed=1)[1])

    assert 0 < np.mean([not one.is_in_scope for one in found]) < 0.15
    assert decided(made, np.zeros((1, DIM), np.float32))[0].task == OUT_OF_SCOPE


def test_expecting_more_out_of_scope_refuses_more() -> None:
    labelled, rows = clouds(["a", "b", OUT_OF_SCOPE], 200, 1.5)

    low, high = (fitted(labelled, rows, expected_out_of_scope=share) for share in (0.02, 0.7))

    assert high.full.scope_threshold < low.full.scope_threshold


def test_the_static_step_decides_what_it_is_right_on() -> None:
    labelled, rows = clouds(["a", "b", "c", OUT_OF_SCOPE], 200, 1.2)

    shares = [
        fitted(labelled, rows, static_accuracy=wanted).facts["static_share"]
        for wanted in (0.5, 0.97, 1.0)
    ]

    assert shares[0] >= shares[1] >= shares[2]
    assert shares[0] > shares[2]


def test_a_static_step_that_knows_nothing_never_decides() -> None:
    labelled, rows = clouds(["a", "b", "c", OUT_OF_SCOPE], 100, 0.3)
    noise = np.random.default_rng(5).normal(size=rows.shape).astype(np.float32)
    shapes = np.zeros((len(rows), SHAPE_COUNT), np.float32)
    known = Known(rows, noise, NO_WORDS.matrix([""] * len(rows)), shapes)

    made = fit(labelled, [], known, NO_WORDS)

    assert made.facts["static_share"] == 0
    assert made.facts["held_out"]["accuracy"] > 0.85


def test_a_router_comes_back_from_its_directory(tmp_path: Path) -> None:
    labelled, rows = clouds(["a", "b", "c", OUT_OF_SCOPE], 30, 0.5)
    made = fitted(labelled, rows)
    (tmp_path / "model").mkdir()
    (tmp_path / "router").mkdir()
    made.save(tmp_path / "router", tmp_path / "model")

    again = Fitted.load(tmp_path / "router")

    assert (again.tasks, again.clear, again.facts) == (made.tasks, made.clear, made.facts)
    for left, right in zip(decided(again, rows), decided(made, rows), strict=True):
        assert np.array_equal(left.probabilities, right.probabilities)
        assert left.task == right.task


def test_fitting_is_deterministic() -> None:
    labelled, rows = clouds(["a", "b", OUT_OF_SCOPE], 50, 0.8)
    first, second = (fitted(labelled, rows) for _ in range(2))

    assert np.array_equal(first.full.dense, second.full.dense)
    assert first.full.scope_threshold == second.full.scope_threshold


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
