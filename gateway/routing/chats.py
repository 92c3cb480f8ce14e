"""What a conversation is for, told from its user turns. Pure.

Follow-ups ("and shorter?", "now the same for March") say little of their task and look like many,
so that a conversation stays with its task unless a turn clearly changes it. Nothing is kept between
requests: whoever sends the same turns gets the same task, from any gateway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from gateway.classifier import Classification

Turn = TypeVar("Turn")
# A conversation is told by its beginning and by where it has got to; the middle only costs time.
FIRST_TURN_COUNT, LAST_TURN_COUNT = 8, 8
LONGEST_SHORT = 400  # characters; nobody counts the words of what is longer


@dataclass(frozen=True, slots=True)
class Hysteresis:
    """How much more a turn has to be another task's than the conversation's, to change it.

    short_margin: for turns of fewer words than short_word_count; margin: for others. Both are
    differences of probabilities; `python -m benchmarks.routing_chats` shows why the defaults.
    """

    margin: float = 0.2
    short_margin: float = 0.99
    short_word_count: int = 10


@dataclass(frozen=True, slots=True)
class Settled:
    """The task of a conversation. turn: the last one that spoke for it, from 0."""

    classification: Classification
    turn: int


def used_turns(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """The first and the last turns of a conversation."""
    left_out = max(0, len(turns) - FIRST_TURN_COUNT - LAST_TURN_COUNT)
    return (*turns[:FIRST_TURN_COUNT], *turns[FIRST_TURN_COUNT + left_out :])


def settle(
    texts: Sequence[str], classifications: Sequence[Classification], hysteresis: Hysteresis
) -> Settled:
    """The task after the last turn.

    texts, classifications: of each user turn as if it stood alone, at least one. The first decides
    as a lone prompt does.
    """
    settled = Settled(classifications[0], 0)
    turns = enumerate(zip(texts, classifications, strict=True))
    next(turns)
    for turn, (text, found) in turns:
        if _is_of_it(settled.classification, text, found, hysteresis):
            settled = Settled(found, turn)
    return settled


def _is_of_it(
    current: Classification, text: str, found: Classification, hysteresis: Hysteresis
) -> bool:
    """Whether a turn speaks for itself, for the conversation's task or for another."""
    is_short = len(text) <= LONGEST_SHORT and word_count(text) < hysteresis.short_word_count
    if not found.is_in_scope:
        return not current.is_in_scope or not is_short
    if not current.is_in_scope or found.task == current.task:
        return True
    lead = found.similarity - dict(found.scores).get(current.task, 0.0)
    return lead > (hysteresis.short_margin if is_short else hysteresis.margin)


def word_count(text: str) -> float:
    """Words, of which scripts that do not part them have about one in two characters."""
    unparted = sum(_is_unparted(letter) for letter in text)
    parted = "".join(" " if _is_unparted(letter) else letter for letter in text)
    return len(parted.split()) + unparted / 2


def _is_unparted(letter: str) -> bool:
    """Thai to Khmer, and Chinese and Japanese; Korean parts its words."""
    return (
        "\u0e00" <= letter <= "\u0eff"
        or "\u1000" <= letter <= "\u109f"
        or ("\u1780" <= letter <= "\u17ff" or "\u3040" <= letter <= "\u9fff")
    )
