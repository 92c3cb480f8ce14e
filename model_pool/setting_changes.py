"""What differs between two readings of fleet.yaml. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from model_pool.settings import Section


def changed_settings(before: Section, after: Section) -> list[str]:
    """The places that differ, such as routing.min_quality; workers by their names."""
    one, other = (dict(_places(made.model_dump())) for made in (before, after))
    return sorted(place for place in one.keys() | other if one.get(place) != other.get(place))


def needing_restart(places: Iterable[str], live: Iterable[str]) -> list[str]:
    """Those that are neither named in `live` nor below one that is; * there is any one name."""
    patterns = [*live]
    return [
        place
        for place in places
        if not any(fnmatchcase(place, one) or fnmatchcase(place, f"{one}.*") for one in patterns)
    ]


def _places(value: object, place: str = "") -> Iterator[tuple[str, object]]:
    """Every leaf with its place. A list of what has names is taken by these."""
    if isinstance(value, list | tuple) and all(isinstance(one, dict) for one in value):
        value = {str(one.get("name", number)): one for number, one in enumerate(value)}
    if not isinstance(value, dict) or not value:
        if value not in ({}, None, ()):
            yield place, value
        return
    for key, one in value.items():
        yield from _places(one, f"{place}.{key}" if place else str(key))
