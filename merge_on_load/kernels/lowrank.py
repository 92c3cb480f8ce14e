"""A product of two thin matrices of integers added to the base, and one sign a weight beside it.

The product is a sum of integers, so it is exact in any order: each CPU adds as it can best.
"""

from collections.abc import Callable
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import njit
from numba.core import cgutils, types
from numba.extending import intrinsic

from merge_on_load.kernels.lines import (
    add,
    add_rest,
    compiled,
    fence,
    fetch_ahead,
    is_to_be_streamed,
    spare_lines,
)
from merge_on_load.kernels.vectors import (
    LANES,
    Sums,
    constant,
    place,
    plus,
    read,
    shuffled,
    signed,
    splat,
    times,
    to_lanes,
)

_ROWS = 4  # that are multiplied at once, so that `right` is read once for all of them
_LINES = 128  # whose sums wait in the second cache; of fewer, calls would take as long
_STRETCH_BYTES = 1 << 18  # of `right`: stays in the second cache while all rows go over it
_BIAS = 0x80808080  # makes four signed bytes unsigned ones, 128 more each

_I32 = ir.IntType(32)


@intrinsic
def _zeros(_: Any) -> Any:
    """Sums of nothing."""
    return Sums(), lambda context, builder, signature, arguments: constant(_I32, 0)


