"""How well a conversation's task is told, turn by turn: `python -m benchmarks.routing_chats`.

On routing_chats.jsonl, conversations written for this, with a router that has learned from the
project's library alone. Margins are chosen on every other conversation, and the rest is reported.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from gateway.classifier import Classification
from gateway.encoder import Rows, SentenceModel
from gateway.routing.chats import COSINES, PROBABILITIES, Hysteresis, settle
from gateway.routing.gloss import Gloss
from gateway.routing.labelled import OUT_OF_SCOPE, Labelled, library_for, library_tasks
from gateway.routing.task_router import TaskRouter, read_text

CHATS = Path(__file__).with_name("routing_chats.jsonl")
NEVER = 2.0  # no probability and no cosine leads by so much
MARGINS = (0.0, 0.1, 0.2, 0.5)
SHORT_MARGINS = (0.2, 0.5, 0.8, 0.9, 0.95, NEVER)
COSINE_MARGINS = (0.0, 0.05, 0.1)
COSINE_SHORT_MARGINS = (0.1, 0.2, 0.3, NEVER)
MIN_SIMILARITY, NEAREST_COUNT = 0.35, 3  # fleet.yaml's defaults

Classify = Callable[[Sequence[str]], list[Classification]]
Figures = tuple[float, float]  # on the half that margins are chosen on, and on the other


@dataclass(frozen=True, slots=True)
class Chat:
    """User turns and the right task after each."""

    texts: tuple[str, ...]
    tasks: tuple[str, ...]


def main() -> None:
    """Print the table."""
    chats = read_chats(CHATS)
    library = library_for(library_tasks())
    model, gloss = SentenceModel(None), Gloss()
    click.echo(f"{len(chats)} conversations, {sum(len(one.texts) for one in chats)} user turns")
    click.echo("fitting a router on the library ...", err=True)
    router = TaskRouter.fit(library, model, gloss, with_library=False)
    click.echo("\nfitted router, probabilities")
    fitted = _by_probability(router)
    _report(chats, fitted, MARGINS, SHORT_MARGINS, PROBABILITIES)

    def rows(texts: Sequence[str]) -> Rows:
        return model.encode([read_text(text, gloss) for text in texts])

    click.echo("\nnearest examples, cosines")
    nearest = _by_cosine(library, rows)
    _report(chats, nearest, COSINE_MARGINS, COSINE_SHORT_MARGINS, COSINES)


def read_chats(path: Path) -> list[Chat]:
    """Lines of `{"turns": [{"text": ..., "task": ...}, ...]}`."""
    turns = [json.loads(line)["turns"] for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        Chat(tuple(turn["text"] for turn in one), tuple(turn["task"] for turn in one))
        for one in turns
    ]


def _report(
    chats: Sequence[Chat],
    classify: Classify,
    margins: Sequence[float],
    short_margins: Sequence[float],
    default: Hysteresis,
) -> None:
    """classify: texts, each as if it stood alone."""
    alone = [classify(one.texts) for one in chats]
    joined = [classify(_beginnings(one.texts)) for one in chats]
    click.echo(f"{'right task per turn':42} chosen on   reported")
    _line("the last turn alone", _figures(chats, [list(map(_task, one)) for one in alone]))
    _line("the whole conversation as one text", _figures(chats, _tasks(joined)))
    for margin in margins:
        for short in short_margins:
            rule = Hysteresis(margin, short)
            name = f"margin {margin:g}, of short turns {short:g}".replace(f" {NEVER:g}", " never")
            mark = "  <- default" if rule == default else ""
            _line(name, _figures(chats, _settled(chats, alone, rule)), mark)


def _settled(
    chats: Sequence[Chat], alone: Sequence[list[Classification]], rule: Hysteresis
) -> list[list[str]]:
    return [
        [
            _task(settle(chat.texts[:count], found[:count], rule).classification)
            for count in range(1, len(found) + 1)
        ]
        for chat, found in zip(chats, alone, strict=True)
    ]


def _tasks(found: Sequence[list[Classification]]) -> list[list[str]]:
    return [list(map(_task, one)) for one in found]


def _figures(chats: Sequence[Chat], told: Sequence[list[str]]) -> Figures:
    """Shares of right turns, of every other conversation and of the rest."""
    first, second = (
        np.mean(
            [
                right == found
                for chat, tasks in list(zip(chats, told, strict=True))[half::2]
                for right, found in zip(chat.tasks, tasks, strict=True)
            ]
        )
        for half in (0, 1)
    )
    return float(first), float(second)


def _line(name: str, figures: Figures, mark: str = "") -> None:
    click.echo(f"{name:42} {figures[0]:9.3f} {figures[1]:10.3f}{mark}")


def _task(found: Classification) -> str:
    return found.task if found.is_in_scope else OUT_OF_SCOPE


def _beginnings(texts: Sequence[str]) -> list[str]:
    return ["\n".join(texts[: count + 1]) for count in range(len(texts))]


def _by_probability(router: TaskRouter) -> Classify:
    tasks = router.head.tasks

    def classify(texts: Sequence[str]) -> list[Classification]:
        return [
            _classification(
                dict(zip(tasks, map(float, row), strict=True)),
                is_in_scope=router.head.decided(row).is_in_scope,
            )
            for row in router.probabilities(texts)
        ]

    return classify


def _by_cosine(examples: Sequence[Labelled], rows: Callable[[Sequence[str]], Rows]) -> Classify:
    """Out of scope is no task here, as in fleets without a fitted router."""
    tasks = sorted({one.task for one in examples} - {OUT_OF_SCOPE})
    known = {task: rows([one.text for one in examples if one.task == task]) for task in tasks}

    def classify(texts: Sequence[str]) -> list[Classification]:
        found_rows = rows(texts)
        cosines = {task: found_rows @ known[task].T for task in tasks}
        nearest = {
            task: np.sort(found, axis=1)[:, -NEAREST_COUNT:].mean(1)
            for task, found in cosines.items()
        }
        return [
            _classification(
                {task: float(nearest[task][place]) for task in tasks},
                is_in_scope=max(nearest[task][place] for task in tasks) >= MIN_SIMILARITY,
            )
            for place in range(len(texts))
        ]

    return classify


def _classification(scores: dict[str, float], *, is_in_scope: bool) -> Classification:
    listed = sorted(
        ((task, score) for task, score in scores.items() if task != OUT_OF_SCOPE),
        key=lambda one: (-one[1], one[0]),
    )
    return Classification(*listed[0], is_in_scope, tuple(listed))


if __name__ == "__main__":
    main()
