"""One bit per weight: the sign of the difference and one scale per row (BitDelta).

Liu et al. 2024, "BitDelta: Your Fine-Tune May Only Be Worth One Bit", arXiv:2402.10193. The
paper keeps one scale per matrix; one per output row costs next to nothing and is closer.
"""

import numpy as np
import torch

from merge_on_load.codecs import on_device
from merge_on_load.codecs.codec import (
    CodecSettings,
    Payload,
    check_finite,
    check_lossy_decode,
    decode_rows,
    lossy_rows,
    part,
)
from merge_on_load.floats import row_blocks, subtract, words
from merge_on_load.hashing import parallel_map
from merge_on_load.specs import TensorSpec, row_count_and_width


class OnebitCodec:
    """difference ~ scale[row] * (+1 where difference >= 0, else -1).

    Payload: `signs` uint8[rows, ceil(width / 8)], column 8i + j in bit j of byte i, 1 for plus;
    `scale` float32[rows], the mean magnitude of the row: the one that minimises the L2 error.
    """

    name = "onebit"
    shared = frozenset[str]()

    def __init__(self, settings: CodecSettings) -> None:
        del settings  # nothing to set

    def encode(self, name: str, base: torch.Tensor, tuned: torch.Tensor) -> Payload:
        base_rows, tuned_rows = lossy_rows(name, base, tuned)
        rows, width = tuned_rows.row_count, tuned_rows.width
        scale = np.empty(rows, np.float32)
        signs = np.empty((rows, -(-width // 8)), np.uint8)

        def encode_block(block: slice) -> None:
            difference = subtract(tuned_rows.read(block), base_rows.read(block))
            total = np.abs(difference).sum(axis=1, dtype=np.float64)
            check_finite(name, total)
            scale[block] = total / max(1, width)
            signs[block] = np.packbits(difference >= 0, axis=1, bitorder="little")

        parallel_map(encode_block, row_blocks(rows, width))
        return {"signs": torch.from_numpy(signs), "scale": torch.from_numpy(scale)}

    @staticmethod
    def payload(signs: torch.Tensor, scale: torch.Tensor) -> Payload:
        """signs: [rows, width], above zero for plus. scale: float32[rows]."""
        packed = np.packbits(signs.numpy() > 0, axis=1, bitorder="little")
        return {"signs": torch.from_numpy(packed), "scale": scale.clone()}

    def decode(self, base: torch.Tensor, payload: Payload, spec: TensorSpec) -> torch.Tensor:
        return decode_rows(self, base, payload, spec)

    def parts(self, spec: TensorSpec) -> dict[str, TensorSpec]:
        rows, width = row_count_and_width(spec.shape)
        return {
            "signs": TensorSpec("U8", (rows, -(-width // 8))),
            "scale": TensorSpec("F32", (rows,)),
        }

    def expand(self, base: torch.Tensor, payload: Payload, spec: TensorSpec) -> Payload:
        check_lossy_decode(base, spec)
        return {name: part(payload, name, expected) for name, expected in self.parts(spec).items()}

    def write(self, base: torch.Tensor, parts: Payload, out: torch.Tensor) -> None:
        if out.device.type == "cpu":
            from merge_on_load import kernels

            signs, scale = parts["signs"].numpy(), parts["scale"].numpy()
            kernels.add_signs(words(base), signs, scale, words(out))
        else:
            on_device.add_signs(base, parts["signs"], parts["scale"], out)
