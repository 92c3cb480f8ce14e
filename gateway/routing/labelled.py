"""Labelled prompts: a user's own, and the project's library of usual tasks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
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
    for place, line in _lines(path):
        text, task = _strings(line, ("text", "task"), place)
        if not task:
            raise BadLabels(f"{place}: the task is empty")
        found.append(Labelled(text, task))
    if not found:
        raise BadLabels(f"{path}: no labelled prompts in it")
    return found


def read_texts(path: Path) -> list[str]:
    """Lines of `{"text": ...}`. Raises BadLabels, OSError."""
    return [_strings(line, ("text",), place)[0] for place, line in _lines(path)]


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """What is in each line, and where it is. JSON's strings may hold what else ends lines."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise BadLabels(f"{path}: not UTF-8 at byte {error.start}") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield f"{path}, line {number}", line


def _strings(line: str, keys: tuple[str, ...], place: str) -> list[str]:
    try:
        told = json.loads(line)
        found = [told[key] for key in keys]
    except (ValueError, TypeError, KeyError) as error:
        wanted = ", ".join(f'"{key}": ...' for key in keys)
        raise BadLabels(f"{place}: not {{{wanted}}}") from error
    if not all(isinstance(one, str) for one in found):
        raise BadLabels(f"{place}: {' and '.join(keys)} must be strings")
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
    return [one for task in sorted(wanted) for one in library_of(task)]


def library_of(task: str) -> list[Labelled]:
    """The library's prompts of one of its tasks."""
    listed = (_LIBRARY / f"{task}.txt").read_text().split(_SEPARATOR)
    return [Labelled(text.strip(), task) for text in listed if text.strip()]


def library_sample(count: int) -> list[str]:
    """So many prompts, spread over the library."""
    listed = [one.text for task in library_tasks() for one in library_of(task)]
    return listed[:: max(1, len(listed) // count)][:count]
