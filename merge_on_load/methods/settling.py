"""How pruned task vectors become one: weights, election of signs, normalisation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from merge_on_load.methods.method import Parameter, PlainTask, Task
from merge_on_load.methods.values import LAMBDA, WEIGHT, is_set, nonzero_sum, number

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class SettlingValues:
    """weights: float32[models]. elects: only differences with the sign of the weighted sum count,
    element by element. normalizes: these are divided by the sum of their weights. scale: what the
    sum is multiplied with; where no signs are elected, normalisation is in it.
    """

    weights: npt.NDArray[np.float32]
    elects: bool
    normalizes: bool
    scale: float

    @classmethod
    def of(cls, task: Task | PlainTask, normalized: Parameter, elects: bool) -> Self:
        """Raises ValueError for weights that sum to zero and are to be divided by."""
        weights = [number(model.values, WEIGHT) for model in task.models]
        scale = number(task.values, LAMBDA)
        normalizes = is_set(task.values, normalized)
        if normalizes and not elects:
            scale /= nonzero_sum(weights)
        return cls(np.array(weights, np.float32), elects, normalizes, scale)

    @property
    def arguments(self) -> tuple[Any, ...]:
        """As `consensus.settle` takes them."""
        return self.weights, self.elects, self.normalizes, np.float32(self.scale)


def plain_settle(
    changes: "Sequence[torch.Tensor]",
    chosen: SettlingValues,
    votes_of: npt.NDArray[np.float32] | None = None,
) -> "torch.Tensor":
    """`consensus.settle` in torch. votes_of: chosen.weights where None."""
    import torch

    stacked = torch.stack(list(changes))

    def along_models(numbers: npt.NDArray[np.float32]) -> torch.Tensor:
        return torch.from_numpy(numbers).to(stacked).reshape(-1, *[1] * (stacked.dim() - 1))

    weights = along_models(chosen.weights)
    weighted = stacked * weights
    if not chosen.elects:
        return weighted.sum(0) * chosen.scale
    votes = (stacked * along_models(chosen.weights if votes_of is None else votes_of)).sum(0)
    agrees = (weighted != 0) & ((weighted > 0) == (votes >= 0))
    total = (weighted * agrees).sum(0)
    if chosen.normalizes:
        divisor = (weights * agrees).sum(0)
        total = total / torch.where(divisor.abs() < 1e-8, 1, divisor)
    return total * chosen.scale
