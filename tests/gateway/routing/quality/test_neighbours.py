"""Guesses from the nearest prompts, beside plain ones."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.quality.neighbours import Neighbours


def drawn(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.normal(size=(count, 6)).astype(np.float32), random.random((count, 2))


def test_a_prompt_that_is_known_is_its_own_nearest() -> None:
    rows, _ = drawn(0, 200)
    scores = np.eye(200)

    guessed = Neighbours.fit(rows, scores, axes_count=2, gram_count=2).guess(rows)

    assert (guessed.argmax(1) == np.arange(200)).all()


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 40))
def test_guesses_are_means_of_scores(seed: int, known: int, asked: int) -> None:
    rows, scores = drawn(seed, known)

    found = Neighbours.fit(rows, scores, 2, 2).guess(drawn(seed + 1, asked)[0])

    assert found.shape == (asked, 2)
    assert (found >= scores.min(0) - 1e-6).all()
    assert (found <= scores.max(0) + 1e-6).all()


def test_more_rows_than_a_block_are_guessed_as_one_by_one() -> None:
    near = Neighbours.fit(*drawn(1, 100), 2, 2)
    rows, _ = drawn(2, 1100)

    together = near.guess(rows)

    for place in (0, 511, 512, 1099):
        np.testing.assert_allclose(
            near.guess(rows[place : place + 1])[0], together[place], rtol=1e-5
        )


def test_only_the_nearest_count() -> None:
    """Forty that are alike, and one that is not."""
    rows = np.tile(np.array([[1, 0, 0, 0]], np.float32), (41, 1))
    rows[40] = [-1, 0, 0, 0]
    scores = np.zeros((41, 1))
    scores[40] = 1

    near = Neighbours.fit(rows, scores, axes_count=4, gram_count=0)

    assert near.guess(rows[:1])[0, 0] == 0
    assert near.guess(rows[40:])[0, 0] > 0.9


def test_a_row_of_zeros_has_a_guess() -> None:
    near = Neighbours.fit(*drawn(3, 50), 2, 2)

    assert np.isfinite(near.guess(np.zeros((1, 6), np.float32))).all()
