"""Reinforced Agent Merging: RAM and RAM+."""

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from merge_on_load.methods.blocks import Filling
from merge_on_load.methods.method import BaseUse, Method, Out, Parameter, PlainTask, Task, Values
from merge_on_load.methods.values import number

if TYPE_CHECKING:
    import torch

EPSILON = Parameter("epsilon", default=1e-5)
R = Parameter("r", default=0.1)
ALPHA = Parameter("alpha", default=0.2)

Ints = npt.NDArray[np.int64]


def factors(unique: Ints, shared: Ints, values: Values) -> npt.NDArray[np.float32]:
    """float32[models]: 1 + r * min(shared / unique, alpha), 1 where nothing is unique."""
    r, alpha = number(values, R), number(values, ALPHA, 0)
    overlap = np.minimum(shared / np.maximum(unique, 1), alpha)
    return np.where(unique > 0, 1 + r * overlap, 1).astype(np.float32)


def merge(task: Task, out: Out, rescales: bool) -> None:
    """What one model alone changes is kept, what several change is averaged (arXiv:2601.13572).

    A change is a difference from the base of magnitude above `epsilon`. RAM+ multiplies what is
    model i's alone with 1 + r * min(shared[i] / unique[i], alpha), counted over the tensor.
    """
    from merge_on_load.methods import elementwise

    epsilon = np.float32(number(task.values, EPSILON, 0))
    filling = Filling(task, out)
    chosen = np.ones(len(task.models), np.float32)
    if rescales:
        unique, shared = np.zeros((2, len(task.models)), np.int64)
        elementwise.count_overlaps(
            filling.sources, task.element_count, epsilon, unique, shared, filling.is_finite
        )
        filling.check()
        chosen = factors(unique, shared, task.values)
    for begin, end, room in filling:
        elementwise.ram(filling.sources, epsilon, chosen, begin, end, room, filling.is_finite)


def plain(task: PlainTask, rescales: bool) -> "torch.Tensor":
    """`merge` in torch."""
    import torch

    assert task.base is not None
    base = task.base.tensor
    changes = torch.stack([model.tensor - base for model in task.models])
    is_active = changes.abs() > float(np.float32(number(task.values, EPSILON, 0)))
    count = is_active.sum(0)
    is_alone, is_shared = is_active & (count == 1), is_active & (count > 1)
    chosen = np.ones(len(changes), np.float32)
    if rescales:
        unique, shared = (
            one.reshape(len(changes), -1).sum(1).cpu().numpy() for one in (is_alone, is_shared)
        )
        chosen = factors(unique, shared, task.values)
    by = torch.from_numpy(chosen).to(base).reshape(-1, *[1] * base.dim())
    kept = torch.where(is_alone, changes * by, torch.where(is_shared, changes, 0))
    return base + kept.sum(0) / count.clamp(min=1)


def _method(name: str, rescales: bool, *overall: Parameter) -> Method:
    return Method(
        name,
        partial(merge, rescales=rescales),
        partial(plain, rescales=rescales),
        (),
        (EPSILON, *overall),
        BaseUse.REQUIRED,
    )


RAM = _method("ram", False)
RAMPLUS_TL = _method("ramplus_tl", True, R, ALPHA)
