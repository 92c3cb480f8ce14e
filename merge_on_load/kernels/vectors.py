"""A line of 32 values as one compiled value: float32 `Lanes`, int32 `Sums`; what is done with them.

LLVM makes of each whatever vector instructions the CPU has, and the same bits on all of them: every
product, sum and conversion is one operation of its own, rounded once to the nearest even.
"""

# Numba has no vectors: these are LLVM's own, so that nothing depends on whether LLVM finds them in
# a loop, and so that a line of results goes to memory without a stop in a buffer: a store of 64
# bytes that reads what two stores wrote waits for both.

import sys
from collections.abc import Sequence
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, models, register_model

LANES = 32
CACHE_LINE_BYTES = 64

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_FLOAT = ir.FloatType()
_HIGH_HALF = 1 if sys.byteorder == "little" else 0  # of a word of 32 bits


class _Vector(types.Type):  # type: ignore[misc]  # numba has no types
    """One word for each lane, of LLVM's type `word`."""

    def __init__(self, name: str, word: Any) -> None:
        self.vector = ir.VectorType(word, LANES)
        super().__init__(name=name)


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]  # numba has no types
    def __init__(self, manager: Any, kind: _Vector) -> None:
        super().__init__(manager, kind, kind.vector)


class _Bfloat(ir.Type):  # type: ignore[misc]  # llvmlite has no types
    """LLVM's bfloat, which llvmlite lacks."""

    def __str__(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Bfloat)

    def __hash__(self) -> int:
        return hash(_Bfloat)


def cpu_has(feature: str) -> bool:
    """Whether this CPU has what LLVM calls so."""
    try:
        return bool(llvmlite.binding.get_host_cpu_features().get(feature, False))
    except RuntimeError:  # LLVM cannot tell of this CPU
        return False


HAS_BF16 = cpu_has("avx512bf16")  # it rounds to bfloat16 in one instruction of 64 bytes
_SPECIAL = 1 << 0 | 1 << 5 | 1 << 7  # quiet NaN, subnormal, signalling NaN; see VFPCLASSPS

Lanes = _Vector("Lanes", _FLOAT)
Sums = _Vector("Sums", _I32)


def constant(word: Any, values: Sequence[Any] | float, count: int = LANES) -> Any:
    """A vector of LLVM's type `word`; one value stands for all."""
    listed = [values] * count if isinstance(values, int | float) else list(values)
    return ir.Constant(ir.VectorType(word, len(listed)), listed)


def place(context: Any, builder: Any, kind: Any, to: Any, array: Any, index: Any) -> Any:
    """The pointer to array[index], to something of LLVM's type `to`. array: contiguous; of several
    axes, index counts all their elements.
    """
    begin = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(begin, [index]), to.as_pointer())


def store_past_caches(builder: Any, value: Any, where: Any) -> None:
    """where: the begin of a cache line."""
    stored = builder.store(value, where, align=CACHE_LINE_BYTES)
    one = builder.module.add_metadata([ir.Constant(_I32, 1)])
    stored.set_metadata("nontemporal", one)


def call(builder: Any, name: str, result: Any, *values: Any) -> Any:
    """What LLVM's own function gives, of LLVM's type `result`."""
    kind = ir.FunctionType(result, [value.type for value in values])
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.call(function, values)


def shuffled(builder: Any, vector: Any, order: Sequence[int]) -> Any:
    """The lanes told, in that order."""
    return builder.shuffle_vector(vector, vector, constant(_I32, order))


@intrinsic
def read(_: Any, row: Any, column: Any) -> Any:
    """row[column : column + LANES] as Lanes, exactly. row: of words, see `lines`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        words = ir.VectorType(context.get_data_type(row.dtype), LANES)
        where = place(context, builder, row, words, *arguments)
        return _to_float(builder, builder.load(where, align=1), row.dtype)

    return Lanes(row, column), generate


def writer(*, is_streamed: bool, has_bf16: bool) -> Any:
    """An intrinsic: row[column : column + LANES] = lanes, rounded to the nearest even.

    Streamed: past the caches; row[column] lies at the begin of a cache line.
    """

    def typed(_: Any, row: Any, column: Any, lanes: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            words = _from_float(builder, arguments[2], row.dtype, has_bf16=has_bf16)
            where = place(context, builder, row, words.type, *arguments[:2])
            if is_streamed:
                store_past_caches(builder, words, where)
            else:
                builder.store(words, where, align=1)
            return context.get_dummy_value()

        return types.void(row, column, lanes), generate

    return intrinsic(typed)


put = writer(is_streamed=False, has_bf16=HAS_BF16)
stream = writer(is_streamed=True, has_bf16=HAS_BF16)


@intrinsic
def splat(_: Any, value: Any) -> Any:
    """Lanes of one float32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _everywhere(builder, arguments[0], LANES)

    return Lanes(types.float32), generate


@intrinsic
def plus(_: Any, first: Any, second: Any) -> Any:
    """The sum of two Lanes."""
    return Lanes(Lanes, Lanes), lambda context, builder, signature, pair: builder.fadd(*pair)


