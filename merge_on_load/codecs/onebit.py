"""One bit per weight: the sign of the difference and one scale per row (BitDelta).

Liu et al. 2024, "BitDelta: Your Fine-Tune May Only Be Worth One Bit", arXiv:2402.10193. The
paper keeps one scale per matrix; one per output row costs next to nothing and is closer.
"""

import numpy as np
import numpy.typing as npt
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
from merge_on_load.specs import TensorSpec, row_count_and_width
from merge_on_load.threads import parallel_map

PER_ROW, PER_TENSOR, PER_ROW_AND_COLUMN = range(3)  # CodecSettings.scales


class OnebitCodec:
    """difference ~ scale[row] * (+1 where difference >= 0, else -1).

    Payload: `signs` uint8[rows, ceil(width / 8)], column 8i + j in bit j of byte i, 1 for plus;
    `scale` float32[rows], the mean magnitude of the row: the one that minimises the L2 error. With
    one scale a tensor, float32[1]. With one a column beside the rows', `column_scale`
    float32[width]: the column's mean magnitude over the tensor's.
    """

    name = "onebit"
    shared = frozenset({"column_scale"})

    def __init__(self, settings: CodecSettings) -> None:
        self.scales = settings.scales

    def encode(self, name: str, base: torch.Tensor, tuned: torch.Tensor) -> Payload:
        base_rows, tuned_rows = lossy_rows(name, base, tuned)
        rows, width = tuned_rows.row_count, tuned_rows.width
        by_row = np.empty(rows, np.float64)
        signs = np.empty((rows, -(-width // 8)), np.uint8)

        def encode_block(block: slice) -> npt.NDArray[np.float64]:
            difference = subtract(tuned_rows.read(block), base_rows.read(block))
            size = np.abs(difference)
            by_row[block] = size.sum(axis=1, dtype=np.float64)
            check_finite(name, by_row[block])
            signs[block] = np.packbits(difference >= 0, axis=1, bitorder="little")
            columns: npt.NDArray[np.float64] = size.sum(axis=0, dtype=np.float64)
            return columns

        by_column = sum(
            parallel_map(encode_block, row_blocks(rows, width)), np.zeros(width, np.float64)
        )
        mean = by_row / max(1, width)
        whole = mean.mean() if rows else 0.0
        if self.scales == PER_TENSOR:
            mean = np.array([whole])
        payload = {
            "signs": torch.from_numpy(signs),
            "scale": torch.from_numpy(mean.astype(np.float32)),
        }
        if self.scales == PER_ROW_AND_COLUMN:
            share = by_column / max(1, rows) / whole if whole else np.ones(width)
            payload["column_scale"] = torch.from_numpy(share.astype(np.float32))
        return payload

    def decode(self, base: torch.Tensor, payload: Payload, spec: TensorSpec) -> torch.Tensor:
        return decode_rows(self, base, payload, spec)

    def parts(self, spec: TensorSpec) -> dict[str, TensorSpec]:
        rows, width = row_count_and_width(spec.shape)
        found = {
            "signs": TensorSpec("U8", (rows, -(-width // 8))),
            "scale": TensorSpec("F32", (rows,)),
        }
        if self.scales == PER_ROW_AND_COLUMN:
            found["column_scale"] = TensorSpec("F32", (width,))
        return found

    def expand(self, base: torch.Tensor, payload: Payload, spec: TensorSpec) -> Payload:
        check_lossy_decode(base, spec)
        expected = self.parts(spec)
        given = dict(payload)
        if self.scales == PER_TENSOR:
            one = part(payload, "scale", TensorSpec("F32", (1,)))
            given["scale"] = one.expand(expected["scale"].shape).contiguous()
        return {name: part(given, name, wanted) for name, wanted in expected.items()}

    def write(self, base: torch.Tensor, parts: Payload, out: torch.Tensor) -> None:
        signs, scale = parts["signs"], parts["scale"]
        columns = parts.get("column_scale")
        if out.device.type == "cpu":
            from merge_on_load import kernels

            if columns is None:
                kernels.add_signs(words(base), signs.numpy(), scale.numpy(), words(out))
            else:
                kernels.add_signs_by_column(
                    words(base), signs.numpy(), scale.numpy(), columns.numpy(), words(out)
                )
        elif columns is None:
            on_device.add_signs(base, signs, scale, out)
        else:
            on_device.add_signs_by_column(base, signs, scale, columns, out)
