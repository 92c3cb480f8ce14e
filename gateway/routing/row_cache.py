"""A bounded memory of what the full encoder made of texts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from gateway.routing.words import Floats


class RowCache:
    """Rows by the tokens that they were made from; the least recently used leave first.

    By tokens, not by text: prompts that the encoder reads alike (in other capitals, with other
    blanks or accents, or different only where a long text is not read) are one, and a row is what
    the encoder would give, whatever came before.
    """

    def __init__(self, limit_count: int) -> None:
        """limit_count: of rows; 0 remembers nothing."""
        self._limit_count = limit_count
        self._rows: OrderedDict[bytes, Floats] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, tokens: Sequence[int]) -> Floats | None:
        """The row, or None where it is not remembered."""
        key = _key(tokens)
        row = self._rows.get(key)
        if row is not None:
            self._rows.move_to_end(key)
        return row

    def put(self, tokens: Sequence[int], row: Floats) -> None:
        """Remember float32[dim]."""
        self._rows[_key(tokens)] = row
        if len(self._rows) > self._limit_count:
            self._rows.popitem(last=False)


def _key(tokens: Sequence[int]) -> bytes:
    return np.asarray(tokens, np.int32).tobytes()
