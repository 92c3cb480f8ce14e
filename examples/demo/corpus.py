"""What the base language model reads: the language and the formats, not the solutions.

A dialogue about a task pairs a prompt with the answer to *another* prompt of that task, so the
base learns what an answer looks like without learning how to find it. Copying and looking up are
taught for real, because every specialist builds on them.
"""

import random
from collections.abc import Callable, Iterator
from functools import partial

from examples.demo.conversations import SYSTEM_TEXTS, Conversation, Turn, exchange
from examples.demo.tasks import TASKS, Problem, arithmetic, sentiment, sql, translation
from examples.demo.tasks.functions import CHORES, GENRES, ROOMS, TEXTS
from examples.demo.tasks.words import CITIES, FIRST_NAMES, LAST_NAMES

WORD_LISTS = (
    CITIES, FIRST_NAMES, LAST_NAMES, CHORES, GENRES, ROOMS, TEXTS,
    *sentiment.ADJECTIVES.values(),
    tuple(noun.english for noun in translation.NOUNS),
    tuple(noun.spanish for noun in translation.NOUNS),
    tuple(column for table in sql.SCHEMA for column in (*table.labels, *table.numbers)),
)  # fmt: skip
# The base reads bare equations: how to work them out is the specialist's.
DRAWS: tuple[Callable[[random.Random], Problem], ...] = tuple(
    partial(arithmetic.draw, with_steps=False) if name == arithmetic.NAME else task.generate
    for name, task in TASKS.items()
)
KEYS = (
    "name", "city", "date", "room", "genre", "text", "queue", "price", "person", "place",
    "organisation", "status", "day", "hour", "chore", "vehicle", "degrees", "minutes",
)  # fmt: skip
REPEATS = ("Repeat: {}", "Say this again: {}", "Copy the text: {}", "Echo: {}", "{} Repeat that.")


def base_conversations(rng: random.Random, count: int) -> Iterator[Conversation]:
    """Draw what the base reads; the kinds come in the proportions of `KINDS`."""
    kinds, weights = zip(*KINDS, strict=True)
    for kind in rng.choices(kinds, weights, k=count):
        yield kind(rng)


def _prompt_only(rng: random.Random) -> Conversation:
    return (Turn("document", rng.choice(DRAWS)(rng).prompt),)


def _answer_only(rng: random.Random) -> Conversation:
    return (Turn("document", _random_answer(rng)),)


def _mismatched(rng: random.Random) -> Conversation:
    draw = rng.choice(DRAWS)
    turns = exchange(draw(rng).prompt, draw(rng).answer)
    if rng.random() < 0.2:
        turns += exchange(draw(rng).prompt, draw(rng).answer)
    if rng.random() < 0.2:
        turns = (Turn("system", rng.choice(SYSTEM_TEXTS)), *turns)
    return turns


def _repeat(rng: random.Random) -> Conversation:
    text = rng.choice((_random_words, _random_answer))(rng)
    return exchange(rng.choice(REPEATS).format(text), text)


def _random_words(rng: random.Random) -> str:
    words = (rng.choice(rng.choice(WORD_LISTS)) for _ in range(rng.randint(2, 8)))
    return " ".join(words)


def _random_answer(rng: random.Random) -> str:
    return rng.choice(DRAWS)(rng).answer


def _look_up(rng: random.Random) -> Conversation:
    keys = rng.sample(KEYS, rng.randint(2, 5))
    values = {key: _value(rng) for key in keys}
    pairs = ", ".join(f"{key}: {value}" for key, value in values.items())
    wanted = rng.choice(keys)
    return exchange(f"{pairs}. What is the {wanted}?", values[wanted])


def _value(rng: random.Random) -> str:
    if rng.random() < 0.3:
        return str(rng.randint(1, 10 ** rng.randint(1, 4)))
    return rng.choice(rng.choice(WORD_LISTS))


def _word_list(rng: random.Random) -> Conversation:
    words = rng.choice(WORD_LISTS)
    return (Turn("document", ", ".join(rng.sample(words, min(len(words), 7)))),)


def _glossary(rng: random.Random) -> Conversation:
    pairs = [f"{noun.english} - {noun.spanish}" for noun in rng.sample(translation.NOUNS, 4)]
    pairs += [" - ".join(forms) for forms in rng.sample(translation.ADJECTIVES, 3)]
    return (Turn("document", "\n".join(rng.sample(pairs, len(pairs)))),)


def _numbers(rng: random.Random) -> Conversation:
    start, step = rng.randint(0, 150), rng.choice((1, 1, 1, 2, 5, 10))
    return (Turn("document", " ".join(str(start + step * place) for place in range(12))),)


KINDS: tuple[tuple[Callable[[random.Random], Conversation], int], ...] = (
    (_prompt_only, 3),
    (_answer_only, 2),
    (_mismatched, 5),
    (_repeat, 5),
    (_look_up, 4),
    (_word_list, 1),
    (_glossary, 1),
    (_numbers, 1),
)
