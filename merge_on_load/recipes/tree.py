"""The family tree of a model, a delta or a recipe: its parents, how they were merged, down to what
was trained.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from merge_on_load.errors import BadRecipe, NotACheckpoint
from merge_on_load.names import INDEX_NAME, MANIFEST_NAME, WEIGHTS_NAME, is_delta
from merge_on_load.recipes.lineage import LINEAGE_NAME, of_adapted, of_model, read_json

_BOX_HEIGHT, _ROW, _INDENT, _LETTER = 40, 56, 36, 7.3


@dataclass(frozen=True, slots=True)
class Person:
    """One model of a family. detail: how it was made, and what its child takes of it."""

    name: str
    detail: str
    parents: "tuple[Person, ...]" = ()


def family_of(path: Path) -> Person:
    """The family of a model directory, a delta, an adapter or a recipe.

    Raises BadRecipe, NotACheckpoint (nothing of these lies there), and what opening a recipe does.
    """
    path = Path(path)
    if path.is_file():
        from merge_on_load.recipes.merging import Merged  # here: it opens the models

        return _person({**Merged.open(path).lineage, "name": path.name})
    if is_delta(path):
        return _person(of_adapted(_told_base(path), path))
    if (path / LINEAGE_NAME).is_file():
        return _person(of_model(path, {}))
    if not any((path / name).is_file() for name in (WEIGHTS_NAME, INDEX_NAME)):
        raise NotACheckpoint("neither a model, a delta, an adapter nor a recipe", file=path)
    return _person(of_model(path, {}))


def to_text(person: Person) -> str:
    """A line for each member, children above their parents."""
    return "\n".join(_lines(person, "", ""))


def to_svg(person: Person) -> str:
    """The same as a picture: a box for each member, lines from child to parents."""
    rows = list(_rows(person, 0))
    width = max(_INDENT * depth + _box_width(one) for depth, _, one in rows) + 24
    height = _ROW * len(rows) + 16
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" '
        f'viewBox="0 0 {width:.0f} {height}" font-family="sans-serif" font-size="13">',
        f"<title>{escape(person.name)}</title>",
    ]
    for row, (_, child, _) in enumerate(rows):
        if child is not None:
            parts.append(_line(rows[child][0], child, row))
    for row, (depth, _, one) in enumerate(rows):
        parts.append(_box(depth, row, one))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _person(told: Mapping[str, Any], taken: str = "") -> Person:
    parents = told.get("parents", ())
    if not isinstance(parents, list | tuple):
        raise BadRecipe("a lineage's parents are a list", found=type(parents).__name__)
    made = [str(told[key]) for key in ("kind", "method") if told.get(key)]
    if told.get("kind") == "merge":
        made = [f"{told.get('method')}, seed {told.get('seed', 0)}"]
    detail = "; ".join([*([taken] if taken else []), *made])
    return Person(
        str(told.get("name") or "unnamed"),
        detail,
        tuple(_person(one.get("is", {}), _taken(one)) for one in parents),
    )


def _taken(parent: Mapping[str, Any]) -> str:
    """What a child takes of a parent: its role, layers and parameters."""
    told = ["base"] if parent.get("role") == "base" else []
    for one in parent.get("used", ()):
        if "layers" in one:
            told.append("layers {} to {}".format(one["layers"][0], one["layers"][1] - 1))
        told += [f"{name} {_short(value)}" for name, value in one.get("parameters", {}).items()]
    return ", ".join(told)


def _short(value: object) -> str:
    """A parameter in a few words."""
    if not isinstance(value, list):
        return str(value)
    if all(isinstance(one, dict) for one in value):
        each = (f"{one.get('filter', 'others')}: {_short(one.get('value'))}" for one in value)
        return "{" + ", ".join(each) + "}"
    return "[" + ", ".join(str(one) for one in value) + "]"


def _told_base(path: Path) -> dict[str, Any]:
    """What a delta or an adapter says of the model that it changes."""
    manifest = read_json(path / MANIFEST_NAME)
    base = manifest.get("base", {})
    name = base.get("name") if isinstance(base, dict) else None
    return {"kind": "checkpoint", "name": name or "its base"}


def _lines(person: Person, first: str, rest: str) -> Iterator[str]:
    yield f"{first}{person.name}" + (f"  ({person.detail})" if person.detail else "")
    for i, one in enumerate(person.parents):
        is_last = i == len(person.parents) - 1
        yield from _lines(
            one, rest + ("└─ " if is_last else "├─ "), rest + ("   " if is_last else "│  ")
        )


def _rows(
    person: Person, depth: int, child: int | None = None, number: int = 0
) -> Iterator[tuple[int, int | None, Person]]:
    """Depth, the child's row and the member, row by row."""
    yield depth, child, person
    row = number
    for one in person.parents:
        below = list(_rows(one, depth + 1, number, row + 1))
        yield from below
        row += len(below)


def _box_width(person: Person) -> float:
    return _LETTER * max(len(person.name), len(person.detail)) + 24


def _box(depth: int, row: int, person: Person) -> str:
    x, y = 12 + _INDENT * depth, 8 + _ROW * row
    return (
        f'<g><rect x="{x}" y="{y}" width="{_box_width(person):.0f}" height="{_BOX_HEIGHT}" rx="6" '
        f'fill="#f4f6fa" stroke="#4a5a78"/>'
        f'<text x="{x + 12}" y="{y + 17}" font-weight="bold">{escape(person.name)}</text>'
        f'<text x="{x + 12}" y="{y + 33}" fill="#4a5a78">{escape(person.detail)}</text></g>'
    )


def _line(depth: int, child: int, row: int) -> str:
    x = 12 + _INDENT * depth + _INDENT // 2
    top, level = 8 + _ROW * child + _BOX_HEIGHT, 8 + _ROW * row + _BOX_HEIGHT // 2
    return (
        f'<path d="M {x} {top} V {level} H {12 + _INDENT * (depth + 1)}" '
        f'fill="none" stroke="#4a5a78"/>'
    )