@intrinsic
def times(_: Any, first: Any, second: Any) -> Any:
    """The product of two Lanes."""
    return Lanes(Lanes, Lanes), lambda context, builder, signature, pair: builder.fmul(*pair)


@intrinsic
def signed(_: Any, lanes: Any, signs: Any, index: Any) -> Any:
    """The lanes whose bit is 1, and those whose bit is 0 negated. Bits: uint8 signs[index] and the
    three behind, lane 8i + j in bit j of the i-th.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = _mask(context, builder, signs, *arguments[1:])
        return builder.select(bits, arguments[0], builder.fneg(arguments[0]))

    return Lanes(Lanes, signs, index), generate


@intrinsic
def spread(_: Any, values: Any, at: Any, marks: Any, index: Any) -> Any:
    """A line of nothing, but for the next of float32 values[at:] where a mark is set; see `signed`
    for where marks lie. Nothing is -0.0: added, it changes no number. Reads no more than it needs.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        mask = _mask(context, builder, marks, *arguments[2:])
        where = place(context, builder, values, _FLOAT, *arguments[:2])
        nothing = constant(_FLOAT, -0.0)
        name = f"llvm.masked.expandload.v{LANES}f32"
        return call(builder, name, Lanes.vector, where, mask, nothing)

    return Lanes(values, types.int64, marks, index), generate


@intrinsic
def count_marks(_: Any, marks: Any, index: Any) -> Any:
    """How many of a line's are set; see `signed` for where they lie."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = builder.load(place(context, builder, marks, _I32, *arguments), align=1)
        return builder.zext(builder.ctpop(word), _I64)

    return types.int64(marks, index), generate


@intrinsic
def from_int8(_: Any, values: Any, index: Any) -> Any:
    """int8 values[index : index + LANES] as Lanes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        where = place(context, builder, values, ir.VectorType(_I8, LANES), *arguments)
        return _small_to_float(builder, builder.load(where, align=1))

    return Lanes(values, index), generate


@intrinsic
def to_lanes(_: Any, sums: Any) -> Any:
    """Sums as Lanes, rounded."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.sitofp(arguments[0], Lanes.vector)

    return Lanes(Sums), generate


def odd_steps(bits: int) -> Any:
    """An intrinsic (packed, index) -> Lanes: the word at packed[index], each code c of so many bits
    as 2c - (2**bits - 1). See `codecs.steps` for what a word is.
    """

    def typed(_: Any, packed: Any, index: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            codes = _codes(context, builder, packed, bits, *arguments)
            odd = builder.sub(builder.add(codes, codes), constant(_I8, 2**bits - 1))
            return _small_to_float(builder, odd)

        return Lanes(packed, index), generate

    return intrinsic(typed)


def _codes(context: Any, builder: Any, kind: Any, bits: int, packed: Any, index: Any) -> Any:
    """A word's codes, <32 x i8>."""
    small = ir.VectorType(_I8, LANES)
    if bits == 4:  # 16 bytes, twice: low halves, high halves
        pair = place(context, builder, kind, ir.VectorType(_I64, 2), packed, index)
        twice = shuffled(builder, builder.load(pair, align=1), (0, 1, 0, 1))
        moved = builder.lshr(twice, constant(_I64, (0, 0, 4, 4)))
        return builder.and_(builder.bitcast(moved, small), constant(_I8, 15))
    if bits == 2:  # 8 bytes, four times
        word = builder.load(place(context, builder, kind, _I64, packed, index), align=1)
        moved = builder.lshr(_everywhere(builder, word, 4), constant(_I64, (0, 2, 4, 6)))
        return builder.and_(builder.bitcast(moved, small), constant(_I8, 3))
    if bits == 3:  # as two bits, and the third as signs are
        low = _codes(context, builder, kind, 2, packed, index)
        behind = builder.add(index, ir.Constant(index.type, 8))
        third = _mask(context, builder, kind, packed, behind)
        return builder.add(low, builder.select(third, constant(_I8, 4), constant(_I8, 0)))
    mask = _mask(context, builder, kind, packed, index)
    return builder.zext(mask, small)


def _mask(context: Any, builder: Any, kind: Any, signs: Any, index: Any) -> Any:
    word = builder.load(place(context, builder, kind, _I32, signs, index), align=1)
    return builder.bitcast(word, ir.VectorType(ir.IntType(1), LANES))


def _everywhere(builder: Any, value: Any, count: int) -> Any:
    empty = ir.Constant(ir.VectorType(value.type, count), ir.Undefined)
    first = builder.insert_element(empty, value, ir.Constant(_I32, 0))
    return shuffled(builder, first, [0] * count)


def _small_to_float(builder: Any, small: Any) -> Any:
    return builder.sitofp(builder.sext(small, Sums.vector), Lanes.vector)


