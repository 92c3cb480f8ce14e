"""Whole recipes on models of several architectures: what we write against what mergekit writes.

Both compute in float32 and write bfloat16, so that what is compared is the merge and one rounding.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conformance.peer import failure, run_mergekit

from merge_on_load.recipes import merge
from support.many_architectures import tensors, write

# Of a tensor, where a threshold is drawn through scores that mergekit computes in float32.
ALLOWED_COUNTS = {"arcee_fusion": 2}

# mergekit 0.1.5 asks GPT-NeoX for buffers that transformers saves no more.
ARCHITECTURES = ("llama", "mistral", "qwen2-tied", "qwen3", "gemma2", "phi3", "mpt")
# It leaves `layer_types` as long as before, which the config of these then refuses.
WITHOUT_STACKS = ("qwen2-tied", "qwen3", "gemma2")
# Of an architecture that it has no list of, it takes what follows the layers from the first slice.
OF_THE_FIRST_SLICE = {"stack": "transformer.norm_f.weight", "levels": "transformer.norm_f.weight"}
Document = dict[str, Any]


def over_base(method: str, overall: Document | None = None, **own: Any) -> Document:
    models = [{"model": name, "parameters": dict(own)} for name in ("a", "b")]
    return {
        "merge_method": method,
        "base_model": "base",
        "models": models,
        "parameters": dict(overall or {}),
    }


def of_two(method: str, **overall: Any) -> Document:
    return {
        "merge_method": method,
        "base_model": "base",
        "models": [{"model": "base"}, {"model": "a"}],
        "parameters": overall,
    }


def without_base(method: str, *weights: float, **overall: Any) -> Document:
    models = [
        {"model": name, "parameters": {"weight": weight}}
        for name, weight in zip(("base", "a", "b"), weights, strict=False)
    ]
    return {"merge_method": method, "models": models, "parameters": overall}


# Numbers of mergekit's examples/gradient-slerp.yml, ties.yml and orcamini-platy-44layer.yml.
GRADIENT = [
    {"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]},
    {"filter": "mlp", "value": [1, 0.5, 0.7, 0.3, 0]},
    {"value": 0.5},
]
TIES = {
    "merge_method": "ties",
    "base_model": "base",
    "models": [
        {"model": "a", "parameters": {"density": [1, 0.7, 0.1], "weight": 1.0}},
        {
            "model": "b",
            "parameters": {
                "density": 0.33,
                "weight": [{"filter": "mlp", "value": 0.5}, {"value": [0, 0.3, 0.7, 1]}],
            },
        },
    ],
    "parameters": {"normalize": True, "int8_mask": True},
}
STACK = {
    "merge_method": "passthrough",
    "slices": [
        {"sources": [{"model": "a", "layer_range": [0, 3]}]},
        {
            "sources": [
                {
                    "model": "b",
                    "layer_range": [1, 4],
                    "parameters": {"scale": [{"filter": "proj", "value": 0.5}, {"value": 1.0}]},
                }
            ]
        },
    ],
}
LEVELS = {
    "merge_method": "linear",
    "parameters": {"weight": 1.0},
    "slices": [
        {
            "sources": [
                {"model": "a", "layer_range": [0, 3], "parameters": {"weight": [0, 1]}},
                {"model": "b", "layer_range": [1, 4]},
            ],
            "parameters": {"weight": [{"filter": "mlp", "value": 0.25}]},
        },
        {
            "sources": [
                {"model": "a", "layer_range": [3, 4]},
                {"model": "b", "layer_range": [3, 4], "parameters": {"weight": [2, 5]}},
            ]
        },
    ],
}
DOCUMENTS: dict[str, Document] = {
    "linear": without_base("linear", 0.2, 0.5, 0.9),
    "linear-sum": without_base("linear", 0.2, 0.5, 0.9, normalize=False),
    "slerp": of_two("slerp", t=0.3),
    "slerp-gradient": of_two("slerp", t=GRADIENT),
    "nuslerp": without_base("nuslerp", 0.4, 0.7),
    "multislerp": without_base("multislerp", 0.4, 0.7, 0.2),
    "karcher": without_base("karcher"),
    "task_arithmetic": over_base("task_arithmetic", {"lambda": 0.8}, weight=0.6),
    "ties": TIES,
    "breadcrumbs": over_base("breadcrumbs", weight=0.5, density=0.7, gamma=0.02),
    "breadcrumbs_ties": over_base("breadcrumbs_ties", weight=0.5, density=0.7, gamma=0.02),
    "model_stock": over_base("model_stock"),
    "sce": over_base("sce", {"select_topk": 0.4}),
    "nearswap": of_two("nearswap", t=0.004),
    "arcee_fusion": of_two("arcee_fusion"),
    "ram": over_base("ram"),
    "ramplus_tl": over_base("ramplus_tl"),
    "stack": STACK,
    "levels": LEVELS,
}
DOCUMENTS["karcher"]["models"] = [{"model": name} for name in ("base", "a", "b")]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def theirs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a base, two models, every recipe and what mergekit made of it."""
    home = tmp_path_factory.mktemp(request.param)
    for seed, name in enumerate(("base", "a", "b")):
        write(home / name, request.param, seed)
    for name, document in DOCUMENTS.items():
        if changes_layer_count(name) and request.param in WITHOUT_STACKS:
            continue
        told = {**document, "dtype": "float32", "out_dtype": "bfloat16"}
        (home / f"{name}.yaml").write_text(yaml.safe_dump(told))
    run_mergekit(home)
    return home


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_recipe_makes_what_mergekit_makes(theirs: Path, name: str, tmp_path: Path) -> None:
    if not (theirs / f"{name}.yaml").exists():
        pytest.skip("mergekit cannot")
    assert not failure(theirs, name)
    merge(theirs / f"{name}.yaml", tmp_path / "ours")

    expected, found = tensors(theirs / name), tensors(tmp_path / "ours")
    assert found.keys() == expected.keys()
    expected.pop(OF_THE_FIRST_SLICE.get(name, ""), None)
    off = {tensor: count_off(found[tensor], expected[tensor]) for tensor in expected}
    allowed = ALLOWED_COUNTS.get(DOCUMENTS[name]["merge_method"], 0)
    assert not {tensor: count for tensor, count in off.items() if count > allowed}


def changes_layer_count(name: str) -> bool:
    return DOCUMENTS[name] is STACK


def count_off(found: torch.Tensor, expected: torch.Tensor) -> int:
    """Elements more than one bfloat16 rounding apart, or more than float32's where terms cancel."""
    assert found.dtype == expected.dtype == torch.bfloat16
    first, second = found.float(), expected.float()
    allowed = (torch.maximum(first.abs(), second.abs()) * 2.0**-7).clamp(min=2e-7)
    return int(((first - second).abs() > allowed).sum())
