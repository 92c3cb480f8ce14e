"""`merge` against `plain`, for every method: dtypes, shapes, blocks."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_on_load.methods import METHODS, blocks
from merge_on_load.methods.method import BaseUse
from support.method_runs import Run, Values, roundings_apart

NUMBERS: Values = {"weight": 0.7, "density": 0.6, "gamma": 0.1, "epsilon": 0.2}
OVERALL: dict[str, list[Values]] = {
    "linear": [{}, {"normalize": False}],
    "slerp": [{"t": 0.3}],
    "nuslerp": [
        {},
        {"nuslerp_flatten": False},
        {"nuslerp_flatten": False, "nuslerp_row_wise": True},
    ],
    "multislerp": [{}, {"normalize_weights": False}],
    "karcher": [{}, {"max_iter": 2}],
    "model_stock": [{}, {"filter_wise": True}],
    "sce": [{}, {"select_topk": 0.4}],
    "nearswap": [{"t": 0.005}],
    "ram": [{}, {"epsilon": 0.01}],
    "ramplus_tl": [{"epsilon": 0.008, "r": 0.5}],
}
SETTLED: list[Values] = [{}, {"normalize": True}, {"normalize": False, "lambda": 0.5}]

CASES = [
    pytest.param(name, overall, id=f"{name}-{i}")
    for name in METHODS
    for i, overall in enumerate(OVERALL.get(name, SETTLED if METHODS[name].per_model else [{}]))
]
SHAPES = [(), (0,), (1,), (37,), (4097,), (3, 5), (5, 2049), (260, 300), (0, 8), (2, 3, 40)]


def inputs(
    method: str, shape: tuple[int, ...], seed: int, dtypes: tuple[torch.dtype, ...]
) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
    """The base, where the method needs one, and models near to it, each of its own dtype."""
    found = METHODS[method]
    random = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=random)
    count = min(found.most or 3, max(found.least, 3))
    models = [
        base + torch.randn(shape, generator=random) * 0.02 * (torch.rand(shape) < 0.9)
        for _ in range(count)
    ]
    typed = [one.to(dtypes[i % len(dtypes)]) for i, one in enumerate([base, *models])]
    return typed[0] if found.base is BaseUse.REQUIRED else None, typed[1:]


def values(count: int) -> list[Values]:
    return [{**NUMBERS, "weight": 0.7 - 0.2 * i} for i in range(count)]


def run(
    method: str,
    overall: Values,
    shape: tuple[int, ...],
    seed: int = 0,
    dtypes: tuple[torch.dtype, ...] = (torch.float32,),
) -> Run:
    base, models = inputs(method, shape, seed, dtypes)
    return Run(method, base, models, values(len(models)), overall)


def assert_near(merged: torch.Tensor, plain: torch.Tensor) -> None:
    """Equal within some float32 roundings of the inputs, which are about 1. Arcee Fusion's and
    the selections' thresholds may fall to the other side for one element in a thousand.
    """
    off = (merged - plain).abs() > 2e-6
    assert off.sum() <= merged.numel() // 1000, off.sum()


@pytest.mark.parametrize(("method", "overall"), CASES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_compiled_method_agrees_with_the_plain_one(
    method: str, overall: Values, shape: tuple[int, ...]
) -> None:
    one = run(method, overall, shape)

    assert_near(one.merged(), one.plain())


@pytest.mark.parametrize(("method", "overall"), CASES)
@pytest.mark.parametrize("out", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_inputs_may_differ_in_dtype(method: str, overall: Values, out: torch.dtype) -> None:
    dtypes = (torch.bfloat16, torch.float16, torch.float32)
    one = run(method, overall, (70, 1000), dtypes=dtypes)

    merged, plain = one.merged(out), one.plain().to(out)

    is_off = (merged.float() - plain.float()).abs() > plain.float().abs() * torch.finfo(out).eps * 2
    is_off &= (merged.float() - plain.float()).abs() > 2e-6
    assert is_off.sum() <= merged.numel() // 1000


@pytest.mark.parametrize(("method", "overall"), CASES)
def test_the_size_of_blocks_does_not_show(
    method: str, overall: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = run(method, overall, (90, 777), dtypes=(torch.bfloat16,))
    expected = one.merged()

    for size in (1 << 10, 5000, 1 << 30):
        monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", size)
        assert torch.equal(one.merged(), expected)


WEIGHTED = [
    name
    for name, method in METHODS.items()
    if method.base is BaseUse.REQUIRED and any(p.name == "weight" for p in method.per_model)
]


@pytest.mark.parametrize("method", WEIGHTED)
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_weight_zero_returns_the_base_bit_for_bit(method: str, data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 1000))
    base, models = inputs(method, (3, 400), seed, (torch.bfloat16,))
    assert base is not None
    base.flatten()[::7] = -0.0
    nothing = [{**NUMBERS, "weight": 0.0}] * len(models)
    overall = {"normalize": False}

    merged = Run(method, base, models, nothing, overall).merged(torch.bfloat16)

    assert torch.equal(merged.view(torch.int16), base.view(torch.int16))


def test_passthrough_passes_every_finite_bit_pattern() -> None:
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)
    every = every[every.isfinite()]

    merged = Run("passthrough", None, [every]).merged(torch.bfloat16)

    assert torch.equal(merged.view(torch.int16), every.view(torch.int16))


def test_models_that_are_the_base_give_the_base() -> None:
    base = torch.randn(40, 50).bfloat16()
    for method in METHODS.values():
        count = method.most or 3
        own = base if method.base is BaseUse.REQUIRED else None
        overall = {"t": 0.4} if method.name in ("slerp", "nearswap") else {}
        one = Run(method.name, own, [base] * count, values(count), overall)
        merged = one.merged(torch.bfloat16)
        assert roundings_apart(merged, base, torch.bfloat16) <= 1, method.name


def test_importing_the_methods_imports_neither_torch_nor_numba() -> None:
    code = "import sys, merge_on_load.methods as m; print({'torch', 'numba'} & set(sys.modules))"

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "set()"