def _to_float(builder: Any, words: Any, dtype: Any) -> Any:
    if dtype == types.uint16:
        nothing = constant(_I16, 0)
        order = [i // 2 + (0 if i % 2 == _HIGH_HALF else LANES) for i in range(2 * LANES)]
        spaced = builder.shuffle_vector(words, nothing, constant(_I32, order))
        return builder.bitcast(spaced, Lanes.vector)
    return _half_to_float(builder, words) if dtype == types.int16 else words


def _from_float(builder: Any, lanes: Any, dtype: Any, *, has_bf16: bool) -> Any:
    if dtype == types.uint16:
        return (_bfloat_by_one if has_bf16 else _bfloat_by_bits)(builder, lanes)
    return _half_from_float(builder, lanes) if dtype == types.int16 else lanes


def _bfloat_by_bits(builder: Any, lanes: Any) -> Any:
    bits = builder.bitcast(lanes, Sums.vector)
    odd = builder.and_(builder.lshr(bits, constant(_I32, 16)), constant(_I32, 1))
    rounded = builder.add(builder.add(bits, constant(_I32, 0x7FFF)), odd)
    is_number = builder.fcmp_ordered("ord", lanes, lanes)
    found = builder.select(is_number, rounded, constant(_I32, 0x7FC00000))
    halves = builder.bitcast(found, ir.VectorType(_I16, 2 * LANES))
    return shuffled(builder, halves, range(_HIGH_HALF, 2 * LANES, 2))  # faster than a shift


def _bfloat_by_one(builder: Any, lanes: Any) -> Any:
    """By AVX-512's instruction for it, which takes subnormal numbers for zeros and leaves NaN as it
    was: lines with one of those go the other way.
    """
    halves = [
        shuffled(builder, lanes, range(begin, begin + LANES // 2)) for begin in (0, LANES // 2)
    ]
    few_bits = ir.VectorType(ir.IntType(1), LANES // 2)
    special, name = ir.Constant(_I32, _SPECIAL), "llvm.x86.avx512.fpclass.ps.512"
    masks = [builder.bitcast(call(builder, name, few_bits, one, special), _I16) for one in halves]
    are_special = builder.icmp_unsigned("!=", builder.or_(*masks), ir.Constant(_I16, 0))
    with builder.if_else(are_special, likely=False) as (then, otherwise):
        with then:
            slowly, slow_block = _bfloat_by_bits(builder, lanes), builder.block
        with otherwise:
            kind, name = ir.VectorType(_Bfloat(), LANES), "llvm.x86.avx512bf16.cvtne2ps2bf16.512"
            rounded = call(builder, name, kind, halves[1], halves[0])
            fast, fast_block = builder.bitcast(rounded, slowly.type), builder.block
    found = builder.phi(slowly.type)
    found.add_incoming(slowly, slow_block)
    found.add_incoming(fast, fast_block)
    return found


# The two conversions of float16 follow F. Giesen, see `lines`: not every CPU has instructions.


def _half_to_float(builder: Any, words: Any) -> Any:
    half = builder.zext(words, Sums.vector)
    bits = builder.shl(builder.and_(half, constant(_I32, 0x7FFF)), constant(_I32, 13))
    exponent = builder.and_(bits, constant(_I32, 0x0F800000))
    normal = builder.add(bits, constant(_I32, 0x38000000))
    infinite = builder.add(normal, constant(_I32, 0x38000000))
    raised = builder.bitcast(builder.add(normal, constant(_I32, 0x00800000)), Lanes.vector)
    subnormal = builder.bitcast(builder.fsub(raised, constant(_FLOAT, 2.0**-14)), Sums.vector)
    is_subnormal = builder.icmp_unsigned("==", exponent, constant(_I32, 0))
    is_infinite = builder.icmp_unsigned("==", exponent, constant(_I32, 0x0F800000))
    found = builder.select(is_subnormal, subnormal, normal)
    found = builder.select(is_infinite, infinite, found)
    sign = builder.shl(builder.and_(half, constant(_I32, 0x8000)), constant(_I32, 16))
    return builder.bitcast(builder.or_(found, sign), Lanes.vector)


def _half_from_float(builder: Any, lanes: Any) -> Any:
    signed_bits = builder.bitcast(lanes, Sums.vector)
    sign = builder.and_(signed_bits, constant(_I32, 0x80000000))
    bits = builder.xor(signed_bits, sign)
    odd = builder.and_(builder.lshr(bits, constant(_I32, 13)), constant(_I32, 1))
    normal = builder.add(builder.add(bits, constant(_I32, 0xC8000FFF)), odd)
    normal = builder.lshr(normal, constant(_I32, 13))
    shifted = builder.fadd(builder.bitcast(bits, Lanes.vector), constant(_FLOAT, 0.5))
    subnormal = builder.sub(builder.bitcast(shifted, Sums.vector), constant(_I32, 0x3F000000))
    found = normal
    for relation, limit, instead in (
        ("<", 0x38800000, subnormal),
        (">=", 0x47800000, constant(_I32, 0x7C00)),
        (">", 0x7F800000, constant(_I32, 0x7E00)),
    ):
        is_so = builder.icmp_unsigned(relation, bits, constant(_I32, limit))
        found = builder.select(is_so, instead, found)
    found = builder.or_(found, builder.lshr(sign, constant(_I32, 16)))
    return builder.trunc(found, ir.VectorType(_I16, LANES))
