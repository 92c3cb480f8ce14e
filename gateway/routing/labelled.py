"""Labelled prompts: a user's own, and the project's library of usual tasks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

OUT_OF_SCOPE = "out_of_scope"  # the task of what no model of the fleet is for

_LIBRARY = Path(__file__).parent / "library"
_SEPARATOR = "\n---\n"


class BadLabels(ValueError):
    """A file of labelled prompts that cannot be used."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A prompt and its task."""

    text: str
    task: str


def read_labelled(path: Path) -> list[Labelled]:
    """Lines of `{"text": ..., "task": ...}`; other keys are ignored, and so are empty lines.

    Raises BadLabels, naming file and line; OSError.
    """
    found = []
    try:
        lines = path.read_text().splitlines()
    except UnicodeDecodeError as error:
        raise BadLabels(f"{path}: not UTF-8 at byte {error.start}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            told = json.loads(line)
            text, task = told["text"], told["task"]
        except (ValueError, TypeError, KeyError) as error:
            raise BadLabels(f'{path}, line {number}: not {{"text": ..., "task": ...}}') from error
        if not isinstance(text, str) or not isinstance(task, str) or not task:
            raise BadLabels(f"{path}, line {number}: text and task are strings, the task not empty")
        found.append(Labelled(text, task))
    if not found:
        raise BadLabels(f"{path}: no labelled prompts in it")
    return found


def read_texts(path: Path) -> list[str]:
    """Lines of `{"text": ...}`. Raises BadLabels, OSError."""
    found = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
        except (ValueError, TypeError, KeyError) as error:
            raise BadLabels(f'{path}, line {number}: not {{"text": ...}}') from error
        if not isinstance(text, str):
            raise BadLabels(f"{path}, line {number}: text is a string")
        found.append(text)
    return found


def library_tasks() -> tuple[str, ...]:
    """The usual tasks that the library has prompts for."""
    return tuple(path.stem for path in sorted(_LIBRARY.glob("*.txt")))


def library_for(tasks: Sequence[str]) -> list[Labelled]:
    """The library's prompts for those of a fleet's tasks that have its names.

    Nothing where fewer than half have: such tasks divide the world in another way, and what is out
    of scope elsewhere may be what they are for.
    """
    in_scope = {task for task in tasks if task != OUT_OF_SCOPE}
    known = in_scope & set(library_tasks())
    if 2 * len(known) < len(in_scope) or not known:
        return []
    wanted = known | ({OUT_OF_SCOPE} & set(tasks) & set(library_tasks()))
    return [
        Labelled(text.strip(), task)
        for task in sorted(wanted)
        for text in (_LIBRARY / f"{task}.txt").read_text().split(_SEPARATOR)
        if text.strip()
    ]
