"""A conversation's task: stays through follow-ups, changes with clear turns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.classifier import Classification
from gateway.routing.chats import (
    FIRST_TURN_COUNT,
    LAST_TURN_COUNT,
    Hysteresis,
    settle,
    used_turns,
    word_count,
)

LONG = "please write one query for every customer that has ordered twice this year"
TASKS = ("sql", "math", "poetry")
USUAL, MILD = Hysteresis(), Hysteresis(margin=0.05, short_margin=0.2)


def told(task: str, similarity: float, *, is_in_scope: bool = True) -> Classification:
    """What a turn is most like; the other tasks share what is left."""
    rest = (1 - similarity) / (len(TASKS) - 1)
    scores = ((task, similarity), *((one, rest) for one in TASKS if one != task))
    return Classification(task, similarity, is_in_scope, scores)


def task_after(*turns: tuple[str, Classification], rule: Hysteresis = USUAL) -> str:
    """Empty: out of scope."""
    texts, found = zip(*turns, strict=True)
    settled = settle(texts, found, rule).classification
    return settled.task if settled.is_in_scope else ""


SQL = (LONG, told("sql", 0.9))


@pytest.mark.parametrize(
    ("follow_up", "task"),
    [
        (("and shorter?", told("poetry", 0.4, is_in_scope=False)), "sql"),  # says nothing alone
        (("now the same for March", told("math", 0.8)), "sql"),  # looks like another, a little
        (("translate that into a sonnet", told("poetry", 0.999)), "poetry"),  # short and clear
        ((f"{LONG}, as a poem", told("poetry", 0.7)), "poetry"),  # long and clear
        ((f"{LONG}, or so", told("poetry", 0.45)), "sql"),  # long, but it could be either
        (("a" * 500, told("math", 0.3, is_in_scope=False)), ""),  # one word, but not a short turn
        ((f"{LONG}, says my uncle", told("math", 0.3, is_in_scope=False)), ""),  # about nothing
    ],
)
def test_a_conversation_stays_unless_its_task_clearly_changes(
    follow_up: tuple[str, Classification], task: str
) -> None:
    assert task_after(SQL, follow_up) == task


def test_a_long_turn_that_could_be_either_stays() -> None:
    could_be = Classification("poetry", 0.45, True, (("poetry", 0.45), ("sql", 0.4), ("math", 0.1)))
    clearer = Classification("poetry", 0.65, True, (("poetry", 0.65), ("sql", 0.4), ("math", 0.1)))
    assert task_after(SQL, (LONG, could_be)) == "sql"
    assert task_after(SQL, (LONG, clearer)) == "poetry"


def test_what_comes_after_small_talk_is_judged_by_itself() -> None:
    hello = ("hi there", told("math", 0.4, is_in_scope=False))
    assert task_after(hello, ("how are you?", told("poetry", 0.4, is_in_scope=False))) == ""
    assert task_after(hello, ("primes below 50?", told("math", 0.6))) == "math"


def test_a_conversation_goes_back_to_a_task_that_it_left() -> None:
    away = (f"{LONG}, as a poem", told("poetry", 0.9))
    assert task_after(SQL, away, SQL) == "sql"


def test_the_decision_rests_on_the_last_turn_that_spoke_for_it() -> None:
    again = ("as above, but for 2024", told("sql", 0.5))
    follow_up = ("and shorter?", told("math", 0.4, is_in_scope=False))
    texts, found = zip(SQL, again, follow_up, strict=True)
    settled = settle(texts, found, USUAL)
    assert settled.turn == 1
    assert settled.classification is again[1]


TURNS = st.lists(
    st.tuples(
        st.text(max_size=80) | st.just(LONG),
        st.builds(
            lambda task, similarity, is_in_scope: told(task, similarity, is_in_scope=is_in_scope),
            st.sampled_from(TASKS),
            st.floats(0.34, 1),
            st.booleans(),
        ),
    ),
    min_size=1,
    max_size=8,
)
RULES = st.builds(Hysteresis, st.floats(0, 1), st.floats(0, 1), st.integers(0, 20))


@given(TURNS, RULES)
def test_any_conversation_has_a_task_that_one_of_its_turns_has(
    turns: list[tuple[str, Classification]], rule: Hysteresis
) -> None:
    texts, found = zip(*turns, strict=True)
    settled = settle(texts, found, rule)
    assert settled.classification is found[settled.turn]
    assert settle(texts[:1], found[:1], rule).classification is found[0]
    assert settle(texts, found, rule) == settled


@given(TURNS, RULES)
def test_saying_the_last_thing_again_changes_nothing(
    turns: list[tuple[str, Classification]], rule: Hysteresis
) -> None:
    assert task_after(*turns, rule=rule) == task_after(*turns, turns[-1], rule=rule)


@given(TURNS, st.floats(0, 1), st.floats(0, 1))
def test_a_conversation_that_never_changes_keeps_its_first_task(
    turns: list[tuple[str, Classification]], margin: float, short_margin: float
) -> None:
    """Whatever the margins, no turn out of scope by itself moves a task while turns are short."""
    short = [
        ("and?", Classification(one.task, one.similarity, False, one.scores)) for _, one in turns
    ]
    rule = Hysteresis(margin, short_margin)
    assert task_after(SQL, *short, rule=rule) == "sql"


@given(st.lists(st.integers(), max_size=60))
def test_the_middle_of_a_long_conversation_is_left_out(turns: list[int]) -> None:
    used = used_turns(turns)
    assert len(used) == min(len(turns), FIRST_TURN_COUNT + LAST_TURN_COUNT)
    assert list(used[:FIRST_TURN_COUNT]) == turns[:FIRST_TURN_COUNT]
    assert not turns or list(used[-LAST_TURN_COUNT:]) == turns[-LAST_TURN_COUNT:]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("and  shorter\n?", 3),
        ("もっと短く", 2.5),
        ("再短一点", 2),
        ("짧게 해줘", 2),
        ("สั้นลง", 3),
        ("SQL で書いて", 3),
    ],
)
def test_words_are_counted_in_any_script(text: str, count: float) -> None:
    assert word_count(text) == count


def test_margins_are_chosen_by_the_length_of_a_turn_and_the_rule() -> None:
    follow_up = (
        "now the same for March",
        Classification("math", 0.5, True, (("math", 0.5), ("sql", 0.4))),
    )
    clear = (
        "prove it by induction",
        Classification("math", 0.8, True, (("math", 0.8), ("sql", 0.1))),
    )
    assert task_after(SQL, follow_up, rule=MILD) == "sql"
    assert task_after(SQL, clear, rule=MILD) == "math"
