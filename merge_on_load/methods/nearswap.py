"""Nearswap."""

from typing import TYPE_CHECKING

import numpy as np

from merge_on_load.methods.blocks import Filling
from merge_on_load.methods.method import BaseUse, Method, Out, Parameter, PlainTask, Task
from merge_on_load.methods.values import number

if TYPE_CHECKING:
    import torch

T = Parameter("t", required=True)


def merge_nearswap(task: Task, out: Out) -> None:
    """Towards the model where it is near to the base (alchemonaut, QuartetAnemoi-70B-t0.0001).

    base + (x - base) * min(1, t / |x - base|): the difference, cut to magnitude t.
    """
    from merge_on_load.methods import elementwise

    t = np.float32(number(task.values, T, 0))
    filling = Filling(task, out)
    for begin, end, room in filling:
        elementwise.nearswap(filling.sources, t, begin, end, room, filling.is_finite)


def plain_nearswap(task: PlainTask) -> "torch.Tensor":
    """`merge_nearswap` in torch."""
    assert task.base is not None
    base, t = task.base.tensor, number(task.values, T, 0)
    return base + (task.models[0].tensor - base).clamp(-t, t)


NEARSWAP = Method("nearswap", merge_nearswap, plain_nearswap, (), (T,), BaseUse.REQUIRED, most=1)
