"""Base + payload -> weights, into memory that is there already."""

import torch

from merge_on_load.codecs import Codec, Payload
from merge_on_load.codecs.codec import write_rows
from merge_on_load.codecs.lossless import LosslessCodec
from merge_on_load.tensors import spec_of


def apply_into(out: torch.Tensor, base: torch.Tensor, payload: Payload, codec: Codec) -> None:
    """Fill `out` with base + payload: the bits that `codec.decode` gives, on a few threads.

    out: contiguous, on a CPU, of the result's dtype and the base's shape. It may be the base
    itself, which is then the result; memory that they share otherwise is refused. No second copy of
    the weights is made: beside them there is what `codec.expand` gives, and of a lossless payload a
    block for each thread (and the base, where its dtype is another one).

    Raises ValueError where `out` cannot be written to so, CorruptPayload; before anything is
    written, but for a lossless payload, of which each block is checked when its turn comes.
    """
    if out.device.type != "cpu" or base.device.type != "cpu":
        raise ValueError(f"tensors must be on a CPU, not on {base.device} and {out.device}")
    if out.shape != base.shape or not out.is_contiguous():
        raise ValueError(f"{base.shape} does not fit {out.shape}, which must be contiguous")
    if _overlap(out, base) and not _is_same(out, base):
        raise ValueError("the base and what is written to share a part of their memory")
    if isinstance(codec, LosslessCodec):
        codec.decode_into(out, base, payload)
    else:
        write_rows(codec, base, codec.expand(base, payload, spec_of(out)), out)


def _is_same(out: torch.Tensor, base: torch.Tensor) -> bool:
    same_place = out.data_ptr() == base.data_ptr() and out.dtype == base.dtype
    return same_place and base.is_contiguous()


def _overlap(out: torch.Tensor, base: torch.Tensor) -> bool:
    """Whether a byte of one may be a byte of the other."""
    (first, end), (base_first, base_end) = _range(out), _range(base)
    return max(first, base_first) < min(end, base_end)


def _range(tensor: torch.Tensor) -> tuple[int, int]:
    """Addresses of the first byte and behind the last."""
    if not tensor.numel():
        return 0, 0
    steps = (
        stride * (size - 1) for stride, size in zip(tensor.stride(), tensor.shape, strict=True)
    )
    begin = tensor.data_ptr()
    return begin, begin + (sum(steps) + 1) * tensor.itemsize
