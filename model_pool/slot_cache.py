"""Keys and values of a changing set of sequences, in one tensor per layer.

Every sequence has a row, and all rows end at the same column: the next token of each goes to the
column `end`, and a row's own text begins at its `start`. So one forward pass serves rows of any
lengths with a plain padding mask (a layout like left padding), which every causal architecture
of transformers understands, sliding windows included.

    column     0   first                 end
    row 0      .   . a a a a a a a a a a  |
    row 1      .   . . . . . . b b b b b  |     b came later, or has a shorter prompt
    row 2      .   c c c c c c c c c c c  |     first = the smallest start

Rows 0..row_count-1 are always the live ones, so attention reads views and copies nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

COLUMN_BLOCK = 64


class SlotCache(Cache):  # type: ignore[misc]  # transformers is untyped here
    """The cache that one model's decoding steps read and extend."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.layers: list[SlotLayer] = []
        self.row_count = 0
        self.first = 0
        self.end = 0
        self._starts: list[int] = []

    @property
    def width(self) -> int:
        """Tokens of the longest row."""
        return self.end - self.first

    def step_inputs(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Positions of the next tokens, and which columns each row may read.

        Returns int64[row, 1] and bool[row, width + 1]; None where every row may read all.
        """
        starts = torch.tensor(self._starts, device=device)[:, None]
        positions = self.end - starts
        if min(self._starts) == max(self._starts):
            return positions, None
        columns = torch.arange(self.first, self.end + 1, device=device)
        return positions, columns >= starts

    def reserve(self) -> None:
        """Make room for one more column. Call before each decoding step."""
        if self.layers and self.end == self.layers[0].keys.shape[2]:
            self._resize(self.row_count, self.width)

    def advance(self) -> None:
        """The step wrote one token to every row."""
        self.end += 1

    def join(self, prefilled: Cache, token_counts: Sequence[int]) -> None:
        """Append rows.

        prefilled: per layer keys and values [row, head, column, dim], padded on the left.
        token_counts: how many of its last columns belong to each row.
        """
        count, longest = len(token_counts), max(token_counts)
        self._ensure_layers(prefilled)
        keys = self.layers[0].keys
        rows = self.row_count + count
        if rows > keys.shape[0] or longest > self.end or self.end >= keys.shape[2]:
            self._resize(rows, max(self.width, longest))
        for layer, source in zip(self.layers, prefilled.layers, strict=True):
            place = (slice(self.row_count, rows), slice(None), slice(self.end - longest, self.end))
            layer.keys[place] = source.keys[:, :, -longest:]
            layer.values[place] = source.values[:, :, -longest:]
        self._starts += [self.end - token_count for token_count in token_counts]
        self.row_count = rows
        self.first = min(self._starts)

    def remove(self, row: int) -> None:
        """Free a row; the last row moves into its place. The last to go frees the memory."""
        last = self.row_count - 1
        if last == 0:
            self.clear()
            return
        if row != last:
            live = slice(self._starts[last], self.end)
            for layer in self.layers:
                layer.keys[row, :, live] = layer.keys[last, :, live]
                layer.values[row, :, live] = layer.values[last, :, live]
            self._starts[row] = self._starts[last]
        self._starts.pop()
        self.row_count = last
        self.first = min(self._starts)

    def clear(self) -> None:
        """Forget all rows and free their memory."""
        self.layers = []
        self.row_count = self.first = self.end = 0
        self._starts = []

    def _ensure_layers(self, prefilled: Cache) -> None:
        if not self.layers:
            self.layers = [SlotLayer(self, layer.keys, layer.values) for layer in prefilled.layers]

    def _resize(self, rows: int, width: int) -> None:
        """Move the live block to new tensors with room for `rows` rows and `width` tokens.

        The block's end moves to column `width`, and as many columns again stay free, so moves
        are as rare as the text is long.
        """
        row_capacity = 1 << (rows - 1).bit_length()
        columns = -(-(2 * width + 1) // COLUMN_BLOCK) * COLUMN_BLOCK
        live = (slice(0, self.row_count), slice(None), slice(self.first, self.end))
        place = (slice(0, self.row_count), slice(None), slice(width - self.width, width))
        for layer in self.layers:
            layer.keys = _moved(layer.keys, live, place, row_capacity, columns)
            layer.values = _moved(layer.values, live, place, row_capacity, columns)
        shift = width - self.end
        self._starts = [start + shift for start in self._starts]
        self.first += shift
        self.end = width


class SlotLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is untyped here
    """One layer's keys and values, [row, head, column, dim]. Where to write, its cache knows."""

    is_sliding = False

    def __init__(self, slots: SlotCache, keys: torch.Tensor, values: torch.Tensor) -> None:
        """keys, values: examples of shape, dtype and device; their content is not kept."""
        super().__init__()
        self._slots = slots
        self.keys = keys[:0, :, :0]
        self.values = values[:0, :, :0]
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing to do: the tensors exist from the start."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one new column; return views of all live columns and the new one."""
        slots = self._slots
        rows, column = slice(0, slots.row_count), slots.end
        self.keys[rows, :, column : column + 1] = key_states
        self.values[rows, :, column : column + 1] = value_states
        columns = slice(slots.first, column + 1)
        return self.keys[rows, :, columns], self.values[rows, :, columns]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns that attention reads, and the offset of the first."""
        return self._slots.width + query_length, 0

    def get_seq_length(self) -> int:
        """Columns read so far: the longest row."""
        return self._slots.width

    def get_max_length(self) -> int:
        """No limit of its own."""
        return -1


def _moved(
    source: torch.Tensor,
    live: tuple[slice, ...],
    place: tuple[slice, ...],
    rows: int,
    columns: int,
) -> torch.Tensor:
    """A zeroed [rows, head, columns, dim] with `live` of the source at `place`.

    Zeros matter: a masked position is multiplied by zero, and garbage may be NaN.
    """
    target = source.new_zeros((rows, source.shape[1], columns, source.shape[3]))
    target[place] = source[live]
    return target
