"""Each merge method against mergekit's, tensor by tensor. Needs tools/mergekit-env."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from conformance import tiny_llamas
from conformance.peer import failure, run_mergekit
from conformance.tiny_llamas import Tensors

from merge_on_load.methods import METHODS
from merge_on_load.methods.method import BaseUse
from support.method_runs import Run, Values

NAMES = ("a", "b", "c")


@dataclass(frozen=True)
class Case:
    """A recipe on the models a, b, c, as far as there are values, and the base."""

    method: str
    values: tuple[Values, ...]
    overall: Values = field(default_factory=dict)
    has_base: bool | None = None  # None: where the method needs one
    part_off: float = 0.0  # of the elements: a float32 threshold may fall to the other side of them

    @property
    def uses_base(self) -> bool:
        if self.has_base is None:
            return METHODS[self.method].base is BaseUse.REQUIRED
        return self.has_base

    def recipe(
        self, folder: Path, base: str = "base", names: tuple[str, ...] = NAMES
    ) -> dict[str, Any]:
        models = [
            {"model": str(folder / name), "parameters": dict(values)}
            for name, values in zip(names, self.values, strict=False)
        ]
        found: dict[str, Any] = {"merge_method": self.method, "models": models}
        if self.uses_base:
            found["base_model"] = str(folder / base)
        if self.method in ("slerp", "nearswap"):
            models.insert(0, {"model": str(folder / "base")})
        return found | {
            "parameters": dict(self.overall),
            "dtype": "float32",
            "out_dtype": "bfloat16",
        }


def _weights(*weights: float, **others: float) -> tuple[Values, ...]:
    return tuple({"weight": weight, **others} for weight in weights)


TWO, THREE = ({}, {}), ({}, {}, {})

CASES = {
    "linear": Case("linear", _weights(1, 2, 0.5)),
    "linear-sum": Case("linear", _weights(0.3, -0.2, 0.5), {"normalize": False}),
    "slerp": Case("slerp", ({},), {"t": 0.3}),
    "slerp-0": Case("slerp", ({},), {"t": 0}),
    "slerp-1": Case("slerp", ({},), {"t": 1}),
    "nuslerp": Case("nuslerp", _weights(1, 2)),
    "nuslerp-base": Case("nuslerp", _weights(1, 2), has_base=True),
    "nuslerp-rows": Case(
        "nuslerp", _weights(1, 2), {"nuslerp_flatten": False, "nuslerp_row_wise": True}
    ),
    "nuslerp-columns": Case("nuslerp", _weights(1, 2), {"nuslerp_flatten": False}),
    "nuslerp-columns-base": Case(
        "nuslerp", _weights(1, 2), {"nuslerp_flatten": False}, has_base=True
    ),
    "multislerp": Case("multislerp", _weights(1, 2, 0.5)),
    "multislerp-base": Case("multislerp", _weights(1, 2, 0.5), has_base=True),
    "multislerp-sum": Case("multislerp", _weights(1, 2, 0.5), {"normalize_weights": False}),
    "karcher": Case("karcher", THREE),
    "karcher-2": Case("karcher", TWO, {"max_iter": 3, "tol": 1e-9}),
    "task_arithmetic": Case("task_arithmetic", _weights(1, 0.5, -0.3)),
    "task_arithmetic-normalized": Case(
        "task_arithmetic", _weights(1, 0.5, 0.3), {"normalize": True, "lambda": 0.7}
    ),
    "ties": Case("ties", _weights(1, 0.5, 0.3, density=0.5)),
    "ties-all": Case("ties", _weights(1, 0.5, 0.3)),
    "ties-sum": Case(
        "ties", _weights(1, 0.5, 0.3, density=0.37), {"normalize": False, "lambda": 0.5}
    ),
    "ties-negative": Case("ties", _weights(1, -0.5, 0.3, density=0.5), {"normalize": False}),
    "breadcrumbs": Case("breadcrumbs", _weights(1, 0.5, 0.3, density=0.6, gamma=0.05)),
    "breadcrumbs-edge": Case("breadcrumbs", _weights(1, 0.5, density=0.9, gamma=0.2)),
    "breadcrumbs_ties": Case("breadcrumbs_ties", _weights(1, 0.5, 0.3, density=0.6, gamma=0.05)),
    "model_stock": Case("model_stock", THREE),
    "model_stock-rows": Case("model_stock", TWO, {"filter_wise": True}),
    "sce": Case("sce", THREE),
    "sce-selected": Case("sce", THREE, {"select_topk": 0.3}),
    "nearswap": Case("nearswap", ({},), {"t": 0.004}),
    "arcee_fusion": Case("arcee_fusion", ({},), part_off=0.002),
    "ram": Case("ram", THREE),
    "ram-epsilon": Case("ram", THREE, {"epsilon": 0.01}),
    "ramplus_tl": Case("ramplus_tl", THREE),
    "ramplus_tl-values": Case("ramplus_tl", THREE, {"epsilon": 0.004, "r": 0.5, "alpha": 0.9}),
    "passthrough": Case("passthrough", ({},)),
    "passthrough-scale": Case("passthrough", ({"scale": 0.37},)),
    "ties-rescaled": Case("ties", _weights(1, 0.5, 0.3, density=0.4), {"rescale": True}),
    "dare_ties-all": Case("dare_ties", _weights(1, 0.5, -0.3)),
    "dare_linear-all": Case("dare_linear", _weights(1, 0.5, -0.3), {"normalize": True}),
    "della-all": Case("della", _weights(1, 0.5, 0.3)),
}

# These run on a base of zeros, so that what stays and what it becomes are there to be seen.
RANDOM = {
    "dare_linear": Case("dare_linear", _weights(1, density=0.4)),
    "dare_linear-unscaled": Case("dare_linear", _weights(1, density=0.4), {"rescale": False}),
    "dare_ties": Case("dare_ties", _weights(1, density=0.4)),
    "della_linear": Case("della_linear", _weights(1, density=0.5, epsilon=0.3)),
    "della": Case("della", _weights(1, density=0.5, epsilon=0.3)),
    "della-unscaled": Case("della", _weights(1, density=0.5, epsilon=0.3), {"rescale": False}),
}


@dataclass(frozen=True)
class Merged:
    """The inputs, and mergekit's results."""

    base: Tensors
    models: tuple[Tensors, ...]
    folder: Path

    def result(self, name: str) -> Tensors:
        assert not failure(self.folder, name)
        return tiny_llamas.read(self.folder / name)


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Merged:
    folder = tmp_path_factory.mktemp("conformance")
    base = tiny_llamas.base_tensors(dtype=torch.float32)  # few differences are equal
    models = tuple(tiny_llamas.tuned_tensors(base, seed) for seed in (1, 2, 3))
    tiny_llamas.save(folder / "base", base)
    for name, model in zip(NAMES, models, strict=True):
        tiny_llamas.save(folder / name, model)
    for name, case in CASES.items():
        tiny_llamas.write_recipe(folder / f"{name}.yaml", case.recipe(folder))
    tiny_llamas.save(folder / "zeros", {name: torch.zeros(one.shape) for name, one in base.items()})
    tiny_llamas.save(folder / "ramps", {name: ramp(one.shape) for name, one in base.items()})
    for name, case in RANDOM.items():
        recipe = case.recipe(folder, "zeros", ("ramps",))
        tiny_llamas.write_recipe(folder / f"random-{name}.yaml", recipe | {"out_dtype": "float32"})
    run_mergekit(folder)
    return Merged(base, models, folder)


