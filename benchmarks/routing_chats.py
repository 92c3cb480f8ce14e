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

from gateway.classifier import Classification, classified
from gateway.routing.chats import Hysteresis, settle
from gateway.routing.encoder_files import kept
from gateway.routing.gloss import Gloss
from gateway.routing.labelled import OUT_OF_SCOPE, library_of, library_tasks
from gateway.routing.onnx_encoder import OnnxEncoder
from gateway.routing.task_router import TaskRouter, static_of

CHATS = Path(__file__).with_name("routing_chats.jsonl")
NEVER = 2.0  # no probability leads by so much
MARGINS = (0.0, 0.2, 0.5)
SHORT_MARGINS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, NEVER)

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
    library = [one for task in library_tasks() for one in library_of(task)]
    place = kept(None)
    encoder, static = OnnxEncoder(place), static_of(place)
    click.echo(f"{len(chats)} conversations, {sum(len(one.texts) for one in chats)} user turns")
    click.echo("fitting a router on the library ...", err=True)
    router = TaskRouter.fit(library, encoder, static, Gloss(), with_library=False)

    def classify(texts: Sequence[str]) -> list[Classification]:
        return [classified(one) for one in router.decide_all(texts, encoder)]

    _report(chats, classify)


def read_chats(path: Path) -> list[Chat]:
    """Lines of `{"turns": [{"text": ..., "task": ...}, ...]}`."""
    turns = [json.loads(line)["turns"] for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        Chat(tuple(turn["text"] for turn in one), tuple(turn["task"] for turn in one))
        for one in turns
    ]


def _report(chats: Sequence[Chat], classify: Classify) -> None:
    """classify: texts, each as if it stood alone."""
    alone = [classify(one.texts) for one in chats]
    joined = [classify(_beginnings(one.texts)) for one in chats]
    click.echo(f"{'right task per turn':42} chosen on   reported")
    _line("the last turn alone", _figures(chats, [list(map(_task, one)) for one in alone]))
    _line("the whole conversation as one text", _figures(chats, _tasks(joined)))
    for margin in MARGINS:
        for short in SHORT_MARGINS:
            rule = Hysteresis(margin, short)
            name = f"margin {margin:g}, of short turns {short:g}".replace(f" {NEVER:g}", " never")
            mark = "  <- default" if rule == Hysteresis() else ""
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


if __name__ == "__main__":
    main()
