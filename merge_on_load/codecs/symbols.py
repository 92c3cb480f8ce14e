"""What the words of a fine-tuned tensor are coded as, and with which tables; `kernels.ans` codes.

A symbol is a range of differences from the base's word: its sign and its highest bits, as many as
`fine` tells beside the first; the bits below stand as they are. A weight that changed its sign lies
half of all words away: what is nearer to that is told from there, by symbols of its own.

How far a weight moves, counted in steps of its float, goes by the base's exponent, so each exponent
has a table, as far as that pays.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from merge_on_load.codecs import frames
from merge_on_load.errors import CorruptPayload
from merge_on_load.specs import Bytes

_MOST_TABLES = 16  # so many stay in a core's cache
_SHARE_BITS = 8  # what one share costs in a payload, about
_ZSTD_LEVEL = 19

Counts = npt.NDArray[np.int64]
Shares = npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Alphabet:
    """The symbols of words of so many bits. extra: low bits beside each; lowest: the least
    difference of each, modulo 2**32.
    """

    extra: Counts
    lowest: npt.NDArray[np.uint32]

    @property
    def size(self) -> int:
        return self.extra.size


@dataclass(frozen=True, slots=True)
class Tables:
    """fine: see the module. of_context: uint8[contexts], the table of each. shares: of each table,
    [tables, symbols], the slots that each symbol has.
    """

    fine: int
    of_context: Bytes
    shares: Shares


def finest(word_bits: int) -> int:
    """The largest `fine`: symbols must fit a byte."""
    return 2 if word_bits <= 16 else 1


@lru_cache
def alphabet(word_bits: int, fine: int) -> Alphabet:
    """Symbol 0 is no difference; 2k - 1 and 2k are the k-th range above and below it. As many again
    are the same from half of all words on.
    """
    ranges = np.arange(1, (word_bits - fine) << fine)
    extra = np.maximum((ranges >> fine) - 1, 0)
    least = (ranges - (extra << fine)) << extra
    lowest = np.stack([least, -(least + (1 << extra) - 1)], axis=1).reshape(-1)
    near = np.concatenate([[0], lowest])
    far = near + (1 << (word_bits - 1))
    return Alphabet(
        np.tile(np.concatenate([[0], np.repeat(extra, 2)]), 2),
        np.concatenate([near, far]).astype(np.uint64).astype(np.uint32),
    )


def choose(counts: Counts, word_bits: int) -> Tables:
    """The tables that make least of all, themselves included. counts: int64[contexts, symbols] of
    the finest alphabet.
    """
    found: list[tuple[float, Tables]] = []
    for fine in range(finest(word_bits), -1, -1):
        letters = alphabet(word_bits, fine)
        groups, bits = _grouped(counts)
        of_context = np.zeros(len(counts), np.uint8)
        for number, group in enumerate(groups):
            of_context[group] = number
        shares = np.stack([to_shares(counts[group].sum(axis=0)) for group in groups])
        bits += float((counts.sum(axis=0) * letters.extra).sum())
        found.append((bits, Tables(fine, of_context, shares)))
        if fine:
            counts = _coarser(counts, word_bits, fine)
    return min(found, key=lambda pair: pair[0])[1]


def to_shares(counts: Counts) -> Shares:
    """Slots for each symbol, about by its count, one at least where it occurs; all are given away.

    Where none occurs, symbol 0 has them all.
    """
    slots, total = _slots(), int(counts.sum())
    if total == 0:
        counts, total = np.eye(1, counts.size, dtype=np.int64)[0], 1
    occurs = counts > 0
    shares = np.maximum(counts * slots // total, occurs)
    if (excess := int(shares.sum()) - slots) > 0:
        spare = shares - occurs
        shares -= spare * excess // int(spare.sum())
    while left := slots - int(shares.sum()):
        step = 1 if left > 0 else -1
        can_move = occurs & (shares + step > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            won = counts * np.log2(1 + step / shares)  # bits
        order = np.argsort(np.where(can_move, -won, np.inf), kind="stable")
        moved = order[: min(abs(left), int(can_move.sum()))]
        shares[moved] += step
    return shares.astype(np.uint16)


def to_bytes(tables: Tables) -> Bytes:
    """What `from_bytes` reads."""
    shares = tables.shares.reshape(-1)
    head = np.array([tables.fine, len(tables.shares)], np.uint8)
    planes = (shares & 0xFF).astype(np.uint8), (shares >> 8).astype(np.uint8)
    frame = frames.compress(np.concatenate([head, tables.of_context, *planes]), _ZSTD_LEVEL)
    return np.frombuffer(frame, np.uint8)


def from_bytes(frame: Bytes, context_count: int, word_bits: int) -> Tables:
    """Raises CorruptPayload for what `to_bytes` cannot have made."""
    content = frames.content(frame.data)
    head, of_context, planes = np.split(content, [2, 2 + context_count])
    fine, table_count = head.tolist() if head.size == 2 else (0, 0)
    if fine > finest(word_bits) or of_context.size != context_count or not table_count:
        raise CorruptPayload("malformed tables", found=f"{table_count} of {content.size} bytes")
    size = table_count * alphabet(word_bits, fine).size
    if planes.size != 2 * size or int(of_context.max()) >= table_count:
        raise CorruptPayload("malformed tables", expected=2 * size, found=planes.size)
    shares = planes[:size].astype(np.uint16) | planes[size:].astype(np.uint16) << np.uint16(8)
    shares = shares.reshape(table_count, -1)
    if (shares.sum(axis=1, dtype=np.int64) != _slots()).any():
        raise CorruptPayload("malformed tables", found="shares that do not add up")
    return Tables(fine, of_context, shares)


def _grouped(counts: Counts) -> tuple[list[list[int]], float]:
    """Contexts that share a table, neighbours all of them, and the bits of all. Contexts that never
    occur need none: any table will do; there is one always.
    """
    groups = [[int(one)] for one in np.flatnonzero(counts.sum(axis=1))] or [[0]]
    sums = [counts[group[0]] for group in groups]
    bits = [_bits(one) for one in sums]
    joined = [_bits(first + second) for first, second in pairwise(sums)]
    while len(groups) > 1:
        won = [bits[k] + bits[k + 1] - joined[k] for k in range(len(joined))]
        k = int(np.argmax(won))
        if won[k] <= 0 and len(groups) <= _MOST_TABLES:
            break
        groups[k : k + 2] = [groups[k] + groups[k + 1]]
        sums[k : k + 2] = [sums[k] + sums[k + 1]]
        bits[k : k + 2] = [joined.pop(k)]
        for beside in (k - 1, k):
            if 0 <= beside < len(joined):
                joined[beside] = _bits(sums[beside] + sums[beside + 1])
    return groups, sum(bits)


def _bits(counts: Counts) -> float:
    """Of coding so many of each symbol, and of their table."""
    occurs = counts > 0
    shares = to_shares(counts)[occurs]
    coded = counts[occurs] * (np.log2(_slots()) - np.log2(shares))
    return float(coded.sum()) + _SHARE_BITS * shares.size


def _coarser(counts: Counts, word_bits: int, fine: int) -> Counts:
    """The same counts for the next coarser alphabet."""
    symbols = np.arange(1, alphabet(word_bits, fine).size // 2)
    ranges, is_below = (symbols + 1) // 2, symbols % 2 == 0
    extra = np.maximum((ranges >> fine) - 1, 0)
    whole = ranges - (extra << fine)  # the highest bits, which lose one where they are too many
    lost = whole >> fine
    coarse = (extra + lost << (fine - 1)) + (whole >> lost)
    found = np.zeros((len(counts), alphabet(word_bits, fine - 1).size), np.int64)
    near = np.concatenate([[0], 2 * coarse - 1 + is_below])
    np.add.at(found.T, np.concatenate([near, near + found.shape[1] // 2]), counts.T)
    return found


def _slots() -> int:
    from merge_on_load.kernels import SLOTS  # here: numba is slow to import

    return SLOTS
