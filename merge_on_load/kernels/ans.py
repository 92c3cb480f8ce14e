"""Integer differences from the base, coded by a table-driven asymmetric numeral system.

J. Duda, arXiv:1311.2540; the tables are spread and walked as in Y. Collet's Finite State Entropy.
A coded block is: the first state of each lane (uint16), then one string of bits, then PAD_BYTES.
Weight i belongs to lane i % STATES: the lanes' states do not wait for each other, which is what
makes decoding fast. A weight takes bits for its lane's next state, then the low bits of its
difference as they are.

Which table holds is told by the upper bits of the base's word, which whoever decodes has too. What
symbols mean, `codecs/symbols.py` says.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit
from numba.core import types
from numba.extending import intrinsic, overload

from merge_on_load.kernels.lines import compiled

LOG_SLOTS = 10
SLOTS = 1 << LOG_SLOTS
STATES = 16
PAD_BYTES = 8
_HEAD_BYTES = 2 * STATES
_MOST_BITS = 48  # of one weight: a state's, and 31 low ones


@intrinsic
def _load_bits(_: Any, data: Any, position: Any) -> Any:
    """The 64 bits at a bit of uint8[bytes], of which those past the first 57 may be zeros."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        at = arguments[1]
        place = builder.gep(pointer, [builder.lshr(at, ir.Constant(at.type, 3))])
        word = builder.load(builder.bitcast(place, ir.IntType(64).as_pointer()), align=1)
        return builder.lshr(word, builder.and_(at, ir.Constant(at.type, 7)))

    return types.uint64(data, types.uint64), generate


@njit
def _low(bits: Any, count: Any) -> Any:
    return bits & ((np.uint64(1) << np.uint64(count)) - np.uint64(1))


@njit
def _symbol(difference: Any, word_bits: Any, fine: Any) -> tuple[Any, Any, Any]:
    """The symbol of a difference modulo its word, how many low bits stand beside it, and those."""
    half, quarter = np.int64(1) << (word_bits - 1), np.int64(1) << (word_bits - 2)
    rest = ((np.int64(difference) + quarter) & (half - 1)) - quarter
    is_far = ((np.int64(difference) - rest) >> (word_bits - 1)) & 1
    symbol: Any = is_far * (((word_bits - fine) << (fine + 1)) - 1)
    extra: Any = np.int64(0)
    low: Any = np.int64(0)
    if rest != 0:
        is_below = np.int64(rest < 0)
        size = abs(rest)
        highest = (np.float64(size).view(np.int64) >> 52) - 1023
        extra = max(highest - fine, np.int64(0))
        symbol += 2 * ((extra << fine) + (size >> extra)) - 1 + is_below
        low = size & ((np.int64(1) << extra) - 1)
        if is_below:
            low = ((np.int64(1) << extra) - 1) - low
    return symbol, extra, low


def _count_symbols(base: Any, tuned: Any, shift: int, fine: int, counts: Any) -> None:
    """Add to counts, int64[contexts, symbols], how often each symbol stands in each context."""
    for i in range(base.shape[0]):
        difference = base.dtype.type(tuned[i] - base[i])
        symbol, _, _ = _symbol(difference, 8 * base.itemsize, fine)
        counts[np.int64(base[i]) >> shift, symbol] += 1


@njit
def _spread(shares: Any, symbols: Any) -> None:
    """symbols[slot]: each symbol in as many slots as its share, [symbols], far from each other."""
    step, slot = (SLOTS >> 1) + (SLOTS >> 3) + 3, 0
    for symbol in range(shares.shape[0]):
        for _ in range(shares[symbol]):
            symbols[slot] = symbol
            slot = (slot + step) & (SLOTS - 1)


def _decoding_table(shares: Any, extra: Any, lowest: Any, table: Any) -> None:
    """shares: uint16[tables, symbols], each table's summing up to SLOTS. extra, lowest: of each
    symbol, how many low bits it has and the least difference, uint32.

    table: uint64[tables * SLOTS]: of 16, 32, 8, 8 bits the first next state, the least difference,
    the state's bits and all bits.
    """
    symbols = np.empty(SLOTS, np.int64)
    for number in range(shares.shape[0]):
        _spread(shares[number], symbols)
        following = shares[number].astype(np.int64)
        for slot in range(SLOTS):
            symbol = symbols[slot]
            state = following[symbol]
            following[symbol] += 1
            bits = 0
            while state << bits < SLOTS:
                bits += 1
            first = (state << bits) - SLOTS
            table[number * SLOTS + slot] = (
                np.uint64(first << 48)
                | np.uint64(lowest[symbol]) << np.uint64(16)
                | np.uint64(bits << 8 | (bits + extra[symbol]))
            )


def _encoding_table(shares: Any, begins: Any, table: Any) -> None:
    """table: uint16[tables, SLOTS]: the slots of each symbol in their order; those of a symbol
    begin at begins, uint16[tables, symbols], which is filled too.
    """
    symbols = np.empty(SLOTS, np.int64)
    for number in range(shares.shape[0]):
        _spread(shares[number], symbols)
        sum_of_shares = 0
        for symbol in range(shares.shape[1]):
            begins[number, symbol] = sum_of_shares
            sum_of_shares += shares[number, symbol]
        following = begins[number].copy()
        for slot in range(SLOTS):
            table[number, following[symbols[slot]]] = slot
            following[symbols[slot]] += 1


