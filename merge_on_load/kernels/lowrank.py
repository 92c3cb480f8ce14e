"""A product of two thin matrices of integers added to the base, and one sign a weight beside it.

The product is a sum of integers, so it is exact in any order: each CPU adds as it can best.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit
from numba.core import types
from numba.extending import intrinsic

from merge_on_load.kernels.lines import (
    add,
    add_rest,
    compiled,
    fence,
    is_to_be_streamed,
    spare_lines,
)
from merge_on_load.kernels.vectors import (
    LANES,
    Sums,
    call,
    constant,
    cpu_has,
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
_STRETCH_BYTES = 1 << 18  # of `right`: stays in the second cache while all rows go over it
_BIAS = 0x80808080  # makes four signed bytes unsigned ones, 128 more each

_HAS_VNNI = cpu_has("avx512vnni")  # it multiplies and adds small integers, 64 bytes at once

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
    found = []
    for begin in (0, LANES // 2):
        order = range(begin, begin + LANES // 2)
        parts = (shuffled(builder, one, order) for one in (sums, words, columns))
        found.append(call(builder, name, half, *parts))
    return builder.shuffle_vector(*found, constant(_I32, range(LANES)))


@njit
def _change(
    sums: Any, size: Any, scales: Any, sign_size: Any, signs: Any, row: int, column: int
) -> Any:
    """What is added to a line of a row, from `column` on."""
    change = times(times(to_lanes(sums), size), read(scales, column))
    if signs.shape[1]:
        change = plus(change, signed(sign_size, signs, row * signs.shape[1] + column // 8))
    return change


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

    # Below, by places in the whole of each array: a slice for each line would take as long as it.

    @njit
    def product(words: Any, row: int, count: int, right: Any, starts: Any, line: int) -> Any:
        """The sums of a row and a line. words: of all rows, biased, `count` a row."""
        sums, at = _read_sums(starts, line * LANES), line * right.shape[1]
        for k in range(count):
            sums = dot(sums, words[row * count + k], right, at + k * (LANES * each))
        return sums

    @njit
    def add_four(
        base: Any,
        row: int,
        lines: Any,
        words: Any,
        count: int,
        right: Any,
        starts: Any,
        left_scale: Any,
        scales: Any,
        signs: Any,
        sign_scale: Any,
        out: Any,
        is_streamed: bool,
    ) -> None:
        """Four rows from `row` on, lines[0] to lines[1] of them, which are whole."""
        r0, r1, r2, r3 = row, row + 1, row + 2, row + 3
        width, row_size = base.shape[1], right.shape[1]
        size0, size1 = splat(left_scale[r0]), splat(left_scale[r1])
        size2, size3 = splat(left_scale[r2]), splat(left_scale[r3])
        sign0, sign1 = splat(sign_scale[r0]), splat(sign_scale[r1])
        sign2, sign3 = splat(sign_scale[r2]), splat(sign_scale[r3])
        for line in range(lines[0], lines[1]):
            s0 = s1 = s2 = s3 = _read_sums(starts, line * LANES)
            for k in range(count):
                at = line * row_size + k * (LANES * each)
                s0 = dot(s0, words[r0 * count + k], right, at)
                s1 = dot(s1, words[r1 * count + k], right, at)
                s2 = dot(s2, words[r2 * count + k], right, at)
                s3 = dot(s3, words[r3 * count + k], right, at)
            c = line * LANES
            change0 = _change(s0, size0, scales, sign0, signs, r0, c)
            change1 = _change(s1, size1, scales, sign1, signs, r1, c)
            change2 = _change(s2, size2, scales, sign2, signs, r2, c)
            change3 = _change(s3, size3, scales, sign3, signs, r3, c)
            add(base, r0 * width + c, change0, out, is_streamed)
            add(base, r1 * width + c, change1, out, is_streamed)
            add(base, r2 * width + c, change2, out, is_streamed)
            add(base, r3 * width + c, change3, out, is_streamed)

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
        (rows, width), lines = base.shape, right.shape[0]
        is_streamed, spare = is_to_be_streamed(out), spare_lines(base, out)
        words, count, starts = left.reshape(left.size) ^ bias, left.shape[1], starts_of(right)
        whole, fours = width // LANES, rows - rows % _ROWS
        stretch = max(1, _STRETCH_BYTES // max(1, right.shape[1] * right.itemsize))
        for first in range(0, whole, stretch):
            some = first, min(first + stretch, whole)
            for row in range(0, fours, _ROWS):
                add_four(
                    *(base, row, some, words, count, right, starts),
                    *(left_scale, right_scale, signs, sign_scale, out, is_streamed),
                )
        for row in range(rows):  # what is no group of four, and the end of each row
            size, sign_size, begin = splat(left_scale[row]), splat(sign_scale[row]), row * width
            for line in range(whole if row < fours else 0, lines):
                sums, column = product(words, row, count, right, starts, line), line * LANES
                change = _change(sums, size, right_scale, sign_size, signs, row, column)
                if line < whole:
                    add(base, begin + column, change, out, is_streamed)
                else:
                    add_rest(base[row], column, change, out[row], spare)
        if is_streamed:
            fence()

    made: Callable[..., None] = compiled(add_product, f"{bits} bits, {has_vnni=}")
    return made


_ADDERS = {bits: adder(bits, has_vnni=_HAS_VNNI) for bits in (8, 16)}


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
