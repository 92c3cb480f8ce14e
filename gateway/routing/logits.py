"""What logits say. Pure numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def softmax(logits: Floats) -> Floats:
    """Along the last axis."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True), np.float32)


def energy(logits: Floats) -> Floats:
    """logsumexp along the last axis: the less, the stranger a prompt (Liu et al. 2020,
    arXiv:2010.03759; there with the opposite sign)."""
    greatest = logits.max(-1)
    found = greatest + np.log(np.exp(logits - greatest[..., None]).sum(-1))
    return np.asarray(found, np.float32)
