"""The slot cache against plain lists: whatever joins and leaves, each row reads its own tokens."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import DynamicCache

from model_pool.slot_cache import SlotCache

LAYERS, HEADS, DIM = 2, 2, 3


class PlainCache:
    """The same rows as lists of numbers, one per token."""

    def __init__(self) -> None:
        self.rows: list[list[float]] = []
        self.next_number = 1.0

    def new_numbers(self, count: int) -> list[float]:
        first, self.next_number = self.next_number, self.next_number + count
        return [first + i for i in range(count)]


def as_keys(rows: list[list[float]], layer: int) -> torch.Tensor:
    """float32[row, head, column, dim], padded on the left with a number that must not show."""
    longest = max(map(len, rows))
    padded = torch.tensor([[-99.0] * (longest - len(row)) + row for row in rows])
    heads = torch.arange(HEADS)[None, :, None, None] * 1000
    return (padded[:, None, :, None] + heads + layer * 10000).expand(-1, -1, -1, DIM)


def join(cache: SlotCache, plain: PlainCache, counts: list[int]) -> None:
    rows = [plain.new_numbers(count) for count in counts]
    prefilled = DynamicCache()
    for layer in range(LAYERS):
        prefilled.update(as_keys(rows, layer), -as_keys(rows, layer), layer)
    cache.join(prefilled, counts)
    plain.rows += rows


def step(cache: SlotCache, plain: PlainCache) -> None:
    cache.reserve()
    positions, mask = cache.step_inputs(torch.device("cpu"))
    assert positions[:, 0].tolist() == [len(row) for row in plain.rows]
    for row in plain.rows:
        row += plain.new_numbers(1)
    for layer in range(LAYERS):
        new = as_keys([row[-1:] for row in plain.rows], layer)
        keys, values = cache.update(new, -new, layer)
        for i, row in enumerate(plain.rows):
            expected = as_keys([row], layer)[0]
            visible = slice(None) if mask is None else mask[i]
            assert torch.equal(keys[i][:, visible], expected)
            assert torch.equal(values[i][:, visible], -expected)
        assert bool(torch.isfinite(keys).all())
    cache.advance()


def remove(cache: SlotCache, plain: PlainCache, row: int) -> None:
    cache.remove(row)
    plain.rows[row] = plain.rows[-1]
    plain.rows.pop()


@pytest.mark.parametrize("seed", range(12))
def test_rows_read_their_own_tokens_whatever_joins_and_leaves(seed: int) -> None:
    numbers, cache, plain = random.Random(seed), SlotCache(), PlainCache()
    for _ in range(250):
        if not plain.rows or (len(plain.rows) < 9 and numbers.random() < 0.1):
            counts = [numbers.choice((1, 2, 7, 60, 130)) for _ in range(numbers.randrange(1, 4))]
            join(cache, plain, counts)
        elif numbers.random() < 0.1:
            remove(cache, plain, numbers.randrange(len(plain.rows)))
        else:
            step(cache, plain)
        assert cache.row_count == len(plain.rows)
        assert cache.width == max(map(len, plain.rows), default=0)


def test_rows_of_one_length_need_no_mask() -> None:
    cache, plain = SlotCache(), PlainCache()
    join(cache, plain, [5, 5])

    assert cache.step_inputs(torch.device("cpu"))[1] is None


def test_the_last_row_to_go_frees_the_memory() -> None:
    cache, plain = SlotCache(), PlainCache()
    join(cache, plain, [5, 8])
    remove(cache, plain, 0)
    remove(cache, plain, 0)

    assert cache.layers == []


def test_memory_follows_the_text_that_is_live() -> None:
    cache, plain = SlotCache(), PlainCache()
    join(cache, plain, [10])
    for _ in range(2000):
        join(cache, plain, [10])
        step(cache, plain)
        remove(cache, plain, 0)

    assert cache.layers[0].keys.shape[0] <= 2
    assert cache.layers[0].keys.shape[2] <= 128
