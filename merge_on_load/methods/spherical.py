"""Interpolation on the sphere: slerp, nuslerp, multislerp."""

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from merge_on_load.methods import angles
from merge_on_load.methods.angles import Doubles
from merge_on_load.methods.blocks import column_height, row_width
from merge_on_load.methods.method import BaseUse, Method, Out, Parameter, PlainTask, Task
from merge_on_load.methods.values import WEIGHT, is_set, nonzero_sum, number, share

if TYPE_CHECKING:
    import torch

T = Parameter("t", required=True)
FLATTEN = Parameter("nuslerp_flatten", bool, default=True)
ROW_WISE = Parameter("nuslerp_row_wise", bool, default=False)
NORMALIZE_WEIGHTS = Parameter("normalize_weights", bool, default=True)
EPS = Parameter("eps", default=1e-8)

_STRAIGHT = 0.9995  # slerp: cosines beyond it, of either sign, are interpolated along the chord
_CANCELLED = 1e-7  # multislerp: what is left of directions that cancel, as far as float32 can tell
_COLINEAR = 1e-6  # nuslerp: so is what has a smaller sine


def slerp_weights(grams: Doubles, t: float, least_sine: float) -> Doubles:
    """[rows, 2]: sin((1 - t) * a) / sin(a) and sin(t * a) / sin(a), a being the angle; 1 - t and t
    where the sine is no greater than least_sine.
    """
    cosine = angles.cosines(grams)[:, 0, 1]
    angle = np.arccos(cosine)
    sine = np.sin(angle)
    is_curved = sine > least_sine
    sine = np.where(is_curved, sine, 1.0)
    first = np.where(is_curved, np.sin((1 - t) * angle) / sine, 1 - t)
    second = np.where(is_curved, np.sin(t * angle) / sine, t)
    return np.stack([first, second], 1)


def merge_slerp(task: Task, out: Out) -> None:
    """The base turned towards the model by the part t of the angle (Shoemake 1985).

    The angle is that of the flattened tensors; the weights go to the tensors as they are, so that
    norms are interpolated too.
    """
    t = number(task.values, T)
    angles.merge(task, out, _slerp(t), has_base=False)


def plain_slerp(task: PlainTask) -> "torch.Tensor":
    """`merge_slerp` in torch."""
    assert task.base is not None
    both = [task.base.tensor, task.models[0].tensor]
    return angles.plain(both, None, _slerp(number(task.values, T)))


def _slerp(t: float) -> angles.Weights:
    return partial(slerp_weights, t=t, least_sine=float(np.sqrt(1 - _STRAIGHT**2)))


def _nuslerp(task: Task | PlainTask) -> angles.Weights:
    t = share([number(model.values, WEIGHT) for model in task.models])[1]
    return partial(slerp_weights, t=t, least_sine=_COLINEAR)


def merge_nuslerp(task: Task, out: Out) -> None:
    """slerp of two models by their weights' shares; with a base, of their differences from it.

    Of the flattened tensors, or without `nuslerp_flatten` of each vector along the last axis, and
    with `nuslerp_row_wise` of each along the first: see ../DIFFERENCES.md.
    """
    weights, has_base = _nuslerp(task), task.base is not None
    if is_set(task.values, FLATTEN):
        angles.merge(task, out, weights, has_base=has_base)
    elif is_set(task.values, ROW_WISE) and len(task.shape) > 1:
        rows, columns = column_height(task.shape)
        angles.merge_columns(task, out, weights, has_base=has_base, rows=rows, columns=columns)
    else:
        angles.merge(task, out, weights, has_base=has_base, width=row_width(task.shape))


def plain_nuslerp(task: PlainTask) -> "torch.Tensor":
    """`merge_nuslerp` in torch."""
    weights = _nuslerp(task)
    base = None if task.base is None else task.base.tensor
    both = [model.tensor for model in task.models]
    shape = tuple(both[0].shape)
    if is_set(task.values, FLATTEN):
        return angles.plain(both, base, weights)
    if not is_set(task.values, ROW_WISE) or len(shape) < 2:
        return angles.plain(both, base, weights, row_width(shape))
    rows, columns = column_height(shape)
    turned = [one.reshape(rows, columns).T for one in both]
    turned_base = None if base is None else base.reshape(rows, columns).T
    return angles.plain(turned, turned_base, weights, max(1, rows)).T.reshape(shape)


def multislerp_weights(grams: Doubles, shares: Doubles, eps: float) -> Doubles:
    """[rows, models]: of the mean direction, times the mean norm.

    The weighted mean of the unit vectors, u = sum of w[i] * x[i] / |x[i]|, is stretched to the
    weighted mean of the norms. The directions' parts tangent to u sum to zero, so that the step
    along the tangent that barycentric interpolation would take from there has no length. Where the
    directions cancel, the weights are the shares: the mean of the tensors themselves.
    """
    lengths = angles.norms(grams)
    units = angles.ratio(shares[None, :], lengths)
    mean = np.sqrt(np.maximum(np.einsum("ri,rij,rj->r", units, grams, units), 0))
    is_there = mean > max(eps, _CANCELLED)
    scales = lengths @ shares / np.where(is_there, mean, 1)
    return np.where(is_there[:, None], units * scales[:, None], shares[None, :])


def _multislerp(task: Task | PlainTask) -> angles.Weights:
    weights = [number(model.values, WEIGHT) for model in task.models]
    nonzero_sum(weights)
    if is_set(task.values, NORMALIZE_WEIGHTS):
        weights = share(weights)
    eps = number(task.values, EPS, 0)
    return partial(multislerp_weights, shares=np.array(weights), eps=eps)


def merge_multislerp(task: Task, out: Out) -> None:
    """The normalised weighted mean of directions, times the weighted mean of norms.

    Barycentric interpolation on the sphere (after Buss and Fillmore 2001). With a base, of the
    models' differences from it.
    """
    angles.merge(task, out, _multislerp(task), has_base=task.base is not None)


def plain_multislerp(task: PlainTask) -> "torch.Tensor":
    """`merge_multislerp` in torch."""
    base = None if task.base is None else task.base.tensor
    return angles.plain([model.tensor for model in task.models], base, _multislerp(task))


SLERP = Method("slerp", merge_slerp, plain_slerp, (), (T,), BaseUse.REQUIRED, most=1)
NUSLERP = Method(
    "nuslerp",
    merge_nuslerp,
    plain_nuslerp,
    (WEIGHT,),
    (FLATTEN, ROW_WISE),
    BaseUse.OPTIONAL,
    least=2,
    most=2,
)
MULTISLERP = Method(
    "multislerp",
    merge_multislerp,
    plain_multislerp,
    (WEIGHT,),
    (NORMALIZE_WEIGHTS, EPS),
    BaseUse.OPTIONAL,
    least=2,
)
