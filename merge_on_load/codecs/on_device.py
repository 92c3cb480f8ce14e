"""The arithmetic of `kernels` as torch operators, for tensors that are not on a CPU.

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


def add_signs_by_column(
    base: torch.Tensor,
    signs: torch.Tensor,
    scale: torch.Tensor,
    column_scale: torch.Tensor,
    out: torch.Tensor,
) -> None:
    """out = base + scale[row] * column_scale[column] where the sign bit is 1, else less it.

    signs, scale: as in `add_signs`. column_scale: float32[width].
    """
    rows, width = out.shape
    positions = torch.arange(8, dtype=torch.uint8, device=out.device)
    for block in row_blocks(rows, width, _BLOCK_ELEMENTS):
        bits = (signs[block].unsqueeze(-1) >> positions) & 1
        change = bits.flatten(1)[:, :width].float().mul_(2).sub_(1)
        change.mul_(scale[block].unsqueeze(-1) * column_scale)
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


def add_steps(
    base: torch.Tensor,
    packed: torch.Tensor,
    scale: torch.Tensor,
    group_size: int,
    bits: int,
    out: torch.Tensor,
) -> None:
    """out = base + scale[row, column // group_size] * step.

    base, out: [rows, width]. packed: uint8[rows, bytes], see `steps`. scale: float32[rows, groups].
    """
    rows, width = out.shape
    for block in row_blocks(rows, width, _BLOCK_ELEMENTS):
        change = _steps(packed[block], scale[block], group_size, bits, width)
        out[block].copy_(change.add_(base[block].float()))


def add_sparse(
    base: torch.Tensor,
    packed: torch.Tensor,
    scale: torch.Tensor,
    seeds: torch.Tensor,
    group_size: int,
    keep: int,
    bits: int,
    out: torch.Tensor,
) -> None:
    """out = base, and in each block of `keep` columns one weight + scale * step.

    packed, scale: of the kept weights. seeds: int32[rows].
    """
    rows, width = out.shape
    for block in row_blocks(rows, width, _BLOCK_ELEMENTS):
        kept = _steps(packed[block], scale[block], group_size, bits, -(-width // keep))
        _scatter(base[block], _places(seeds[block], width, keep), kept, out[block])


def add_marked(
    base: torch.Tensor,
    packed: torch.Tensor,
    scale: torch.Tensor,
    marks: torch.Tensor,
    group_size: int,
    count: int,
    bits: int,
    out: torch.Tensor,
) -> None:
    """out = base, and at the marks of each row scale * step more.

    packed, scale: theirs, `count` a row. marks: uint8[rows, bytes], see `kernels.add_marked`.
    """
    rows, width = out.shape
    for block in row_blocks(rows, width, _BLOCK_ELEMENTS):
        kept = _steps(packed[block], scale[block], group_size, bits, count)
        lines = marks[block].reshape(len(kept), marks.shape[1] // 4, 4)
        is_marked = _codes(lines, 1).flatten(1)[:, :width].bool()
        columns = is_marked.nonzero()[:, 1].reshape(kept.shape)
        _scatter(base[block], columns, kept, out[block])


def add_product(
    base: torch.Tensor,
    left: torch.Tensor,
    right: torch.Tensor,
    left_scale: torch.Tensor,
    right_scale: torch.Tensor,
    signs: torch.Tensor,
    sign_scale: torch.Tensor,
    out: torch.Tensor,
) -> None:
    """out = base + (left @ right * left_scale * right_scale + signs * sign_scale).

    All as `kernels.add_product` has them.
    """
    rows, width = out.shape
    ranks, each = left.shape[1], 4 // left.itemsize
    # A dtype in which the sums of integers are exact, in any order.
    exact = torch.float32 if ranks * torch.iinfo(left.dtype).max ** 2 < 1 << 24 else torch.float64
    split = right.view(len(right), ranks // each, 32, each)
    factors = split.permute(1, 3, 0, 2).reshape(ranks, len(right) * 32)[:, :width].to(exact)
    for block in row_blocks(rows, width, _BLOCK_ELEMENTS):
        change = (left[block].to(exact) @ factors).float()
        change.mul_(left_scale[block, None]).mul_(right_scale[:width])
        if signs.shape[1]:
            # A sign is a step of half a scale.
            change.add_(_steps(signs[block], 2 * sign_scale[block, None], width, 1, width))
        out[block].copy_(change.add_(base[block].float()))


def _scatter(
    base: torch.Tensor, columns: torch.Tensor, change: torch.Tensor, out: torch.Tensor
) -> None:
    changed = change.add_(base.gather(1, columns).float())
    out.copy_(base).scatter_(1, columns, changed.to(out.dtype))


def _steps(
    packed: torch.Tensor, scale: torch.Tensor, group_size: int, bits: int, width: int
) -> torch.Tensor:
    """float32[rows, width], see `steps`."""
    rows = packed.shape[0]
    words = packed.reshape(rows, packed.shape[1] // (4 * bits), 4 * bits)
    codes = _codes(words, bits).flatten(1)[:, :width]
    each = scale.repeat_interleave(group_size, dim=1)[:, :width]
    return codes.float().sub_((2**bits - 1) / 2).mul_(each)


def _codes(words: torch.Tensor, bits: int) -> torch.Tensor:
    """uint8[rows, words, 4 * bits] -> codes uint8[rows, words, 32], see `codecs.steps`."""
    if bits == 3:
        return _codes(words[..., :8], 2) | (_codes(words[..., 8:], 1) << 2)
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=words.device)
    codes = words.unsqueeze(-1) >> shifts if bits == 1 else words.unsqueeze(2) >> shifts[:, None]
    return codes.bitwise_and(2**bits - 1).flatten(2)


def _places(seeds: torch.Tensor, width: int, keep: int) -> torch.Tensor:
    """int64[rows, blocks]: as `kernels.sparse` has them, in 64-bit words cut to 32."""
    blocks = torch.arange(-(-width // keep), device=seeds.device, dtype=torch.int64)
    cut = 0xFFFFFFFF
    word = (seeds.to(torch.int64)[:, None] + blocks * 0x9E3779B1) & cut
    word = ((word ^ (word >> 16)) * 0x85EBCA6B) & cut
    word = ((word ^ (word >> 13)) * 0xC2B2AE35) & cut
    word = word ^ (word >> 16)
    begin = blocks * keep
    return begin + ((word * (width - begin).clamp(max=keep)) >> 32)
