"""Which differences from the base stay by chance: DARE's draw and DELLA's."""

from enum import Enum
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from merge_on_load.methods.blocks import MASK_GROUP, Filling, row_width
from merge_on_load.methods.method import Parameter, PlainTask, Task, Values
from merge_on_load.methods.random_numbers import (
    binary_fraction,
    plain_chances,
    plain_uniform,
    round_keys,
)
from merge_on_load.methods.values import DENSITY, number

if TYPE_CHECKING:
    import torch

EPSILON = Parameter("epsilon", default=0.15)

Masks = npt.NDArray[np.uint8]


class Drawing(Enum):
    """EVENLY: each element stays with probability `density` (DARE). BY_RANK: with one that rises
    with the rank of its magnitude in its row, from density - epsilon for the smallest to density +
    epsilon for the largest; ties rank in the tensor's order; all stay at a density of 1 (DELLA).
    """

    EVENLY = "evenly"
    BY_RANK = "by rank"


EVENLY, BY_RANK = Drawing.EVENLY, Drawing.BY_RANK


def _probabilities(values: Values, drawing: Drawing) -> tuple[np.float32, np.float32]:
    """Of a row's smallest difference, and from there to its largest. Raises ValueError."""
    density = number(values, DENSITY, 0, 1)
    if drawing is EVENLY or density == 1:
        return np.float32(density), np.float32(0)
    epsilon = number(values, EPSILON, 0)
    if density - epsilon <= 0 or density + epsilon >= 1:
        raise ValueError(
            f"epsilon is {epsilon}: density - epsilon and density + epsilon must lie between 0 and "
            f"1, and density is {density}"
        )
    return np.float32(density - epsilon), np.float32(2 * epsilon)


def draw(task: Task, filling: Filling, drawing: Drawing | None) -> Masks:
    """[models, bytes], in the layout of `pruning.apply`; of no bytes where there is no drawing."""
    from merge_on_load.methods import pruning, ranking

    count = task.element_count
    byte_count = -(-count // MASK_GROUP) * (MASK_GROUP // 8)
    masks = np.zeros((len(task.models), 0 if drawing is None else byte_count), np.uint8)
    if drawing is None:
        return masks
    for place, model in enumerate(task.models):
        low, span = _probabilities(model.values, drawing)
        keys = round_keys(task.seed, task.tensor, place)
        mask = masks[place]
        if low >= 1:
            mask[:] = 0xFF
        elif drawing is EVENLY:
            n, bits = binary_fraction(float(low))
            if bits:
                pruning.draw_evenly(keys, n, bits, mask)
        else:
            width = row_width(task.shape)
            step = _step(span, width)
            both = filling.sources[[0, place + 1]]
            flags = filling.is_finite[[0, place + 1]]
            ranking.draw_all(both, width, count // width, keys, low, step, mask, flags)
            filling.is_finite[[0, place + 1]] = flags
            filling.check()
    return masks


def _step(span: np.float32, width: int) -> np.float32:
    """From one rank's probability to the next's."""
    return np.float32(span / np.float32(max(1, width - 1)))


def plain_draw(
    task: PlainTask, place: int, change: "torch.Tensor", drawing: Drawing
) -> "torch.Tensor":
    """`draw` in torch: true where the element of model `place` stays."""
    import torch

    low, span = _probabilities(task.models[place].values, drawing)
    keys = round_keys(task.seed, task.tensor, place)
    if drawing is EVENLY or low >= 1:
        return plain_chances(keys, float(low), change)
    numbers = plain_uniform(keys, change)
    width = row_width(tuple(change.shape))
    order = torch.sort(change.abs().reshape(-1, width), stable=True).indices
    places = torch.arange(width, device=change.device).expand_as(order)
    ranks = torch.empty_like(order).scatter_(1, order, places).reshape(change.shape)
    return numbers < ranks.float() * float(_step(span, width)) + float(low)
