"""Nearness to what is out of scope."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.routing.neighbours import Neighbours


def unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def test_it_is_the_difference_of_the_five_nearest() -> None:
    random = np.random.default_rng(0)
    inside, beyond, asked = (unit(random.normal(size=(count, 8))) for count in (40, 30, 7))

    found = Neighbours(inside, beyond).strangeness(asked)

    for row, one in zip(asked, found, strict=True):
        near = [sorted(row @ known.T)[-5:] for known in (beyond, inside)]
        assert one == pytest.approx(np.mean(near[0]) - np.mean(near[1]), abs=1e-6)


def test_few_are_enough_and_many_are_drawn_from() -> None:
    rows = unit(np.random.default_rng(1).normal(size=(20_000, 4)))
    is_beyond = np.arange(len(rows)) % 2 == 0

    few = Neighbours.of(rows[:4], is_beyond[:4])
    many = Neighbours.of(rows, is_beyond)

    assert (len(few.inside), len(few.beyond)) == (2, 2)
    assert np.isfinite(few.strangeness(rows[:9])).all()
    assert len(many.inside) < 10_000
    assert len(many.beyond) < 10_000
    again = Neighbours.of(rows, is_beyond)
    assert np.array_equal(many.inside, again.inside)
    assert np.array_equal(many.beyond, again.beyond)
