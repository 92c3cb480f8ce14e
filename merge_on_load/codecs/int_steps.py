"""Two, three or four bits per weight: steps around zero, one scale per group of weights."""

import numpy as np
import torch

from merge_on_load.codecs import on_device, steps
from merge_on_load.codecs.codec import (
    CodecSettings,
    Payload,
    check_finite,
    check_lossy_decode,
    decode_rows,
    lossy_rows,
    part,
)
from merge_on_load.floats import row_blocks, subtract, widened, words
from merge_on_load.specs import TensorSpec, row_count_and_width
from merge_on_load.threads import parallel_map


class IntStepsCodec:
    """difference ~ scale[row, group] * (code - middle), see `steps`.

    Payload: `packed` uint8[rows, bytes] and `scale` bfloat16[rows, groups]. Groups run along the
    last dimension; the last may be short.
    """

    shared = frozenset[str]()

    def __init__(self, bits: int, settings: CodecSettings) -> None:
        self.name = f"int{bits}"
        self.bits = bits
        self.group_size = steps.check_group_size(settings.group_size, self.name)

    def encode(self, name: str, base: torch.Tensor, tuned: torch.Tensor) -> Payload:
        base_rows, tuned_rows = lossy_rows(name, base, tuned)
        rows, width = tuned_rows.row_count, tuned_rows.width
        packed = np.empty((rows, steps.packed_bytes(width, self.bits)), np.uint8)
        scale = np.empty((rows, -(-width // self.group_size)), np.float32)

        def encode_block(block: slice) -> None:
            difference = subtract(tuned_rows.read(block), base_rows.read(block))
            check_finite(name, np.abs(difference).max(axis=1, initial=0))
            codes, scale[block] = steps.quantise_rows(difference, self.group_size, self.bits)
            packed[block] = steps.pack(codes, self.bits)

        parallel_map(encode_block, row_blocks(rows, width))
        return {"packed": torch.from_numpy(packed), "scale": torch.from_numpy(scale).bfloat16()}

    def decode(self, base: torch.Tensor, payload: Payload, spec: TensorSpec) -> torch.Tensor:
        return decode_rows(self, base, payload, spec)

    def parts(self, spec: TensorSpec) -> dict[str, TensorSpec]:
        rows, width = row_count_and_width(spec.shape)
        return {
            "packed": TensorSpec("U8", (rows, steps.packed_bytes(width, self.bits))),
            "scale": TensorSpec("F32", (rows, -(-width // self.group_size))),
        }

    def expand(self, base: torch.Tensor, payload: Payload, spec: TensorSpec) -> Payload:
        check_lossy_decode(base, spec)
        expected = self.parts(spec)
        scale = part(payload, "scale", TensorSpec("BF16", expected["scale"].shape))
        packed = part(payload, "packed", expected["packed"])
        return {"packed": packed, "scale": torch.from_numpy(widened(scale))}

    def write(self, base: torch.Tensor, parts: Payload, out: torch.Tensor) -> None:
        packed, scale = parts["packed"], parts["scale"]
        if out.device.type == "cpu":
            from merge_on_load import kernels

            kernels.add_steps(
                *(words(base), packed.numpy(), scale.numpy(), self.group_size, self.bits),
                words(out),
            )
        else:
            on_device.add_steps(base, packed, scale, self.group_size, self.bits, out)
