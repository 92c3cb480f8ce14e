"""Task vectors pruned by magnitude or at random, with or without election of signs: TIES, DARE,
DELLA, Breadcrumbs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from merge_on_load.methods import masks
from merge_on_load.methods.blocks import MASK_GROUP, Filling
from merge_on_load.methods.masks import Drawing
from merge_on_load.methods.method import BaseUse, Method, Out, Parameter, PlainTask, Task, Values
from merge_on_load.methods.selection import Ints, select
from merge_on_load.methods.settling import SettlingValues, plain_settle
from merge_on_load.methods.values import (
    DENSITY,
    INT8_MASK,
    LAMBDA,
    WEIGHT,
    is_set,
    normalize,
    number,
    rescale,
)

if TYPE_CHECKING:
    import torch

GAMMA = Parameter("gamma", default=0.01)

# element count, a model's values -> (outer, inner): the outer largest differences stay, less the
# inner largest.
Ranks = Callable[[int, Values], tuple[int, int]]


def _all(element_count: int, _: Values) -> tuple[int, int]:
    return element_count, 0


def _largest(element_count: int, values: Values) -> tuple[int, int]:
    """The `density` part, and at least one where that is not zero."""
    density = number(values, DENSITY, 0, 1)
    return max(int(density * element_count), int(density > 0)), 0


def _middle(element_count: int, values: Values) -> tuple[int, int]:
    """The `density` part, after the `gamma` part that is largest, or as much of it as there is."""
    kept = int(number(values, DENSITY, 0, 1) * element_count)
    largest = int(number(values, GAMMA, 0, 1) * element_count)
    largest = min(largest, element_count - kept)
    return largest + kept, largest


@dataclass(frozen=True, slots=True)
class Style:
    """What of a difference from the base stays: by rank, and, where there is a drawing, by chance.

    elects: at each element, only differences with the sign of their weighted sum count.
    """

    elects: bool
    normalize: Parameter
    rescale: Parameter
    ranks: Ranks = _all
    drawing: Drawing | None = None


def merge(task: Task, out: Out, style: Style) -> None:
    """base + lambda * the weighted sum of the models' differences from it, pruned.

    Under `rescale` what stays of a model's differences is multiplied so that their magnitudes have
    the sum that they had. Under `normalize` the sum is divided by the weights that took part.
    Raises ValueError where these sum to zero and no signs are elected.
    """
    from merge_on_load.methods import consensus

    chosen = SettlingValues.of(task, style.normalize, style.elects)
    filling = Filling(task, out, multiple=MASK_GROUP)
    count = task.element_count
    ranks = np.array([style.ranks(count, m.values) for m in task.models], np.int64).reshape(-1, 2)
    thresholds, quotas = select(ranks, count, partial(_sweep, filling, count))
    kept = masks.draw(task, filling, style.drawing)
    factors = np.ones(len(task.models), np.float32)
    if is_set(task.values, style.rescale):
        sums = np.zeros((len(task.models), 2))
        consensus.measure(
            filling.sources, count, thresholds, quotas.copy(), kept, sums, filling.is_finite
        )
        filling.check()
        factors = _factors(sums)
    for begin, end, room in filling:
        consensus.merge(
            filling.sources,
            thresholds,
            quotas,
            kept,
            factors,
            *chosen.arguments,
            begin,
            end,
            room,
            filling.is_finite,
        )


def _sweep(filling: Filling, element_count: int, prefixes: Ints, histograms: Ints) -> None:
    from merge_on_load.methods import consensus

    consensus.count_changes(filling.sources, element_count, prefixes, histograms, filling.is_finite)
    filling.check()


def _factors(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """sums: [models, 2], of magnitudes before and after pruning."""
    before, after = sums[:, 0], sums[:, 1]
    is_there = (before > 0) & (after > 0)
    with np.errstate(invalid="ignore"):  # where infinity was allowed
        return np.where(is_there, before / np.where(is_there, after, 1), 1).astype(np.float32)


def plain(task: PlainTask, style: Style) -> "torch.Tensor":
    """`merge` in torch."""
    import torch

    assert task.base is not None
    base = task.base.tensor
    changes = []
    for place, model in enumerate(task.models):
        change = model.tensor - base
        outer, inner = style.ranks(base.numel(), model.values)
        order = torch.sort(change.abs().flatten(), descending=True, stable=True).indices
        stays = torch.zeros_like(order, dtype=torch.bool)
        stays[order[inner:outer]] = True
        kept = torch.where(stays.reshape(base.shape), change, 0)
        if style.drawing is not None:
            kept = torch.where(masks.plain_draw(task, place, change, style.drawing), kept, 0)
        if is_set(task.values, style.rescale):
            sums = np.array([[float(one.abs().double().sum()) for one in (change, kept)]])
            kept = kept * float(_factors(sums)[0])
        changes.append(kept)
    return base + plain_settle(changes, SettlingValues.of(task, style.normalize, style.elects))


def _method(name: str, style: Style, *per_model: Parameter) -> Method:
    return Method(
        name,
        partial(merge, style=style),
        partial(plain, style=style),
        (WEIGHT, DENSITY, *per_model),
        (INT8_MASK, style.normalize, style.rescale, LAMBDA),
        BaseUse.REQUIRED,
    )


_MEAN, _SUM, _KEPT, _RESCALED = normalize(True), normalize(False), rescale(False), rescale(True)

# TIES: Yadav et al. 2023, arXiv:2306.01708. DARE: Yu et al. 2023, arXiv:2311.03099. Breadcrumbs:
# Davari and Belilovsky 2023, arXiv:2312.06795. DELLA: Deep et al. 2024, arXiv:2406.11617.
TIES = _method("ties", Style(True, _MEAN, _KEPT, _largest))
BREADCRUMBS = _method("breadcrumbs", Style(False, _SUM, _KEPT, _middle), GAMMA)
BREADCRUMBS_TIES = _method("breadcrumbs_ties", Style(True, _SUM, _KEPT, _middle), GAMMA)
DARE_TIES = _method("dare_ties", Style(True, _SUM, _RESCALED, drawing=masks.EVENLY))
DARE_LINEAR = _method("dare_linear", Style(False, _SUM, _RESCALED, drawing=masks.EVENLY))
DELLA = _method("della", Style(True, _MEAN, _RESCALED, drawing=masks.BY_RANK), masks.EPSILON)
DELLA_LINEAR = _method(
    "della_linear", Style(False, _SUM, _RESCALED, drawing=masks.BY_RANK), masks.EPSILON
)
