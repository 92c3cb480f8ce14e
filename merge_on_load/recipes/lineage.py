"""Where a merged model comes from, written beside its weights.

    {"format": "deltafleet.lineage", "version": 1, "kind": "merge", "name": ..., "digest": ...,
     "method": ..., "recipe": {...}, "seed": 0,
     "parents": [{"role": "base" | "model", "named": ..., "used": [{"layers": [first, last],
                  "parameters": {...}}], "is": {... of the parent}}]}

A parent that is itself of ours carries its own lineage along, so that one file tells the family
down to the models that were trained.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge_on_load.errors import BadRecipe
from merge_on_load.names import MANIFEST_NAME, MOST_DELTAS, located
from merge_on_load.recipes.document import Recipe
from merge_on_load.specs import TensorSpec

if TYPE_CHECKING:
    from merge_on_load.recipes.plan import Plan
    from merge_on_load.recipes.reading import AnyRecipe
    from merge_on_load.recipes.references import Reference

LINEAGE_NAME = "lineage.json"
FORMAT = "deltafleet.lineage"
VERSION = 1


def of_merge(plan: "Plan", seed: int) -> dict[str, Any]:
    """The lineage of a plan's result. digest: of the recipe, its seed and its parents."""
    recipe = plan.recipe
    told = recipe.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    parents = [
        {
            "role": "base" if one == recipe.base_model else "model",
            "named": str(one),
            "used": _uses(recipe, one),
            "is": dict(source.lineage),
        }
        for one, source in plan.sources.items()
    ]
    body = {"recipe": told, "seed": seed, "parents": parents}
    return {
        "format": FORMAT,
        "version": VERSION,
        "kind": "merge",
        "name": recipe.name,
        "method": recipe.merge_method,
        "digest": hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest(),
        **body,
    }


def _uses(recipe: "AnyRecipe", reference: "Reference") -> list[dict[str, Any]]:
    """Where a recipe lists a model, with its own parameters there."""
    if not isinstance(recipe, Recipe):
        experts = [i for i, one in enumerate(recipe.experts) if one.source_model == reference]
        shared = [one for one in recipe.shared_experts if one.source_model == reference]
        numbers = [{"parameters": {"expert": number}} for number in experts]
        return numbers + [{"parameters": {"shared expert": one.residual_scale}} for one in shared]
    whole = [
        {"parameters": one.parameters} for one in recipe.models or () if one.model == reference
    ]
    parts = [
        {"layers": list(one.layer_range), "parameters": one.parameters}
        for part in recipe.slices or ()
        for one in part.sources
        if one.model == reference
    ]
    return whole + parts


def of_model(path: Path, specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    """What a model directory says of itself; one that says nothing is where a family begins.

    Weights are not hashed, which takes longer than merging them.
    """
    told = read_json(path / LINEAGE_NAME)
    if told.get("format") == FORMAT:
        return {**told, "name": path.name}
    shapes = json.dumps(sorted((name, str(spec)) for name, spec in specs.items()))
    return {
        "format": FORMAT,
        "version": VERSION,
        "kind": "checkpoint",
        "name": path.name,
        "shapes": hashlib.sha256(shapes.encode()).hexdigest(),
    }


def read_json(file: Path) -> dict[str, Any]:
    """The object in a file; {} where there is none. Raises BadRecipe for what is no JSON object."""
    if not file.is_file():
        return {}
    try:
        told = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise BadRecipe(f"not JSON: {error}", file=file) from error
    if not isinstance(told, dict):
        raise BadRecipe("not a JSON object", file=file, found=type(told).__name__)
    return told


def of_adapted(model: Mapping[str, Any], adapter: Path, depth: int = MOST_DELTAS) -> dict[str, Any]:
    """What a delta or an adapter of a model is. model: the lineage of what it, or what it builds
    on, is applied to. depth: of how many deltas it is told.
    """
    told = read_json(adapter / MANIFEST_NAME)
    if isinstance(parent := told.get("parent"), dict) and depth > 1:
        found = located(adapter, str(parent.get("path")))
        if (found / MANIFEST_NAME).is_file():
            model = of_adapted(model, found, depth - 1)
        else:
            model = {"kind": "delta, not here", "name": found.name, "parents": [{"is": model}]}
    return {
        "format": FORMAT,
        "version": VERSION,
        "kind": "delta" if told else "lora",
        "name": adapter.name,
        "digest": told.get("digest"),
        "method": told.get("codec"),
        "parents": [{"role": "base", "is": dict(model)}],
    }