def ramp(shape: torch.Size) -> torch.Tensor:
    """Rows that rise from 1 to 2."""
    return (1 + torch.arange(shape[-1]) / shape[-1]).expand(shape).contiguous()


def count_off(merged: torch.Tensor, theirs: torch.Tensor) -> int:
    """Elements more than one bfloat16 rounding apart, or, where terms of about 0.05 cancelled, more
    than their float32 roundings.
    """
    first, second = merged.float(), theirs.float()
    greatest = torch.maximum(first.abs(), second.abs())
    return int(((first - second).abs() > torch.clamp(greatest * 2.0**-7, min=2e-8)).sum())


def ours(case: Case, merged: Merged, tensor: str) -> Run:
    models = [model[tensor] for model in merged.models[: len(case.values)]]
    base = merged.base[tensor] if case.uses_base else None
    return Run(case.method, base, models, case.values, case.overall, tensor=tensor)


@pytest.mark.parametrize("name", CASES)
def test_a_method_merges_as_mergekit_does(name: str, merged: Merged) -> None:
    case, theirs = CASES[name], merged.result(name)

    off = {
        tensor: count_off(ours(case, merged, tensor).merged(torch.bfloat16), theirs[tensor])
        for tensor in merged.base
    }

    for tensor, count in off.items():
        assert count <= case.part_off * merged.base[tensor].numel(), off


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("whose", ["ours", "mergekit's"])
def test_random_pruning_has_the_same_distribution(name: str, whose: str, merged: Merged) -> None:
    case = RANDOM[name]
    theirs = merged.result(f"random-{name}")
    stays, count = torch.zeros(tiny_llamas.HIDDEN), 0
    for tensor, shape in tiny_llamas.shapes().items():
        change = ramp(torch.Size(shape))
        run = Run(
            case.method, torch.zeros(shape), [change], case.values, case.overall, tensor=tensor
        )
        found = run.merged() if whose == "ours" else theirs[tensor]
        kept = found != 0
        factor = 1.0
        if case.overall.get("rescale", True):
            factor = float(change.sum() / change[kept].sum())  # what stays has the sum of all
        assert torch.allclose(found[kept], change[kept] * factor, rtol=1e-5)
        if shape[-1] == tiny_llamas.HIDDEN:
            stays += kept.reshape(-1, shape[-1]).sum(0)
            count += kept.numel() // shape[-1]
    _check_shares(stays / count, case, count)


def _check_shares(stays: torch.Tensor, case: Case, count: int) -> None:
    """stays: float32[HIDDEN], for each rank in a row the part of the rows in which it stays."""
    density, epsilon = (float(case.values[0].get(key, 0) or 0) for key in ("density", "epsilon"))
    expected = torch.linspace(density - epsilon, density + epsilon, len(stays))
    deviation = (expected * (1 - expected) / count).sqrt()
    assert ((stays - expected).abs() < 5 * deviation).all()
    assert abs(float((stays - expected).mean())) < 5 * float(deviation.mean()) / len(stays) ** 0.5
