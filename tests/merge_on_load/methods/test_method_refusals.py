"""Values out of range, and inputs that are not finite."""

import pytest
import torch

from merge_on_load.errors import BadRecipe, NonFinite
from merge_on_load.methods import METHODS, find_method
from merge_on_load.methods.method import BaseUse
from support.method_runs import Run

ONE = torch.ones(4, 6)


@pytest.mark.parametrize(
    ("method", "own", "overall", "told"),
    [
        ("linear", {}, {}, "weight is missing"),
        ("linear", {"weight": float("nan")}, {}, "weight is nan"),
        ("linear", {"weight": 0.0}, {}, "weight sums to 0"),
        ("task_arithmetic", {"weight": 0.0}, {"normalize": True}, "weight sums to 0"),
        ("task_arithmetic", {"weight": 1.0}, {"lambda": float("inf")}, "lambda is inf"),
        ("ties", {"weight": 1.0, "density": 1.5}, {}, "density is 1.5: not between 0 and 1"),
        ("dare_linear", {"weight": 1.0, "density": -0.1}, {}, "density is -0.1"),
        ("breadcrumbs", {"weight": 1.0, "gamma": 2.0}, {}, "gamma is 2.0"),
        ("della", {"weight": 1.0, "density": 0.5, "epsilon": 0.6}, {}, "epsilon is 0.6"),
        ("della", {"weight": 1.0, "density": 0.9, "epsilon": 0.2}, {}, "epsilon is 0.2"),
        ("sce", {}, {"select_topk": 2.0}, "select_topk is 2.0"),
        ("nearswap", {}, {"t": -1.0}, "t is -1.0"),
        ("nearswap", {}, {}, "t is missing"),
        ("nuslerp", {"weight": 0.0}, {}, "weight sums to 0"),
        ("karcher", {}, {"tol": -1.0}, "tol is -1.0"),
        ("ram", {}, {"epsilon": -1.0}, "epsilon is -1.0"),
    ],
)
def test_a_value_out_of_range_is_refused(
    method: str, own: dict[str, float], overall: dict[str, float], told: str
) -> None:
    count = METHODS[method].most or 2
    one = Run(method, ONE, [ONE] * count, [own] * count, overall)

    with pytest.raises(ValueError, match=told):
        one.merged()


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_what_is_not_finite_is_refused_by_name(method: str, bad: float, dtype: torch.dtype) -> None:
    found = METHODS[method]
    count = found.most or 3
    models = [torch.randn(30, 500).to(dtype) for _ in range(count)]
    models[-1][17, 3] = bad
    base = torch.randn(30, 500) if found.base is BaseUse.REQUIRED else None
    values = [{"weight": 0.0 if i == count - 1 and count > 1 else 1.0} for i in range(count)]
    overall = {"t": 0.5} if method in ("slerp", "nearswap") else {}

    with pytest.raises(NonFinite) as refused:
        Run(method, base, models, values, overall, tensor="t.weight").merged()

    assert refused.value.file == f"model{count - 1}/model.safetensors"
    assert refused.value.tensor == "t.weight"


def test_nan_passes_where_it_is_allowed() -> None:
    model = torch.tensor([1.0, float("nan"), float("inf")])

    merged = Run("linear", None, [model], [{"weight": 1.0}], allow_nan=True).merged()

    assert merged.isnan().tolist() == [False, True, False]
    assert float(merged[2]) == float("inf")


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_every_method_gets_through_what_is_allowed(method: str, bad: float) -> None:
    found = METHODS[method]
    count = found.most or 3
    models = [torch.randn(30, 50) for _ in range(count)]
    models[-1][17, 3] = bad
    base = torch.randn(30, 50) if found.base is BaseUse.REQUIRED else None
    overall = {"t": 0.5} if method in ("slerp", "nearswap") else {}
    values = [{"weight": 1.0, "density": 0.5}] * count

    Run(method, base, models, values, overall, allow_nan=True).merged()


def test_a_name_that_is_no_method_is_refused() -> None:
    with pytest.raises(BadRecipe, match="no such merge method"):
        find_method("tise")
