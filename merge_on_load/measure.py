"""How far a rebuilt model is from the tuned one, relative to how far that is from the base."""

import math
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import torch

from merge_on_load.errors import NonFinite
from merge_on_load.floats import Rows, row_blocks, subtract
from merge_on_load.threads import parallel_map


@dataclass
class ErrorSums:
    """Sums of squares per codec: of rebuilt - tuned, and of tuned - base."""

    _error: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _change: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(
        self, codec: str, name: str, base: torch.Tensor, tuned: torch.Tensor, rebuilt: torch.Tensor
    ) -> None:
        """Raises NonFinite when the rebuilt tensor overflowed its dtype."""
        error = squared_distance(rebuilt, tuned)
        if not math.isfinite(error):
            raise NonFinite("the rebuilt tensor overflows", tensor=name, found=str(tuned.dtype))
        self._error[codec] += error
        self._change[codec] += squared_distance(tuned, base)

    def relative_errors(self) -> dict[str, float]:
        """||W' - W|| / ||W - B|| per codec and, over all lossy tensors, under "lossy"."""
        ratios = {codec: _ratio(self._error[codec], self._change[codec]) for codec in self._error}
        if ratios:
            ratios["lossy"] = _ratio(sum(self._error.values()), sum(self._change.values()))
        return dict(sorted(ratios.items()))


def squared_distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """Sum of squared differences of two float tensors of one shape, summed in float64."""
    left, right = Rows(first), Rows(second)

    def of_block(block: slice) -> float:
        difference = subtract(left.read(block), right.read(block))
        return float(np.square(difference, dtype=np.float64).sum())

    # Added in order of the blocks, so that threads do not change the last digits.
    return sum(parallel_map(of_block, row_blocks(left.row_count, left.width)))


def _ratio(error: float, change: float) -> float:
    return math.sqrt(error / change) if change else 0.0
