"""The Karcher mean: the point of the sphere nearest to all models."""

import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from merge_on_load.methods import angles
from merge_on_load.methods.angles import Doubles
from merge_on_load.methods.method import Method, Out, Parameter, PlainTask, Task
from merge_on_load.methods.values import number

if TYPE_CHECKING:
    import torch

MAX_ITER = Parameter("max_iter", int, default=10)
TOL = Parameter("tol", default=1e-5)

_LEAST_SINE = 1e-7


def karcher_weights(grams: Doubles, max_iter: int, tol: float) -> Doubles:
    """[rows, models]: of the mean direction, times the mean norm. Tensors of zeros have a
    norm and no direction.
    """
    return np.array([_weights(gram, max_iter, tol) for gram in grams]).reshape(grams.shape[:2])


def _weights(gram: Doubles, max_iter: int, tol: float) -> Doubles:
    lengths = np.sqrt(np.diagonal(gram))
    is_there = lengths > 0
    if not is_there.any():
        return np.full(len(lengths), 1 / len(lengths))
    cosines = angles.cosines(gram[None])[0]
    mean = _start(is_there, cosines)
    alphas = is_there / is_there.sum()
    for _ in range(max_iter):
        dots = np.clip(cosines @ mean, -1, 1)
        # The unit vectors' logarithms at the mean: (u - (u . mean) mean) * angle / sin(angle). That
        # of the opposite vector has no direction: none is taken.
        turns = np.arccos(dots)
        sines = np.sin(turns)
        steps = alphas * np.where(sines > _LEAST_SINE, angles.ratio(turns, sines), 1)
        tangent = steps - (steps @ dots) * mean
        length = _length(tangent, cosines)
        if length < tol:
            break
        mean = np.cos(length) * mean + np.sin(length) / length * tangent
        mean = mean / _length(mean, cosines)
    found: Doubles = angles.ratio(mean, lengths) * lengths.mean()
    return found


def _start(is_there: npt.NDArray[np.bool_], cosines: Doubles) -> Doubles:
    """The unit vectors' mean direction; the first of them where they cancel."""
    mean: Doubles = is_there / is_there.sum()
    length = _length(mean, cosines)
    if length < _LEAST_SINE:
        mean, length = np.eye(len(mean))[int(np.argmax(is_there))], 1.0
    mean /= length
    return mean


def _length(combination: Doubles, cosines: Doubles) -> float:
    """Of the combination of the unit vectors."""
    return math.sqrt(max(0.0, float(combination @ cosines @ combination)))


def _karcher(task: Task | PlainTask) -> angles.Weights:
    max_iter, tol = number(task.values, MAX_ITER, 0), number(task.values, TOL, 0)
    return partial(karcher_weights, max_iter=int(max_iter), tol=tol)


def merge_karcher(task: Task, out: Out) -> None:
    """The directions' Karcher mean, times the mean of the norms (Karcher 1977; Wang et al. 2026,
    arXiv:2603.04972).

    Gradient descent on the sphere: at most `max_iter` steps, each the mean of the logarithms at
    the mean so far, until one is shorter than `tol`. Every mean is a weighted sum of the models,
    so that the steps are taken in weights, and the tensors are read twice.
    """
    angles.merge(task, out, _karcher(task), has_base=False)


def plain_karcher(task: PlainTask) -> "torch.Tensor":
    """`merge_karcher` in torch."""
    return angles.plain([model.tensor for model in task.models], None, _karcher(task))


KARCHER = Method("karcher", merge_karcher, plain_karcher, (), (MAX_ITER, TOL))
