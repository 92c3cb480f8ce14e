"""The compiled walk, beside scikit-learn's own predictions; and damaged forests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import ExtraTreesRegressor

from gateway.routing.quality.forest import BadForest, Forest, guessed

SETTINGS: dict[str, Any] = {"n_estimators": 12, "min_samples_leaf": 2, "random_state": 0}


def drawn(seed: int, count: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    rows = random.integers(-3, 4, (count, 5)).astype(np.float32) / 3  # many are equal
    return rows, random.random((count, outputs))


@settings(deadline=None)  # the first one waits for the compiler
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 3))
def test_the_walk_is_scikit_learn_s(seed: int, count: int, outputs: int) -> None:
    rows, targets = drawn(seed, count, outputs)
    theirs = ExtraTreesRegressor(**SETTINGS).fit(rows, targets if outputs > 1 else targets[:, 0])

    ours = Forest.grow(rows, targets, **SETTINGS)

    unseen, _ = drawn(seed + 1, 20, 1)
    for row in np.concatenate([rows, unseen]):
        sums, counts = ours.totals(row)
        expected = theirs.predict(row[None]).reshape(-1)
        np.testing.assert_allclose(sums / counts, expected, rtol=1e-5, atol=1e-6)


def test_thresholds_between_two_float32_are_kept() -> None:
    low = np.float32(1000.1)
    high = np.nextafter(low, np.float32(2000))
    rows = np.array([[low], [high]], np.float32)

    forest = Forest.grow(rows, np.array([[0.0], [1.0]]), n_estimators=5, random_state=0)

    assert [float(forest.totals(row)[0][0]) for row in rows] == [0, 5]


def test_what_is_unknown_has_no_part_in_a_leaf() -> None:
    rows = np.repeat(np.array([[0.0], [1.0]], np.float32), 10, 0)
    targets = np.repeat(np.array([[0.0, 0.2], [1.0, 0.8]]), 10, 0)
    targets[1:10, 1] = targets[11:, 1] = np.nan

    forest = Forest.grow(rows, targets, n_estimators=5, min_samples_leaf=10, random_state=0)

    for row, expected in ((rows[0], [0.0, 0.2]), (rows[10], [1.0, 0.8])):
        sums, counts = forest.totals(row)
        np.testing.assert_allclose(sums / counts, expected, rtol=1e-6)
        np.testing.assert_allclose(counts, [5, 0.5], rtol=1e-6)


def test_guesses_follow_the_row_and_keep_what_is_known() -> None:
    targets = np.array([[1.0, np.nan], [0.0, 0.4], [np.nan, 0.2], [np.nan, np.nan]])

    found = guessed(targets)

    assert (found[~np.isnan(targets)] == targets[~np.isnan(targets)]).all()
    assert found[0, 1] > 0.3
    assert found[3].tolist() == pytest.approx([0.5, 0.3])


def test_a_forest_comes_back_as_it_was() -> None:
    rows, targets = drawn(1, 30, 2)
    forest = Forest.grow(rows, targets, **SETTINGS)

    again = Forest.from_tensors(forest.tensors(), 5)

    for row in rows:
        np.testing.assert_array_equal(again.totals(row), forest.totals(row))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("roots", lambda one: one[:0]),
        ("roots", lambda one: one + 10_000),
        ("features", lambda one: one + 5),
        ("features", lambda one: one - 9),
        ("features", lambda one: one.astype(np.int64)),
        ("thresholds", lambda one: one[1:]),
        ("thresholds", lambda one: one * np.float32(np.nan)),
        ("left", lambda one: one * 0),  # back to the first fork, for ever
        ("right", lambda one: one - 10_000),
        ("sums", lambda one: one[:, :1]),
        ("counts", lambda one: one[:-1]),
        ("counts", lambda one: one[:, 0]),
    ],
)
def test_a_damaged_forest_is_refused(name: str, damage: Any) -> None:
    tensors = Forest.grow(*drawn(1, 30, 2), **SETTINGS).tensors()
    tensors[name] = damage(tensors[name])

    with pytest.raises(BadForest):
        Forest.from_tensors(tensors, 5)


def test_a_missing_tensor_is_refused() -> None:
    tensors = Forest.grow(*drawn(1, 30, 2), **SETTINGS).tensors()
    del tensors["counts"]

    with pytest.raises(BadForest, match="counts"):
        Forest.from_tensors(tensors, 5)
