"""What callers say of answers: kept, bounded, and how it moves expectations."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.feedback import (
    ESTIMATE_WEIGHT,
    Answered,
    Feedback,
    Opinion,
    Opinions,
    RecentAnswers,
)
from gateway.routing.feedback_store import FeedbackStore
from model_pool.errors import InvalidParameter, UnknownRequest

DIM = 3
MODELS, TASKS = ("a", "b"), ("", "sql", "math")


def unit(values: list[float]) -> np.ndarray:
    row = np.array(values, np.float32)
    length = np.linalg.norm(row)
    return row / length if length else np.array([1, 0, 0], np.float32)


ROWS = st.none() | st.lists(st.floats(-1, 1), min_size=DIM, max_size=DIM).map(unit)
SHARES = st.floats(0, 1)
ANSWERED = st.builds(
    lambda model, task, row: Answered(model, task, None if row is None else row.astype(np.float16)),
    st.sampled_from(MODELS),
    st.sampled_from(TASKS),
    ROWS,
)
SAID = st.lists(st.builds(Opinion, st.sampled_from("123456789"), ANSWERED, SHARES), max_size=20)


def opinions(said: list[Opinion], capacity: int = 100) -> Opinions:
    found = Opinions(capacity)
    for one in said:
        found.add(one)
    return found


def on(row: list[float] | None, score: float, *, model: str = "a", task: str = "sql") -> Opinion:
    half = None if row is None else unit(row).astype(np.float16)
    return Opinion(f"{row}{score}{model}{task}", Answered(model, task, half), score)


@given(SAID, ROWS, st.sampled_from(TASKS), SHARES, st.sampled_from([*MODELS, "unheard of"]))
def test_an_expectation_stays_a_share(
    said: list[Opinion], row: np.ndarray | None, task: str, estimate: float, model: str
) -> None:
    found = opinions(said).corrected(row, task)(model, estimate)
    assert 0 <= found <= 1
    scores = [one.score for one in said if one.answered.model == model]
    assert min([estimate, *scores]) - 1e-9 <= found <= max([estimate, *scores]) + 1e-9


ROUNDING = 1e-6  # nearness is a float32 product, whose last digits change with the rows beside it


@given(ROWS, st.sampled_from(TASKS), SHARES)
def test_no_feedback_changes_nothing(row: np.ndarray | None, task: str, estimate: float) -> None:
    assert opinions([]).corrected(row, task)("a", estimate) == estimate
    of_another = opinions([on([1, 0, 0], 0.0, model="b")])
    assert of_another.corrected(row, task)("a", estimate) == pytest.approx(estimate)


@given(SAID, ANSWERED, ROWS, st.sampled_from(TASKS), SHARES, SHARES)
def test_a_good_score_never_lowers_and_a_bad_one_never_raises(
    said: list[Opinion],
    answered: Answered,
    row: np.ndarray | None,
    task: str,
    estimate: float,
    score: float,
) -> None:
    before = opinions(said).corrected(row, task)(answered.model, estimate)
    after = opinions([*said, Opinion("new", answered, score)]).corrected(row, task)
    found = after(answered.model, estimate)
    if score >= before:
        assert found >= before - ROUNDING
    if score <= before:
        assert found <= before + ROUNDING


def test_the_more_alike_the_prompts_the_more_a_score_counts() -> None:
    said = opinions([on([1, 0, 0], 1.0)])
    same, near, far, against = (
        said.corrected(unit(row), "")("a", 0.5)
        for row in ([1, 0, 0], [1, 1, 0], [0, 1, 0], [-1, 0, 0])
    )
    assert same > near > far == against == pytest.approx(0.5)
    assert same == pytest.approx((ESTIMATE_WEIGHT * 0.5 + 1) / (ESTIMATE_WEIGHT + 1), abs=1e-3)


def test_without_an_embedding_the_task_counts_a_little() -> None:
    without = opinions([on(None, 1.0)])
    assert 0.5 < without.corrected(unit([1, 0, 0]), "sql")("a", 0.5) < 0.55
    assert without.corrected(unit([1, 0, 0]), "math")("a", 0.5) == 0.5
    assert without.corrected(None, "")("a", 0.5) == 0.5
    with_one = opinions([on([1, 0, 0], 1.0)])
    assert 0.5 < with_one.corrected(None, "sql")("a", 0.5) < 0.55


def test_an_embedding_of_another_encoder_is_none() -> None:
    said = opinions([on([1, 0, 0], 1.0), on([1, 0], 1.0, task="math")])
    assert said.corrected(unit([1, 0]), "law")("a", 0.5) == 0.5
    assert said.corrected(unit([1, 0]), "math")("a", 0.5) > 0.5


def test_the_oldest_leave_first_and_a_second_opinion_replaces_the_first() -> None:
    said = Opinions(2)
    one, two, three = (Opinion(str(n), Answered("a", "sql", None), 0.0) for n in range(3))
    assert [said.add(one), said.add(two), said.add(one), said.add(three)] == [0, 0, 1, 0]
    assert len(said) == 2
    assert said.find("0") is None
    assert said.find("1") is two.answered
    said.add(Opinion("1", two.answered, 1.0))
    said.add(Opinion("2", three.answered, 1.0))
    assert said.corrected(None, "sql")("a", 0.5) > 0.5  # nothing of the zeros is left


@given(SAID, st.integers(1, 4), ROWS, SHARES)
def test_what_has_left_has_no_say(
    said: list[Opinion], capacity: int, row: np.ndarray | None, estimate: float
) -> None:
    different = [Opinion(str(place), one.answered, one.score) for place, one in enumerate(said)]
    bounded = opinions(different, capacity).corrected(row, "sql")
    last = opinions(different[-capacity:]).corrected(row, "sql")
    for model in MODELS:
        assert bounded(model, estimate) == pytest.approx(last(model, estimate), abs=ROUNDING)


def test_answers_are_remembered_for_a_while() -> None:
    recent = RecentAnswers(2)
    for name in ("1", "2", "1", "3"):
        recent.remember(name, Answered(name, "", None))
    assert len(recent) == 2
    assert recent.find("2") is None
    assert recent.find("1").model == "1"


async def kept(path: Path, capacity: int = 10) -> tuple[FeedbackStore, Feedback]:
    store = FeedbackStore(path, capacity)
    await store.open()
    feedback = Feedback(store, RecentAnswers(10), Opinions(capacity))
    await feedback.start()
    return store, feedback


ROW = unit([3, 2, 1])


async def test_opinions_outlive_a_restart(tmp_path: Path) -> None:
    store, feedback = await kept(tmp_path / "new" / "feedback.sqlite3")
    feedback.answered("r1", "a", "sql", ROW)
    feedback.answered("r2", "b", "", None)
    assert await feedback.record("r1", 0.0, "a") == ("a", False)
    assert await feedback.record("r1", 1.0, "") == ("a", True)
    assert await feedback.record("r2", 0.5, "") == ("b", False)
    expected = feedback.corrected(ROW, "sql")("a", 0.2)
    await store.close()

    store, again = await kept(tmp_path / "new" / "feedback.sqlite3")
    assert expected > 0.2
    assert again.corrected(ROW, "sql")("a", 0.2) == pytest.approx(expected)
    assert await again.record("r1", 0.0, "") == ("a", True)  # known by its opinion
    assert again.corrected(ROW, "sql")("a", 0.2) < 0.2
    await store.close()


async def test_the_file_is_bounded_and_never_has_more_than_memory(tmp_path: Path) -> None:
    path = tmp_path / "feedback.sqlite3"
    store, feedback = await kept(path, capacity=3)
    for name in "abcde":
        feedback.answered(name, "m", "sql", ROW)
        await feedback.record(name, 1.0, "")
    await feedback.record("c", 0.0, "")
    await store.close()
    with contextlib.closing(sqlite3.connect(path)) as file:
        rows = file.execute("select request_id, score from opinions order by row").fetchall()
    assert rows == [("c", 0.0), ("d", 1.0), ("e", 1.0)]

    store, smaller = await kept(path, capacity=1)
    with pytest.raises(UnknownRequest):
        await smaller.record("d", 1.0, "")
    assert await smaller.record("e", 1.0, "m") == ("m", True)
    await store.close()


async def test_what_was_not_answered_or_by_another_is_refused(tmp_path: Path) -> None:
    store, feedback = await kept(tmp_path / "feedback.sqlite3")
    feedback.answered("r1", "a", "sql", ROW)
    with pytest.raises(UnknownRequest):
        await feedback.record("r2", 1.0, "")
    with pytest.raises(InvalidParameter, match="a answered"):
        await feedback.record("r1", 1.0, "b")
    assert feedback.corrected(ROW, "sql")("a", 0.5) == 0.5
    await store.close()


async def test_an_answer_is_its_callers_also_after_a_restart(tmp_path: Path) -> None:
    store, feedback = await kept(tmp_path / "feedback.sqlite3")
    feedback.answered("r1", "a", "sql", ROW, "night")
    with pytest.raises(UnknownRequest):
        await feedback.record("r1", 1.0, "", "day")
    assert await feedback.record("r1", 1.0, "", "night") == ("a", False)
    await store.close()

    store, feedback = await kept(tmp_path / "feedback.sqlite3")
    with pytest.raises(UnknownRequest):
        await feedback.record("r1", 0.0, "", "day")
    assert await feedback.record("r1", 0.5, "", "night") == ("a", True)
    assert await feedback.record("r1", 0.5, "") == ("a", True), "where nobody is asked who it is"
    await store.close()


async def test_a_file_from_before_callers_were_known_is_read(tmp_path: Path) -> None:
    path = tmp_path / "feedback.sqlite3"
    with contextlib.closing(sqlite3.connect(path)) as old:
        old.execute(
            "CREATE TABLE opinions (row INTEGER PRIMARY KEY, request_id TEXT NOT NULL UNIQUE,"
            " model TEXT NOT NULL, task TEXT NOT NULL, score FLOAT NOT NULL, embedding BLOB)"
        )
        old.execute("INSERT INTO opinions VALUES (1, 'r1', 'a', 'sql', 0.5, NULL)")
        old.commit()
    for _ in range(2):
        store, feedback = await kept(path)
        assert await feedback.record("r1", 1.0, "") == ("a", True)
        with pytest.raises(UnknownRequest):
            await feedback.record("r1", 1.0, "", "somebody")
        await store.close()