def _encode(
    base: Any,
    tuned: Any,
    shift: int,
    fine: int,
    tables: Any,
    shares: Any,
    begins: Any,
    slots: Any,
    out: Any,
) -> int:
    """Fill out, uint8[at least most_bytes(words)], and tell how many bytes.

    tables: uint8[contexts], the table of each; then what `encoding_table` took and gave.
    """
    count = base.shape[0]
    chunks, sizes = np.empty(count, np.uint64), np.empty(count, np.uint8)
    states = np.full(STATES, SLOTS, np.int64)
    for i in range(count - 1, -1, -1):  # what is coded last is decoded first
        number = tables[np.int64(base[i]) >> shift]
        symbol, extra, low = _symbol(base.dtype.type(tuned[i] - base[i]), 8 * base.itemsize, fine)
        share, state, bits = np.int64(shares[number, symbol]), states[i % STATES], 0
        while state >> bits >= 2 * share:
            bits += 1
        chunks[i] = np.uint64(low << bits | state & ((1 << bits) - 1))
        sizes[i] = bits + extra
        place = begins[number, symbol] + (state >> bits) - share
        states[i % STATES] = SLOTS + slots[number, place]
    for lane in range(STATES):
        first = states[lane] - SLOTS
        out[2 * lane], out[2 * lane + 1] = first & 255, first >> 8
    at, waiting, held = _HEAD_BYTES, np.uint64(0), 0
    for i in range(count):
        waiting |= chunks[i] << np.uint64(held)
        held += sizes[i]
        while held >= 8:
            out[at] = waiting & np.uint64(255)
            waiting >>= np.uint64(8)
            held -= 8
            at += 1
    if held:
        out[at] = waiting
        at += 1
    out[at : at + PAD_BYTES] = 0
    return at + PAD_BYTES


@njit
def _step(word: Any, states: Any, lane: Any, shift: Any, table: Any, bits: Any) -> Any:
    """The word of the result, and how many bits it took. Moves the lane on."""
    entry = table[table[word >> shift] + states[lane]]
    state_bits, all_bits = (entry >> np.uint64(8)) & np.uint64(255), entry & np.uint64(255)
    states[lane] = (entry >> np.uint64(48)) + _low(bits, state_bits)
    low = _low(bits, all_bits) >> state_bits
    return word + low + (entry >> np.uint64(16)), all_bits


def _next_bits(bits: Any, taken: Any, data: Any, at: Any, words: Any) -> Any:
    """The bits at `at`, which is so many after those at hand: of two short words' all are there."""
    raise NotImplementedError("exists in compiled code only")


@overload(_next_bits)
def _next_bits_as(bits: Any, taken: Any, data: Any, at: Any, words: Any) -> Any:
    def left(bits: Any, taken: Any, data: Any, at: Any, words: Any) -> Any:
        return bits >> taken

    def loaded(bits: Any, taken: Any, data: Any, at: Any, words: Any) -> Any:
        return _load_bits(data, at)

    return left if words.dtype.bitwidth <= 16 else loaded


def _decode(base: Any, shift: int, table: Any, data: Any, out: Any) -> bool:
    """Fill out, words like base's, and tell whether data, uint8[bytes], ended as a block does.

    table: uint64: for each context, which is base >> shift, where its table begins; then the tables
    of `decoding_table`. Never reads beyond data.
    """
    count, size = base.shape[0], data.shape[0]
    if size < _HEAD_BYTES + PAD_BYTES:
        return False
    states = np.empty(STATES, np.uint64)
    for k in range(STATES):
        states[k] = np.uint64((data[2 * k] | data[2 * k + 1] << 8) & (SLOTS - 1))
    at: Any = np.uint64(8 * _HEAD_BYTES)
    i = 0
    last = np.int64(8 * (size - 8) - STATES * _MOST_BITS)
    by = np.uint64(shift)
    while i + STATES <= count and np.int64(at) <= last:
        from_words, to_words = base[i : i + STATES], out[i : i + STATES]
        for pair in range(STATES // 2):
            lane = np.uint64(2 * pair)
            next_lane = lane + np.uint64(1)
            bits = _load_bits(data, at)
            to_words[lane], taken = _step(from_words[lane], states, lane, by, table, bits)
            at += taken
            bits = _next_bits(bits, taken, data, at, base)
            to_words[next_lane], taken = _step(
                from_words[next_lane], states, next_lane, by, table, bits
            )
            at += taken
        i += STATES
    while i < count:
        if np.int64(at) > 8 * (size - 8):
            return False
        lane = np.uint64(i % STATES)
        out[i], taken = _step(base[i], states, lane, by, table, _load_bits(data, at))
        at += taken
        i += 1
    for k in range(STATES):
        if states[k] != 0:
            return False
    return bool((np.int64(at) + 7) // 8 + PAD_BYTES == size)


count_symbols = compiled(_count_symbols)
decoding_table = compiled(_decoding_table)
encoding_table = compiled(_encoding_table)
encode_differences = compiled(_encode)
decode_differences = compiled(_decode)


def most_bytes(count: int) -> int:
    """A coded block of so many weights is not larger."""
    return _HEAD_BYTES + count * _MOST_BITS // 8 + 1 + PAD_BYTES
