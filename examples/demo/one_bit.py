"""Training that keeps the delta to the base at one sign a weight and one scale a row.

This is what the codec `onebit` stores (BitDelta, Liu et al. 2024, arXiv:2402.10193). BitDelta
rounds after training; a model this small loses too much by that, so here the forward pass already
sees the rounded delta, and the gradient passes straight through the rounding (Bengio et al. 2013,
arXiv:1308.3432).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.utils import parametrize


class OneBitDelta(nn.Module):
    """Maps a free weight to base + scale * sign(weight - base), all float32[out, in].

    The scale of a row is the mean of abs(weight - base) over the row.
    """

    base: torch.Tensor

    def __init__(self, base: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("base", base.clone())

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        delta = (weight - self.base).detach()
        rounded = torch.where(delta >= 0, 1.0, -1.0) * delta.abs().mean(dim=1, keepdim=True)
        return weight + (self.base + rounded - weight).detach()


@contextmanager
def one_bit_deltas(model: nn.Module, base: nn.Module) -> Iterator[None]:
    """While inside, every linear layer of `model` but the output layer works on its rounded delta.

    On leaving, the rounded weights stay. The output layer shares its weight with the embedding.
    """
    layers = [
        (model.get_submodule(name), layer)
        for name, layer in base.named_modules()
        if isinstance(layer, nn.Linear) and name != "lm_head"
    ]
    for live, layer in layers:
        parametrize.register_parametrization(live, "weight", OneBitDelta(layer.weight.detach()))
    try:
        yield
    finally:
        for live, _ in layers:
            parametrize.remove_parametrizations(live, "weight")
