"""The weights that stay of each row, as steps: rows too short for a word share one."""

import numpy as np
import torch

from merge_on_load.codecs import steps
from merge_on_load.codecs.codec import Payload, part
from merge_on_load.floats import Float32, widened
from merge_on_load.specs import TensorSpec


class Kept:
    """Payload: `packed` uint8[n, bytes] and `scale` bfloat16[n, groups], see `steps`; each of the n
    holds `rows_together` rows one after the other, the last one filled up with the last row.
    """

    def __init__(self, rows: int, count: int, group_size: int, bits: int) -> None:
        """count: weights that stay of each row."""
        self._rows, self._count, self._bits = rows, count, bits
        self._row_group_size = group_size
        self.rows_together = 1
        if 0 < count < min(steps.LANES, group_size):
            self.rows_together = max(1, min(group_size // count, rows))
        self.group_size = group_size if self.rows_together == 1 else self.rows_together * count

    def gathered(self, values: torch.Tensor) -> torch.Tensor:
        """[rows, count] -> [n, rows_together * count]."""
        missing = -len(values) % self.rows_together
        if missing:
            values = torch.cat([values, values[-1:].expand(missing, self._count)])
        together = self.rows_together  # told whole: of no columns, none could be worked out
        return values.reshape(len(values) // together, together * self._count)

    def scattered(self, values: torch.Tensor) -> torch.Tensor:
        """What `gathered` was given."""
        return values.reshape(len(values) * self.rows_together, self._count)[: self._rows]

    def encode(self, values: Float32) -> dict[str, torch.Tensor]:
        """values: [rows, count]."""
        gathered = self.gathered(torch.from_numpy(values)).numpy()
        codes, scale = steps.quantise_rows(gathered, self.group_size, self._bits)
        packed = steps.pack(codes, self._bits)
        return {"packed": torch.from_numpy(packed), "scale": torch.from_numpy(scale).bfloat16()}

    def parts(self) -> dict[str, TensorSpec]:
        """Of each row by itself, which is what kernels read."""
        groups = -(-self._count // self._row_group_size)
        return {
            "packed": TensorSpec("U8", (self._rows, steps.packed_bytes(self._count, self._bits))),
            "scale": TensorSpec("F32", (self._rows, groups)),
        }

    def expand(self, payload: Payload) -> dict[str, torch.Tensor]:
        """The parts. Raises CorruptPayload."""
        together = self.rows_together
        n, width = -(-self._rows // together), together * self._count
        groups = -(-width // self.group_size)
        packed_spec = TensorSpec("U8", (n, steps.packed_bytes(width, self._bits)))
        packed = part(payload, "packed", packed_spec)
        scale = widened(part(payload, "scale", TensorSpec("BF16", (n, groups))))
        if together == 1:
            return {"packed": packed, "scale": torch.from_numpy(scale)}
        codes = steps.unpack(packed.numpy(), width, self._bits)
        by_row = np.ascontiguousarray(codes.reshape(n * together, self._count)[: self._rows])
        return {
            "packed": torch.from_numpy(steps.pack(by_row, self._bits)),
            "scale": torch.from_numpy(np.repeat(scale, together, axis=0)[: self._rows]),
        }
