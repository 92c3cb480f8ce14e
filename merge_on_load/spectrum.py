"""How much of each weight matrix is signal: which modules are worth training.

Hartford et al. 2024, "Spectrum: Targeted Training on Signal to Noise Ratio", arXiv:2406.06623: a
random matrix has no singular value beyond the Marchenko-Pastur threshold, so that those beyond are
taken for signal, and the others for noise.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import yaml

from merge_on_load.checkpoint import Checkpoint
from merge_on_load.codecs.layout import is_embedding
from merge_on_load.floats import FLOAT32_DTYPES, Float32, Rows
from merge_on_load.progress import Progress, silent
from merge_on_load.specs import row_count_and_width

_IQR_OF_NORMAL = 1.349  # interquartile range of the normal distribution, in standard deviations
_LAYER = re.compile(r"\.\d+\.")


@dataclass(frozen=True)
class Signal:
    """One matrix. ratio: sum of its singular values beyond the threshold over that of the others,
    over the largest one; infinite where all are beyond.
    """

    name: str
    ratio: float

    @property
    def module(self) -> str:
        """Without ".weight"."""
        return self.name.removesuffix(".weight")

    @property
    def kind(self) -> str:
        """What the same module of every layer is called: such as mlp.down_proj."""
        return _LAYER.split(self.module)[-1]


def signals(model: Checkpoint, progress: Progress | None = None) -> list[Signal]:
    """Of every matrix within a layer, in the checkpoint's order. Memory: one tensor as float32.

    progress: called with done and total bytes.
    """
    names = [
        name
        for name in model.names
        if len(model.spec(name).shape) == 2
        and model.spec(name).dtype in FLOAT32_DTYPES
        and _LAYER.search(name)
        and not is_embedding(name)
    ]
    total_bytes = sum(model.spec(name).size_bytes for name in names)
    found, done_bytes = [], 0
    for name in names:
        rows = Rows(model.read(name))
        found.append(Signal(name, signal_to_noise(rows.read(slice(0, rows.row_count)))))
        done_bytes += model.spec(name).size_bytes
        (progress or silent)(done_bytes, total_bytes)
    return found


def signal_to_noise(matrix: Float32) -> float:
    """matrix: [rows, width]. See `Signal`. 0 where nothing is beyond the threshold."""
    values = np.linalg.svd(matrix, compute_uv=False)
    if not values.size or values[0] == 0:
        return 0.0
    smaller, larger = sorted(row_count_and_width(matrix.shape))
    deviation = np.subtract(*np.percentile(values, [75, 25])) / _IQR_OF_NORMAL
    threshold = deviation * (1 + np.sqrt(smaller / larger))
    signal, noise = values[values > threshold].sum(), values[values <= threshold].sum()
    if noise == 0:
        return float("inf")
    return float(signal / noise / values[0])


def to_train(found: Iterable[Signal], share: float) -> list[Signal]:
    """Of each kind of module the given share, 0 to 1, at least one, those of the most signal."""
    kinds: dict[str, list[Signal]] = defaultdict(list)
    for one in found:
        kinds[one.kind].append(one)
    chosen = []
    for kind in sorted(kinds):
        best = sorted(kinds[kind], key=lambda one: -one.ratio)
        chosen += best[: max(1, round(share * len(best)))]
    return chosen


def to_yaml(chosen: Sequence[Signal]) -> str:
    """The list as Spectrum writes it: patterns of parameters that training leaves unfrozen."""
    patterns = ["^lm_head.weight$", "^model.embed_tokens.weight$"]
    document = {"unfrozen_parameters": [*patterns, *(one.module for one in chosen)]}
    return yaml.safe_dump(document, sort_keys=False)
