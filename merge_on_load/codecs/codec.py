"""What a codec is, and the checks that codecs share."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from merge_on_load.errors import CorruptPayload, NonFinite, UnknownCodec, UnsupportedDtype
from merge_on_load.floats import FLOAT32_DTYPES, Rows, matrix
from merge_on_load.specs import TensorSpec
from merge_on_load.tensors import spec_of
from merge_on_load.threads import parallel_map, thread_count

Payload = Mapping[str, torch.Tensor]  # part name -> tensor

_BLOCK_ELEMENTS = 1 << 22  # at most: large enough that results are written past the caches


@dataclass(frozen=True)
class CodecSettings:
    """What can be set; kept in the delta, since decoding needs it too.

    group_size: weights per scale, along the last dimension. zstd_level: 1..19. keep: of
    `sparse` and `topk`, one weight in so many, in `bits` bits; `sparse` takes places that `seed`
    gives.
    scales: of `onebit`, 0 for one a row, 1 for one a tensor, 2 for one a row and one a column.
    rank16 to rank2: of `lowrank`, how many of its vectors have so many bits each (none told:
    sixteen of 16 bits); residual: 1 for a sign a weight beside them.
    """

    group_size: int = 128
    zstd_level: int = 1
    keep: int = 16
    bits: int = 2
    seed: int = 0
    scales: int = 0
    rank16: int = 0
    rank8: int = 0
    rank4: int = 0
    rank3: int = 0
    rank2: int = 0
    residual: int = 0

    def __post_init__(self) -> None:
        for name, (least, most) in _LIMITS.items():
            if not least <= getattr(self, name) <= most:
                raise UnknownCodec(f"{name} must be {least}..{most}", found=getattr(self, name))

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> "CodecSettings":
        """Raises UnknownCodec for a setting that does not exist or is not an integer."""
        known = {field.name for field in fields(cls)}
        for key, value in given.items():
            if key not in known or type(value) is not int:
                raise UnknownCodec("no such codec setting", expected=sorted(known), found=key)
        return cls(**given)

    def to_dict(self) -> dict[str, int]:
        """What is not as it is by default; group_size and zstd_level always."""
        always, usual = ("group_size", "zstd_level"), CodecSettings()
        return {
            name: value
            for name, value in asdict(self).items()
            if name in always or value != getattr(usual, name)
        }


_LARGEST_RANK = 1 << 16
_LIMITS = {
    "group_size": (1, 1 << 31),
    "zstd_level": (1, 19),
    "keep": (1, 1 << 16),
    "bits": (1, 4),
    "seed": (0, 2**63 - 1),
    "scales": (0, 2),
    **{f"rank{bits}": (0, _LARGEST_RANK) for bits in (16, 8, 4, 3, 2)},
    "residual": (0, 1),
}


class Codec(Protocol):
    """Turns one fine-tuned tensor into a payload against its base, and back.

    Both directions are deterministic and leave their inputs unchanged. The way back has two steps:
    `expand` finds everything that can be wrong and undoes the compression; `write` only adds.
    """

    name: str
    shared: frozenset[str]  # the parts that are one for all rows

    def encode(self, name: str, base: torch.Tensor, tuned: torch.Tensor) -> Payload:
        """base, tuned: [*shape], one shape for both. name is for errors.

        Raises NonFinite, UnsupportedDtype.
        """
        ...

    def decode(self, base: torch.Tensor, payload: Payload, spec: TensorSpec) -> torch.Tensor:
        """A fresh tensor of `spec` from base [*spec.shape]. Raises CorruptPayload."""
        ...

    def parts(self, spec: TensorSpec) -> dict[str, TensorSpec]:
        """What `expand` gives for a tensor of `spec`. The rows of parts that are not shared are the
        tensor's.
        """
        ...

    def expand(self, base: torch.Tensor, payload: Payload, spec: TensorSpec) -> Payload:
        """The parts, checked and not compressed. base: [*spec.shape]. Raises CorruptPayload."""
        ...

    def write(self, base: torch.Tensor, parts: Payload, out: torch.Tensor) -> None:
        """Fill `out` from some rows of the base and of each part; one device for all.

        base, out: contiguous [rows, width], out of the spec's dtype. On a CPU this is one pass by
        one thread, without the interpreter lock.
        """
        ...


def decode_rows(
    codec: Codec, base: torch.Tensor, payload: Payload, spec: TensorSpec
) -> torch.Tensor:
    """`Codec.decode` of a codec whose `write` adds: on a few threads, into a new tensor."""
    parts = codec.expand(base, payload, spec)
    tensor = torch.empty(spec.shape, dtype=spec.torch_dtype)
    write_rows(codec, base, parts, tensor)
    return tensor


def write_rows(codec: Codec, base: torch.Tensor, parts: Payload, out: torch.Tensor) -> None:
    """`Codec.write` of whole tensors, on a few threads. out: contiguous, on a CPU."""
    from_rows, to_rows = matrix(base), matrix(out)
    rows, width = to_rows.shape
    turns = -(-rows * width // (thread_count() * _BLOCK_ELEMENTS))
    step = max(1, -(-rows // max(1, thread_count() * turns)))  # so that no thread has one more

    def write_block(begin: int) -> None:
        block = slice(begin, min(begin + step, rows))
        codec.write(from_rows[block], cut(codec, parts, block), to_rows[block])

    parallel_map(write_block, range(0, rows, step), is_apart=True)


def cut(codec: Codec, parts: Payload, rows: slice) -> dict[str, torch.Tensor]:
    """Some rows of each part that has any."""
    return {
        name: tensor if name in codec.shared else tensor[rows] for name, tensor in parts.items()
    }


def check_lossy_decode(base: torch.Tensor, spec: TensorSpec) -> None:
    """Raise CorruptPayload unless a lossy codec could have made `spec` from such a base."""
    found = spec_of(base)
    if not {found.dtype, spec.dtype} <= set(FLOAT32_DTYPES) or found.shape != spec.shape:
        raise CorruptPayload("payload is not for this base", expected=spec, found=found)


def lossy_rows(name: str, base: torch.Tensor, tuned: torch.Tensor) -> tuple[Rows, Rows]:
    """Both tensors as rows. Raises UnsupportedDtype unless float32 holds their values."""
    for tensor in (base, tuned):
        found = spec_of(tensor).dtype
        if found not in FLOAT32_DTYPES:
            expected = FLOAT32_DTYPES
            raise UnsupportedDtype("not for lossy", tensor=name, expected=expected, found=found)
    return Rows(base), Rows(tuned)


def check_finite(name: str, magnitudes: npt.NDArray[np.floating]) -> None:
    """magnitudes: maxima or sums of |tuned - base|. Raises NonFinite if one is not finite."""
    if not bool(np.isfinite(magnitudes).all()):
        raise NonFinite("a lossy codec needs finite weights", tensor=name, found="NaN or infinity")


def part(payload: Payload, name: str, expected: TensorSpec) -> torch.Tensor:
    """One part of a payload. Raises CorruptPayload unless it is there as expected."""
    found = payload.get(name)
    if found is None or spec_of(found) != expected:
        told = "nothing" if found is None else spec_of(found)
        raise CorruptPayload(f"payload part {name!r} is off", expected=expected, found=told)
    return found
