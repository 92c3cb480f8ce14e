"""Arcee Fusion."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from merge_on_load.methods.blocks import Filling, row_width
from merge_on_load.methods.method import BaseUse, Method, Out, PlainTask, Task
from merge_on_load.methods.selection import Ints, select

if TYPE_CHECKING:
    import torch

_QUARTILES = (0.25, 0.5, 0.75)


def merge_arcee_fusion(task: Task, out: Out) -> None:
    """The base, with the model's elements where they matter most (Arcee, "MergeKit v0.1", 2025).

    An element's score is the magnitude of its difference from the base times the Kullback-Leibler
    divergence of its row's softmax from the base's. Taken are the scores above the median + 1.5
    times the distance between the quartiles. Rows lie along the last axis.
    """
    from merge_on_load.methods import divergence

    width, count = row_width(task.shape), task.element_count
    filling = Filling(task, out)
    divergences = np.zeros(count // width, np.float32)
    divergence.row_divergences(filling.sources, width, divergences, filling.is_finite)
    filling.check()

    def sweep(prefixes: Ints, histograms: Ints) -> None:
        divergence.count_scores(filling.sources, width, divergences, count, prefixes, histograms)

    threshold = _threshold(count, sweep) if count else 0.0
    for begin, end, room in filling:
        divergence.fuse(
            filling.sources, width, divergences, np.float32(threshold), begin, end, room
        )


def _threshold(count: int, sweep: Callable[[Ints, Ints], None]) -> np.float32:
    """From the quartiles: each the score at the place, rounded down."""
    from_top = np.array([[count - int(quartile * (count - 1)) for quartile in _QUARTILES]])
    found, _ = select(from_top, count + 1, sweep)  # "all" is no rank here
    first, median, third = found.astype(np.int32).view(np.float32)[0]
    return np.float32(median + 1.5 * (third - first))


def plain_arcee_fusion(task: PlainTask) -> "torch.Tensor":
    """`merge_arcee_fusion` in torch."""
    import torch

    assert task.base is not None
    base = task.base.tensor
    if not base.numel():
        return base.clone()
    width = row_width(tuple(base.shape))
    before, after = base.reshape(-1, width), task.models[0].tensor.reshape(-1, width)
    p, q = (torch.log_softmax(one.double(), 1) for one in (after, before))
    divergences = (p.exp() * (p - q)).sum(1, keepdim=True).clamp(min=0).float()
    scores = (after - before).abs() * divergences
    ordered = scores.flatten().sort().values  # torch.quantile takes no more than 2**24 numbers
    first, median, third = (ordered[int(quartile * (len(ordered) - 1))] for quartile in _QUARTILES)
    is_taken = scores > median + 1.5 * (third - first)
    return torch.where(is_taken, after, before).reshape(base.shape)


ARCEE_FUSION = Method(
    "arcee_fusion", merge_arcee_fusion, plain_arcee_fusion, base=BaseUse.REQUIRED, most=1
)
