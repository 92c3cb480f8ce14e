"""What the fleet's models were made from, as a graph. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from deltafleet.v1 import fleet_pb2
from model_pool.settings import BASE_MODEL

RECIPE = "recipe"
# A lineage that is told deeper is cut: it is somebody's file.
DEEPEST = 16


@dataclass(frozen=True, slots=True)
class Kin:
    """A parent and what was made from it. how: the codec, or the recipe's method."""

    parent: str
    child: str
    how: str


def family(models: Sequence[fleet_pb2.Model], name_of: Mapping[str, str]) -> list[Kin]:
    """The bonds among the models, and to what they were made from that is not of the fleet.

    A delta's or adapter's parent is the base, which it is added to, or the delta that its lineage
    names. A recipe's parents are what its lineage names. name_of: a file's or directory's name →
    the model of the fleet that it is.
    """
    found: dict[tuple[str, str], Kin] = {}
    for model in models:
        if model.name == BASE_MODEL:
            continue
        kin = list(_of_lineage(_read(model.lineage), model.name, name_of, DEEPEST))
        if not kin and model.codec not in ("", RECIPE):
            kin = [Kin(BASE_MODEL, model.name, model.codec)]
        for one in kin:
            if one.parent != one.child:
                found.setdefault((one.parent, one.child), one)
    return list(found.values())


def _read(lineage: str) -> object:
    try:
        return json.loads(lineage)
    except (ValueError, RecursionError):
        return None


def _of_lineage(told: object, child: str, name_of: Mapping[str, str], depth: int) -> Iterator[Kin]:
    parents = told.get("parents") if isinstance(told, dict) else None
    if not isinstance(told, dict) or not isinstance(parents, list) or not depth:
        return
    how = str(told.get("method") or told.get("kind") or "")
    for one in parents:
        parent = one.get("is") if isinstance(one, dict) else None
        if not isinstance(parent, dict):
            continue
        file = str(parent.get("name") or one.get("named") or "unnamed")
        name = name_of.get(file, file)
        yield Kin(name, child, how)
        if file not in name_of:  # a model of the fleet tells its own parents
            yield from _of_lineage(parent, name, name_of, depth - 1)
