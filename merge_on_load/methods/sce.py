"""SCE: select, calculate, erase."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from merge_on_load.methods.blocks import Filling
from merge_on_load.methods.method import BaseUse, Method, Out, Parameter, PlainTask, Task
from merge_on_load.methods.selection import Ints, Sweep, count_upper, select
from merge_on_load.methods.settling import SettlingValues, plain_settle
from merge_on_load.methods.values import INT8_MASK, number

if TYPE_CHECKING:
    import torch

SELECT_TOPK = Parameter("select_topk", default=1.0)

_LEAST_VARIANCE = 2.0**-133  # where the second bin of the first histogram begins


def merge_sce(task: Task, out: Out) -> None:
    """Weights from the differences themselves (Wan et al. 2024, arXiv:2408.07990).

    Select: of the positions where the models' differences from the base vary, the `select_topk`
    part where they vary most; 1 selects all. Calculate: each model's weight, its share of the
    selected differences' squares.
    Erase: what has not the sign of the sum. base + the weighted mean of the rest.
    """
    from merge_on_load.methods import variance

    filling = Filling(task, out)
    count = task.element_count

    def sweep(prefixes: Ints, histograms: Ints) -> None:
        variance.count_variances(filling.sources, count, prefixes, histograms, filling.is_finite)
        filling.check()

    threshold, quotas = _select(number(task.values, SELECT_TOPK, 0, 1), count, sweep)
    squares = np.zeros(len(task.models))
    variance.add_squares(
        filling.sources, count, threshold, quotas.copy(), squares, filling.is_finite
    )
    filling.check()
    weights = _weights(squares)
    for begin, end, room in filling:
        variance.merge(
            filling.sources, threshold, quotas, weights, begin, end, room, filling.is_finite
        )


def _select(part: float, count: int, sweep: Sweep) -> tuple[int, Ints]:
    """The threshold of variances and the quota at it; 0, which takes all, for a part of 1."""
    if part == 1:
        return 0, np.zeros(1, np.int64)
    upper = count_upper(1, sweep)
    varying = count - int(upper[0, 0, 0])
    thresholds, quotas = select(np.array([[int(part * varying)]]), count, sweep, upper)
    return int(thresholds[0, 0]), quotas[0]


def _weights(squares: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    total = squares.sum()
    with np.errstate(invalid="ignore"):  # where infinity was allowed
        return (squares / total if total > 0 else np.ones(len(squares))).astype(np.float32)


def plain_sce(task: PlainTask) -> "torch.Tensor":
    """`merge_sce` in torch."""
    import torch

    assert task.base is not None
    base = task.base.tensor
    changes = torch.stack([model.tensor - base for model in task.models])
    off = changes - changes.mean(0)
    variances = (off * off).sum(0).flatten()
    part = number(task.values, SELECT_TOPK, 0, 1)
    if part < 1:
        varying = int((variances >= _LEAST_VARIANCE).sum())
        order = torch.sort(variances, descending=True, stable=True).indices
        is_kept = torch.zeros_like(order, dtype=torch.bool)
        is_kept[order[: int(part * varying)]] = True
        changes = torch.where(is_kept.reshape(base.shape), changes, 0)
    squares = (changes.double() ** 2).reshape(len(changes), -1).sum(1).cpu().numpy()
    chosen = SettlingValues(_weights(squares), elects=True, normalizes=True, scale=1.0)
    return base + plain_settle(list(changes), chosen, np.ones(len(squares), np.float32))


SCE = Method("sce", merge_sce, plain_sce, (), (INT8_MASK, SELECT_TOPK), BaseUse.REQUIRED, least=2)
