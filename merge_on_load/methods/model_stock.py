"""Model Stock."""

from typing import TYPE_CHECKING

import numpy as np

from merge_on_load.methods import angles
from merge_on_load.methods.angles import Doubles
from merge_on_load.methods.blocks import row_width
from merge_on_load.methods.method import BaseUse, Method, Out, Parameter, PlainTask, Task
from merge_on_load.methods.values import is_set

if TYPE_CHECKING:
    import torch

FILTER_WISE = Parameter("filter_wise", bool, default=False)


def model_stock_weights(grams: Doubles) -> Doubles:
    """[rows, models]: t / n each, with t = n * c / (1 + (n - 1) * c), c being the mean cosine
    between two models' differences from the base.
    """
    count = grams.shape[1]
    cosines = angles.cosines(grams)
    pairs = np.triu_indices(count, 1)
    mean = cosines[:, pairs[0], pairs[1]].mean(1)
    t = angles.ratio(count * mean, 1 + (count - 1) * mean)
    return np.repeat(t[:, None] / count, count, 1)


def merge_model_stock(task: Task, out: Out) -> None:
    """Between the base and the models' mean, as near as their angles say (Jang et al. 2024,
    arXiv:2403.19522).

    t * mean of x[i] + (1 - t) * base, t from all of the tensor, or row by row (`filter_wise`).
    """
    width = row_width(task.shape) if is_set(task.values, FILTER_WISE) else None
    angles.merge(task, out, model_stock_weights, has_base=True, width=width)


def plain_model_stock(task: PlainTask) -> "torch.Tensor":
    """`merge_model_stock` in torch."""
    assert task.base is not None
    shape = tuple(task.base.tensor.shape)
    width = row_width(shape) if is_set(task.values, FILTER_WISE) else None
    tensors = [model.tensor for model in task.models]
    return angles.plain(tensors, task.base.tensor, model_stock_weights, width)


MODEL_STOCK = Method(
    "model_stock",
    merge_model_stock,
    plain_model_stock,
    (),
    (FILTER_WISE,),
    BaseUse.REQUIRED,
    least=2,
)
