"""The parts of one tensor's payload as one string of bytes, so that a file's header stays small.

A blob is: uint32 little-endian length of a JSON list [[name, dtype, shape], ...], the list, then
each part's bytes in that order. The list, with its length, and each part are padded with zeros or
spaces to a multiple of 8 bytes: so all parts lie aligned where the blob does.
"""

import json
import math
from typing import TYPE_CHECKING

import torch

from merge_on_load.errors import CorruptPayload, UnsupportedDtype
from merge_on_load.specs import TensorSpec
from merge_on_load.tensors import raw_bytes, spec_of

if TYPE_CHECKING:
    from merge_on_load.codecs import Payload

_LENGTH_BYTES = 4
_MULTIPLE_BYTES = 8


def to_blob(payload: "Payload") -> torch.Tensor:
    """uint8[bytes], a multiple of 8."""
    specs = {name: spec_of(tensor) for name, tensor in payload.items()}
    told = [[name, spec.dtype, list(spec.shape)] for name, spec in specs.items()]
    text = json.dumps(told, separators=(",", ":")).encode()
    head_bytes = _padded(_LENGTH_BYTES + len(text))
    text = text.ljust(head_bytes - _LENGTH_BYTES)
    sizes = [_padded(spec.size_bytes) for spec in specs.values()]
    blob = torch.zeros(head_bytes + sum(sizes), dtype=torch.uint8)
    data = raw_bytes(blob).data
    data[:head_bytes] = len(text).to_bytes(_LENGTH_BYTES, "little") + text
    begin = head_bytes
    for tensor, size in zip(payload.values(), sizes, strict=True):
        raw = raw_bytes(tensor)
        data[begin : begin + raw.size] = raw.data
        begin += size
    return blob


def from_blob(blob: torch.Tensor) -> dict[str, torch.Tensor]:
    """What `to_blob` was given, as views of blob, uint8[bytes]. Raises CorruptPayload."""
    try:
        specs, begin = _read_head(blob)
        found = {}
        for name, spec in specs.items():
            piece = blob[begin : begin + spec.size_bytes]
            if piece.numel() != spec.size_bytes:
                raise ValueError(f"part {name!r} is not whole")
            found[name] = _seen_as(piece, spec)
            begin += _padded(spec.size_bytes)
        if begin != blob.numel():
            raise ValueError(f"{blob.numel() - begin} bytes too many")
    except (ValueError, TypeError, KeyError, UnsupportedDtype, RuntimeError) as error:
        raise CorruptPayload(f"malformed payload: {error}") from error
    return found


def _read_head(blob: torch.Tensor) -> tuple[dict[str, TensorSpec], int]:
    """The parts' specs, and where the first begins."""
    if blob.dtype != torch.uint8 or blob.ndim != 1:
        raise ValueError("not a string of bytes")
    length = int.from_bytes(bytes(raw_bytes(blob[:_LENGTH_BYTES])), "little")
    end = _LENGTH_BYTES + length
    if end > blob.numel() or end % _MULTIPLE_BYTES:
        raise ValueError("its head is not whole")
    specs = {
        str(name): TensorSpec(str(dtype), tuple(int(size) for size in shape))
        for name, dtype, shape in json.loads(bytes(raw_bytes(blob[_LENGTH_BYTES:end])))
    }
    if any(size < 0 for spec in specs.values() for size in spec.shape):
        raise ValueError("a size below zero")
    return specs, end


def _seen_as(piece: torch.Tensor, spec: TensorSpec) -> torch.Tensor:
    if not math.prod(spec.shape):
        return torch.empty(spec.shape, dtype=spec.torch_dtype)
    return piece.view(spec.torch_dtype).reshape(spec.shape)


def _padded(size_bytes: int) -> int:
    return -(-size_bytes // _MULTIPLE_BYTES) * _MULTIPLE_BYTES
