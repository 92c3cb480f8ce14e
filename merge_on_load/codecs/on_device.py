"""The arithmetic of `kernels.py` as torch operators, for tensors that are not on a CPU.

The same float32 operations in the same order, so the same bits: tested on the CPU, where torch's
operators obey the same rules; untested on a GPU. Works through blocks of rows, so that what a
block needs beside its result stays small.
"""

import torch

from merge_on_load.floats import row_blocks

_BLOCK_ELEMENTS = 1 << 24  # 64 MiB of float32: large enough to fill a card, small against weights


def add_signs(
    base: torch.Tensor, signs: torch.Tensor, scale: torch.Tensor, out: torch.Tensor
) -> None:
    """out = base + scale[row] where the sign bit is 1, base - scale[row] where it is 0.

    base, out: [rows, width]. signs: uint8[rows, ceil(width / 8)], column 8k + j in bit j of byte
    k. scale: float32[rows].
    """
    rows, width = out.shape
    positions = torch.arange(8, dtype=torch.uint8, device=out.device)
    for block in row_blocks(rows, width, _BLOCK_ELEMENTS):
        bits = (signs[block].unsqueeze(-1) >> positions) & 1
        change = bits.flatten(1)[:, :width].float().mul_(2).sub_(1)
        change.mul_(scale[block].unsqueeze(-1))
        out[block].copy_(change.add_(base[block].float()))


def add_scaled(
    base: torch.Tensor,
    values: torch.Tensor,
    scale: torch.Tensor,
    group_size: int,
    out: torch.Tensor,
) -> None:
    """out = base + scale[row, column // group_size] * values.

    base, out: [rows, width]. values: int8[rows, width]. scale: float32[rows, groups].
    """
    rows, width = out.shape
    for block in row_blocks(rows, width, _BLOCK_ELEMENTS):
        change = scale[block].repeat_interleave(group_size, dim=1)[:, :width]
        # Two operators, not addcmul: that one may round only once.
        out[block].copy_((change * values[block].float()).add_(base[block].float()))
