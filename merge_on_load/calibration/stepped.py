"""Steps of few bits that can be learned: the rounding is passed straight through."""

import math
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from merge_on_load.codecs import steps

_LEAST_SCALE = 1e-12


class Stepped(nn.Module):
    """Rows of values as `codecs.steps` quantises them, [rows, width].

    The gradient passes the rounding as if it were not there, and stops where a value is beyond the
    outermost step (Bengio et al. 2013, arXiv:1308.3432); that of the scales is LSQ's (Esser et al.
    2020, arXiv:1902.08153).
    """

    def __init__(self, values: torch.Tensor, group_size: int, bits: int) -> None:
        """values: float32[rows, width]."""
        super().__init__()
        self._width, self._bits = values.shape[1], bits
        self._group_size = min(group_size, max(1, self._width))
        _, scale = steps.quantise_rows(values.cpu().numpy(), group_size, bits)
        self.latent = nn.Parameter(values.clone())
        self.scale = nn.Parameter(torch.from_numpy(scale).to(values.device).clamp_min(_LEAST_SCALE))

    def forward(self) -> torch.Tensor:
        """What the codes stand for, float32[rows, width]."""
        groups = self.scale.shape[1]
        padded = functional.pad(self.latent, (0, groups * self._group_size - self._width))
        split = padded.reshape(len(padded), groups, self._group_size)
        scale = like_stored(self.scale.clamp_min(_LEAST_SCALE)).unsqueeze(-1)
        values: torch.Tensor = _Rounded.apply(  # type: ignore[no-untyped-call]  # torch's
            split, scale, self._bits
        )
        return values.flatten(1)[:, : self._width]

    def packed(self) -> tuple[torch.Tensor, torch.Tensor]:
        """As payloads hold them: uint8[rows, bytes], and scales bfloat16[rows, groups]."""
        scale = self.scale.detach().cpu().clamp_min(_LEAST_SCALE).bfloat16()
        latent = self.latent.detach().cpu().numpy()
        codes = np.empty(latent.shape, np.uint8)
        for group in range(scale.shape[1]):
            columns = slice(group * self._group_size, (group + 1) * self._group_size)
            size = scale[:, group].float().numpy()
            codes[:, columns] = steps.nearest_codes(latent[:, columns], size, self._bits)
        return torch.from_numpy(steps.pack(codes, self._bits)), scale


def like_stored(values: torch.Tensor) -> torch.Tensor:
    """As bfloat16 holds them; the gradient passes straight through."""
    stored = values.detach().bfloat16().float()
    return values + (stored - values.detach())


class _Rounded(torch.autograd.Function):
    """values [..., size], scale [..., 1] -> the nearest steps."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, scale: torch.Tensor, bits: int) -> torch.Tensor:
        outermost = 2 ** (bits - 1) - 0.5
        step = (torch.floor(values / scale) + 0.5).clamp(-outermost, outermost)
        ctx.save_for_backward(values, scale, step)
        ctx.outermost = outermost
        return step * scale

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        [gradient], (values, scale, step) = gradients, ctx.saved_tensors
        ratio = values / scale
        is_inside = ratio.abs() <= ctx.outermost + 0.5
        of_scale = gradient * torch.where(is_inside, step - ratio, step)
        size = 1 / math.sqrt(values.shape[-1] * ctx.outermost)
        return gradient * is_inside, of_scale.sum(dim=-1, keepdim=True) * size, None