@intrinsic
def _read_sums(_: Any, row: Any, column: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        where = place(context, builder, row, Sums.vector, *arguments)
        return builder.load(where, align=1)

    return Sums(row, column), generate


@intrinsic
def _put_sums(_: Any, row: Any, column: Any, sums: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        where = place(context, builder, row, Sums.vector, *arguments[:2])
        builder.store(arguments[2], where, align=1)
        return context.get_dummy_value()

    return types.void(row, column, Sums), generate


def _dot(bits: int, *, has_vnni: bool) -> Any:
    """An intrinsic (sums, word, right, index) -> sums + the products of the word's factors with
    those of 32 columns at right[index].

    Of 8 bits: four factors, the word's being unsigned; of 16 bits two, all signed.
    """
    each = 32 // bits

    def typed(_: Any, sums: Any, word: Any, right: Any, index: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            begin, word_value, factors, at = arguments
            where = place(context, builder, right, Sums.vector, factors, at)
            columns = builder.load(where, align=1)
            empty = ir.Constant(Sums.vector, ir.Undefined)
            first = builder.insert_element(empty, word_value, ir.Constant(_I32, 0))
            words = shuffled(builder, first, [0] * LANES)
            if has_vnni:
                return _dot_of_vnni(builder, bits, begin, words, columns)
            small = ir.VectorType(ir.IntType(bits), LANES * each)
            wide = ir.VectorType(_I32, LANES * each)
            widen = builder.zext if bits == 8 else builder.sext
            products = builder.mul(
                widen(builder.bitcast(words, small), wide),
                builder.sext(builder.bitcast(columns, small), wide),
            )
            while products.type.count > LANES:
                count = products.type.count
                even, odd = (shuffled(builder, products, range(i, count, 2)) for i in (0, 1))
                products = builder.add(even, odd)
            return builder.add(begin, products)

        return Sums(Sums, types.uint32, right, index), generate

    return intrinsic(typed)


def _dot_of_vnni(builder: Any, bits: int, sums: Any, words: Any, columns: Any) -> Any:
    """By AVX-512's instruction for it, sixteen lanes at a time."""
    half = ir.VectorType(_I32, LANES // 2)
    name = {8: "llvm.x86.avx512.vpdpbusd.512", 16: "llvm.x86.avx512.vpdpwssd.512"}[bits]
    kind = ir.FunctionType(half, (half, half, half))
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    found = []
    for begin in (0, LANES // 2):
        order = range(begin, begin + LANES // 2)
        parts = (shuffled(builder, one, order) for one in (sums, words, columns))
        found.append(builder.call(function, tuple(parts)))
    return builder.shuffle_vector(*found, constant(_I32, range(LANES)))


def has_vnni() -> bool:
    """Whether this CPU multiplies and adds small integers in one instruction of 64 bytes."""
    try:
        return bool(llvmlite.binding.get_host_cpu_features().get("avx512vnni", False))
    except RuntimeError:  # LLVM cannot tell of this CPU
        return False


@njit
def _changes(sums: Any, at: int, size: Any, scales: Any, column: int) -> Any:
    """sums * scale * column_scale of a line, sums[at:]."""
    return times(times(to_lanes(_read_sums(sums, at)), size), read(scales, column))


@njit
def _add_sums(
    base: Any,
    rows: Any,
    sums: Any,
    first: int,
    end: int,
    left_scale: Any,
    right_scale: Any,
    signs: Any,
    sign_scale: Any,
    out: Any,
    spare: Any,
    is_streamed: bool,
) -> None:
    """Lines first..end of some rows of what `add_product` tells. rows: begin and end of them."""
    # By places in the whole of each array: a slice for each few lines would take as long as they.
    width, sign_bytes = base.shape[1], signs.shape[1]
    whole = width - width % LANES
    for r in range(rows[0], rows[1]):
        size, sign_size = splat(left_scale[r]), splat(sign_scale[r])
        at = ((r - rows[0]) * _LINES - first) * LANES
        for column in range(first * LANES, min(end * LANES, whole), LANES):
            change = _changes(sums, at + column, size, right_scale, column)
            if sign_bytes:
                change = plus(change, signed(sign_size, signs, r * sign_bytes + column // 8))
            add(base, r * width + column, change, out, is_streamed)
        if whole < min(width, end * LANES):
            change = _changes(sums, at + whole, size, right_scale, whole)
            if sign_bytes:
                change = plus(change, signed(sign_size, signs, r * sign_bytes + whole // 8))
            add_rest(base[r], whole, change, out[r], spare)


def adder(bits: int, *, has_vnni: bool) -> Callable[..., None]:
    """`add_product` for factors of so many bits."""
    each = 32 // bits  # factors of one word
    dot, bias = _dot(bits, has_vnni=has_vnni), np.uint32(_BIAS if bits == 8 else 0)

    @njit
    def starts_of(right: Any) -> Any:
        """What takes the bias away again from each column's sums."""
        found = np.zeros(right.shape[0] * LANES, np.int32)
        for line in range(right.shape[0] if bits == 8 else 0):
            factors, sums = right[line], _zeros()
            for index in range(0, factors.size, LANES * each):
                sums = dot(sums, bias, factors, index)
            _put_sums(found, line * LANES, sums)
        return np.negative(found)

    @njit
    def multiply(
        left: Any, rows: Any, right: Any, first: int, end: int, starts: Any, sums: Any, base: Any
    ) -> None:
        """sums = the products of four rows and some lines; those of `base` come meanwhile.

        left: the words of all rows, biased. rows: which four.
        """
        width = base.shape[1]
        row_size = right.shape[1]
        words = row_size // (LANES * each)
        left0, left1, left2, left3 = (
            rows[0] * words,
            rows[1] * words,
            rows[2] * words,
            rows[3] * words,
        )
        for line in range(first, end):
            for row in rows:
                fetch_ahead(base, row * width + line * LANES)
            s0 = s1 = s2 = s3 = _read_sums(starts, line * LANES)
            for k in range(words):
                at = line * row_size + k * (LANES * each)
                s0 = dot(s0, left[left0 + k], right, at)
                s1 = dot(s1, left[left1 + k], right, at)
                s2 = dot(s2, left[left2 + k], right, at)
                s3 = dot(s3, left[left3 + k], right, at)
            column = (line - first) * LANES
            _put_sums(sums, column, s0)
            _put_sums(sums, column + _LINES * LANES, s1)
            _put_sums(sums, column + 2 * _LINES * LANES, s2)
            _put_sums(sums, column + 3 * _LINES * LANES, s3)

    def add_product(
        base: Any,
        left: Any,
        right: Any,
        left_scale: Any,
        right_scale: Any,
        signs: Any,
        sign_scale: Any,
        out: Any,
    ) -> None:
        rows, lines = base.shape[0], right.shape[0]
        is_streamed, spare = is_to_be_streamed(out), spare_lines(base, out)
        starts, sums = starts_of(right), np.empty(_ROWS * _LINES * LANES, np.int32)
        words = left.reshape(left.size) ^ bias
        stretch = max(1, _STRETCH_BYTES // max(1, right.shape[1] * right.itemsize))
        for first in range(0, lines, stretch):
            for row in range(0, rows, _ROWS):
                last = rows - 1  # taken again where there are not four
                four = row, min(row + 1, last), min(row + 2, last), min(row + 3, last)
                for begin in range(first, min(first + stretch, lines), _LINES):
                    end = min(begin + _LINES, first + stretch, lines)
                    multiply(words, four, right, begin, end, starts, sums, base)
                    _add_sums(
                        *(base, (row, min(row + _ROWS, rows)), sums, begin, end),
                        *(left_scale, right_scale, signs, sign_scale),
                        *(out, spare, is_streamed),
                    )
        if is_streamed:
            fence()

    made: Callable[..., None] = compiled(add_product)
    return made


_ADDERS = {bits: adder(bits, has_vnni=has_vnni()) for bits in (8, 16)}


def add_product(
    base: Any,
    left: Any,
    right: Any,
    left_scale: Any,
    right_scale: Any,
    signs: Any,
    sign_scale: Any,
    out: Any,
) -> None:
    """out = base + (left @ right * left_scale * right_scale + signs * sign_scale).

    The sum of integers is exact, below 2**31; it, each product and each sum of float32 are rounded
    in the order told. left: int8 or int16 [rows, ranks], whole words of four bytes. right: as many
    bits, [lines, ranks * 32]: of 32 columns each, for each word of ranks the columns, their ranks
    side by side. left_scale: float32[rows]. right_scale: float32[lines * 32]. signs: uint8[rows,
    4 * lines], 32 columns a word, or of no columns: then there are none. sign_scale: float32[rows].
    """
    words = left.view(np.uint32)
    adding = _ADDERS[8 * left.itemsize]
    adding(base, words, right, left_scale, right_scale, signs, sign_scale, out)
