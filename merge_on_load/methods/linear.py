"""Weighted means and sums, and single tensors passed on."""

from typing import TYPE_CHECKING

import numpy as np

from merge_on_load.methods.blocks import Filling
from merge_on_load.methods.method import (
    BaseUse,
    Method,
    Out,
    Parameter,
    PlainTask,
    Task,
    Values,
)
from merge_on_load.methods.values import (
    DENSITY,
    INT8_MASK,
    LAMBDA,
    WEIGHT,
    is_set,
    nonzero_sum,
    normalize,
    number,
    rescale,
)

if TYPE_CHECKING:
    import torch

SCALE = Parameter("scale")
_MEAN = normalize(True)
_SUM = normalize(False)


def weighted_sum(
    task: Task, out: Out, weights: list[float], scale: float, *, has_base: bool
) -> None:
    """scale * sum of weights[i] * models[i]; with a base, of their differences from it, added to
    it. Where that is zero the base passes bit for bit.
    """
    from merge_on_load.methods import sums

    filling = Filling(task, out)
    row = np.array([weights], np.float32)
    factor = np.float32(scale)
    width = max(1, task.element_count)
    for begin, end, room in filling:
        sums.weigh(
            filling.sources, has_base, row, width, factor, begin, end, room, filling.is_finite
        )


def _scale(values: Values, weights: list[float], normalized: Parameter, by: float = 1.0) -> float:
    return by / nonzero_sum(weights) if is_set(values, normalized) else by


def _weights(task: Task | PlainTask) -> list[float]:
    return [number(model.values, WEIGHT) for model in task.models]


def merge_linear(task: Task, out: Out) -> None:
    """The weighted mean, or sum (model soups: Wortsman et al. 2022, arXiv:2203.05482).

    sum of w[i] * x[i], divided by the sum of w[i] under `normalize`.
    """
    weights = _weights(task)
    weighted_sum(task, out, weights, _scale(task.values, weights, _MEAN), has_base=False)


def plain_linear(task: PlainTask) -> "torch.Tensor":
    """`merge_linear` in torch."""
    weights = _weights(task)
    total = task.models[0].tensor * weights[0]
    for weight, model in zip(weights[1:], task.models[1:], strict=True):
        total = total + weight * model.tensor
    return total * _scale(task.values, weights, _MEAN)


def merge_task_arithmetic(task: Task, out: Out) -> None:
    """Weighted task vectors, added to the base (Ilharco et al. 2023, arXiv:2212.04089).

    base + lambda * sum of w[i] * (x[i] - base), the sum divided by that of w[i] under `normalize`.
    """
    weights = _weights(task)
    scale = _scale(task.values, weights, _SUM, number(task.values, LAMBDA))
    weighted_sum(task, out, weights, scale, has_base=True)


def plain_task_arithmetic(task: PlainTask) -> "torch.Tensor":
    """`merge_task_arithmetic` in torch."""
    assert task.base is not None
    base, weights = task.base.tensor, _weights(task)
    total = base * 0
    for weight, model in zip(weights, task.models, strict=True):
        total = total + weight * (model.tensor - base)
    return base + total * _scale(task.values, weights, _SUM, number(task.values, LAMBDA))


def _factor(values: Values) -> float:
    return 1.0 if values.get(SCALE.name) is None else number(values, SCALE)


def merge_passthrough(task: Task, out: Out) -> None:
    """One model's tensor as it is, times `scale` where that is given."""
    weighted_sum(task, out, [1.0], _factor(task.models[0].values), has_base=False)


def plain_passthrough(task: PlainTask) -> "torch.Tensor":
    """`merge_passthrough` in torch."""
    return task.models[0].tensor * _factor(task.models[0].values)


LINEAR = Method("linear", merge_linear, plain_linear, (WEIGHT,), (_MEAN,))
TASK_ARITHMETIC = Method(
    "task_arithmetic",
    merge_task_arithmetic,
    plain_task_arithmetic,
    (WEIGHT, DENSITY),  # mergekit takes density and rescale too; nothing is pruned
    (INT8_MASK, _SUM, rescale(False), LAMBDA),
    BaseUse.REQUIRED,
)
PASSTHROUGH = Method("passthrough", merge_passthrough, plain_passthrough, (SCALE,), most=1)
