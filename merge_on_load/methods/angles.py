"""Merges whose weights depend on the tensors' norms and the angles between them.

All that such a method needs to know of the tensors is their Gram matrix, the scalar products of
each with each: one sweep finds it, a second makes the weighted sum.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from merge_on_load.methods.blocks import Filling
from merge_on_load.methods.method import Out, Task

if TYPE_CHECKING:
    import torch

Doubles = npt.NDArray[np.float64]
Weights = Callable[[Doubles], Doubles]  # Gram matrices [rows, models, models] -> [rows, models]


def merge(
    task: Task, out: Out, weights: Weights, *, has_base: bool, width: int | None = None
) -> None:
    """The weighted sum of the inputs, each row of `width` with weights of its own, or the whole
    tensor with one. With a base: of the models' differences from it, added to it.
    """
    from merge_on_load.methods import sums

    filling = Filling(task, out, multiple=width or 1)
    one = np.float32(1)
    if width is None:
        whole = max(1, task.element_count)
        found = _gram(filling, has_base, whole, 0, task.element_count)
        filling.check()
        chosen = _float32(weights, found)
        for begin, end, room in filling:
            sums.weigh(
                filling.sources, has_base, chosen, whole, one, begin, end, room, filling.is_finite
            )
        return
    for begin, end, room in filling:
        found = _gram(filling, has_base, width, begin, end)
        filling.check()
        chosen = _float32(weights, found)
        sums.weigh(
            filling.sources, has_base, chosen, width, one, begin, end, room, filling.is_finite
        )


def _float32(weights: Weights, grams: Doubles) -> npt.NDArray[np.float32]:
    """Without a warning where infinity was allowed: its weights are NaN."""
    with np.errstate(invalid="ignore"):
        return weights(grams).astype(np.float32)


def _gram(filling: Filling, has_base: bool, width: int, begin: int, end: int) -> Doubles:
    from merge_on_load.methods import sums

    count = len(filling.sources) - has_base
    found = np.zeros(((end - begin) // width, count, count))
    sums.gram(filling.sources, has_base, width, begin, end, found, filling.is_finite)
    return found


def merge_columns(
    task: Task, out: Out, weights: Weights, *, has_base: bool, rows: int, columns: int
) -> None:
    """As `merge`, each column with weights of its own."""
    from merge_on_load.methods import sums

    filling = Filling(task, out)
    count = len(filling.sources) - has_base
    lower = np.zeros((count, count, columns))
    sums.gram_of_columns(filling.sources, has_base, rows, columns, lower, filling.is_finite)
    filling.check()
    both = (
        np.maximum.outer(range(count), range(count)),
        np.minimum.outer(range(count), range(count)),
    )
    chosen = np.ascontiguousarray(_float32(weights, np.moveaxis(lower[both], 2, 0)).T)
    for begin, end, room in filling:
        sums.weigh_columns(filling.sources, has_base, chosen, begin, end, room, filling.is_finite)


def plain(
    tensors: "Sequence[torch.Tensor]",
    base: "torch.Tensor | None",
    weights: Weights,
    width: int | None = None,
) -> "torch.Tensor":
    """`merge` in torch."""
    import torch

    changes = torch.stack([one if base is None else one - base for one in tensors])
    rows = changes.reshape(len(tensors), -1, width or max(1, tensors[0].numel()))
    exact = rows.double()
    grams = torch.einsum("irw,jrw->rij", exact, exact)
    chosen = torch.from_numpy(weights(grams.cpu().numpy())).to(rows)
    total = (chosen.T[:, :, None] * rows).sum(0).reshape(tensors[0].shape)
    return total if base is None else base + total


def norms(grams: Doubles) -> Doubles:
    """[rows, models]: each model's Euclidean norm."""
    squares: Doubles = np.diagonal(grams, axis1=1, axis2=2)
    return np.sqrt(squares)


def cosines(grams: Doubles) -> Doubles:
    """[rows, models, models], within [-1, 1]; 0 where a norm is zero."""
    lengths = norms(grams)
    products = lengths[:, :, None] * lengths[:, None, :]
    return np.clip(np.divide(grams, products, out=np.zeros_like(grams), where=products > 0), -1, 1)


def ratio(over: Any, under: Doubles) -> Doubles:
    """over / under, and 0 where under is 0."""
    over = np.broadcast_to(np.asarray(over, np.float64), under.shape)
    found: Doubles = np.divide(over, under, out=np.zeros(under.shape), where=under != 0)
    return found
