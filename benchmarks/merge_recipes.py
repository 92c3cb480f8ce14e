"""One recipe for each method, over the three models that `merge_models` makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Recipe:
    """document: as YAML. goal: how many times faster than mergekit."""

    document: Mapping[str, Any]
    goal: float


def _models(*names: str, **parameters: Any) -> list[dict[str, Any]]:
    return [{"model": name, "parameters": dict(parameters)} for name in names]


def _over_base(
    method: str, goal: float, overall: Mapping[str, Any] | None = None, **own: Any
) -> Recipe:
    """Two models' differences from the base."""
    return Recipe(
        {
            "merge_method": method,
            "base_model": "base",
            "models": _models("one", "two", **own),
            "parameters": dict(overall or {}),
            "dtype": "bfloat16",
        },
        goal,
    )


def _of_all(method: str, goal: float, **own: Any) -> Recipe:
    models = _models("base", "one", "two", **own)
    return Recipe({"merge_method": method, "models": models, "dtype": "bfloat16"}, goal)


def _of_two(method: str, goal: float, overall: Mapping[str, Any]) -> Recipe:
    """The base and one model."""
    return Recipe(
        {
            "merge_method": method,
            "base_model": "base",
            "models": [{"model": "base"}, {"model": "one"}],
            "parameters": dict(overall),
            "dtype": "bfloat16",
        },
        goal,
    )


_STACK = Recipe(
    {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [{"model": "one", "layer_range": [0, 11]}]},
            {"sources": [{"model": "two", "layer_range": [11, 22]}]},
        ],
        "dtype": "bfloat16",
    },
    2,
)
_NUSLERP = Recipe(
    {
        "merge_method": "nuslerp",
        "models": [*_models("one", weight=0.4), *_models("two", weight=0.6)],
        "dtype": "bfloat16",
    },
    2,
)

RECIPES: dict[str, Recipe] = {
    "linear": _of_all("linear", 5, weight=0.3),
    "task_arithmetic": _over_base("task_arithmetic", 5, weight=0.5),
    "model_stock": _over_base("model_stock", 5),
    "slerp": _of_two("slerp", 8, {"t": 0.4}),
    "ties": _over_base("ties", 15, weight=0.5, density=0.5),
    "dare_linear": _over_base("dare_linear", 15, weight=0.5, density=0.6),
    "dare_ties": _over_base("dare_ties", 15, weight=0.5, density=0.6),
    "della": _over_base("della", 15, weight=0.5, density=0.5, epsilon=0.1),
    "della_linear": _over_base("della_linear", 15, weight=0.5, density=0.5, epsilon=0.1),
    "passthrough": _STACK,
    "breadcrumbs": _over_base("breadcrumbs", 2, weight=0.5, density=0.8, gamma=0.01),
    "breadcrumbs_ties": _over_base("breadcrumbs_ties", 2, weight=0.5, density=0.8, gamma=0.01),
    "sce": _over_base("sce", 2, {"select_topk": 0.5}),
    "nuslerp": _NUSLERP,
    "multislerp": _of_all("multislerp", 2, weight=0.3),
    "karcher": _of_all("karcher", 2),
    "nearswap": _of_two("nearswap", 2, {"t": 0.001}),
    "arcee_fusion": _of_two("arcee_fusion", 2, {}),
    "ram": _over_base("ram", 2),
    "ramplus_tl": _over_base("ramplus_tl", 2),
}
