"""Bit-exact: the integer difference of the raw words, entropy coded.

A small change of a float is a small change of its bits read as an integer (FM-Delta,
NeurIPS 2024, builds on the same fact), so the differences have a narrow, peaked distribution. How
wide it is goes by the exponent of the base's weight, which whoever decodes knows: each has a table
of its own (`symbols`), and asymmetric numeral systems code with them (decision 0031).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from merge_on_load.codecs import frames, symbols
from merge_on_load.codecs.codec import CodecSettings, Payload
from merge_on_load.codecs.symbols import Tables
from merge_on_load.errors import CorruptPayload
from merge_on_load.floats import copy_words, matrix
from merge_on_load.specs import TensorSpec, row_count_and_width
from merge_on_load.tensors import raw_bytes, spec_of
from merge_on_load.threads import parallel_map, thread_count

_BLOCK_WORDS = 1 << 17
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Bits of a word below the exponent.
_MANTISSA_BITS = {
    torch.float16: 10,
    torch.bfloat16: 7,
    torch.float32: 23,
    torch.float8_e4m3fn: 3,
    torch.float8_e5m2: 2,
}

Words = npt.NDArray[np.unsignedinteger]


class LosslessCodec:
    """Payload: `tables`, see `symbols.to_bytes`; the coded blocks (`frames`, `lengths`).

    Works for any dtype; the payload bits of NaN survive. A float base of another float dtype is
    cast to the tuned dtype first.
    """

    name = "lossless"
    shared = frozenset[str]()

    def __init__(self, settings: CodecSettings) -> None:
        """Nothing is to be set."""

    def encode(self, name: str, base: torch.Tensor, tuned: torch.Tensor) -> Payload:
        from merge_on_load import kernels

        form = _Form.of(tuned.dtype)
        base_words, tuned_words = form.words(_cast(base, tuned.dtype)), form.words(tuned)
        tables = symbols.choose(_counts(base_words, tuned_words, form), form.word_bits)
        of_context = np.tile(tables.of_context, 2)
        slots = np.empty((len(tables.shares), kernels.SLOTS), np.uint16)
        begins = np.empty_like(tables.shares)
        kernels.encoding_table(tables.shares, begins, slots)

        def encode_block(block: slice) -> bytes:
            found = base_words[block], tuned_words[block]
            out = np.empty(kernels.most_bytes(found[0].size), np.uint8)
            size = kernels.encode_differences(
                *found, form.shift, tables.fine, of_context, tables.shares, begins, slots, out
            )
            return out[:size].tobytes()

        coded = parallel_map(encode_block, _blocks(tuned_words, _BLOCK_WORDS))
        return {
            "tables": torch.from_numpy(symbols.to_bytes(tables).copy()),
            **frames.join(coded),
        }

    def decode(self, base: torch.Tensor, payload: Payload, spec: TensorSpec) -> torch.Tensor:
        tuned = torch.empty(spec.shape, dtype=spec.torch_dtype)
        self.decode_into(tuned, base, payload)
        return tuned

    def decode_into(self, out: torch.Tensor, base: torch.Tensor, payload: Payload) -> None:
        """Fill `out`, contiguous; it may be the base. What is corrupt is found block by block, so a
        part may be written then. Raises CorruptPayload.
        """
        from merge_on_load import kernels

        base = _cast(base, out.dtype)
        if base.shape != out.shape or base.itemsize != out.itemsize:
            expected, found = spec_of(out), spec_of(base)
            raise CorruptPayload("payload is not for this base", expected=expected, found=found)
        form = _Form.of(out.dtype)
        base_words, words = form.words(base), form.words(out)
        blocks = _blocks(words, _BLOCK_WORDS)
        coded = frames.split(payload, len(blocks))
        table = _decoding_table(payload, form)

        def decode_block(numbered: tuple[slice, memoryview]) -> None:
            block, data = numbered
            if not kernels.decode_differences(
                base_words[block], form.shift, table, np.frombuffer(data, np.uint8), words[block]
            ):
                raise CorruptPayload("a block of coded weights does not end where it should")

        parallel_map(decode_block, zip(blocks, coded, strict=True), is_apart=True)

    def parts(self, spec: TensorSpec) -> dict[str, TensorSpec]:
        return {"tensor": TensorSpec(spec.dtype, row_count_and_width(spec.shape))}

    def expand(self, base: torch.Tensor, payload: Payload, spec: TensorSpec) -> Payload:
        return {"tensor": matrix(self.decode(base, payload, spec))}

    def write(self, base: torch.Tensor, parts: Payload, out: torch.Tensor) -> None:
        copy_words(parts["tensor"], out)


@dataclass(frozen=True, slots=True)
class _Form:
    """How a tensor is seen as words. The bits from `shift` up are the sign and the context.

    Words of eight bytes are two of four.
    """

    word_bits: int
    shift: int

    @classmethod
    def of(cls, dtype: torch.dtype) -> "_Form":
        word_bits = 8 * min(4, dtype.itemsize)
        return cls(word_bits, _MANTISSA_BITS.get(dtype, word_bits - 1))

    @property
    def context_count(self) -> int:
        """Both signs are one context."""
        return 1 << (self.word_bits - 1 - self.shift)

    def words(self, tensor: torch.Tensor) -> Words:
        """The raw bits as little-endian unsigned words, flat; a view when contiguous."""
        words: Words = raw_bytes(tensor).view(f"<u{self.word_bits // 8}")
        return words


def _cast(base: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return base.to(dtype) if base.dtype in _FLOATS and dtype in _FLOATS else base


def _blocks(words: Words, step: int) -> list[slice]:
    return [slice(i, min(i + step, words.size)) for i in range(0, words.size, step)]


def _counts(base: Words, tuned: Words, form: _Form) -> symbols.Counts:
    """How often each symbol of the finest alphabet stands in each context."""
    from merge_on_load import kernels

    fine = symbols.finest(form.word_bits)
    size = symbols.alphabet(form.word_bits, fine).size

    def count(block: slice) -> symbols.Counts:
        counts = np.zeros((2 * form.context_count, size), np.int64)
        kernels.count_symbols(base[block], tuned[block], form.shift, fine, counts)
        return counts[: form.context_count] + counts[form.context_count :]

    found = parallel_map(count, _blocks(base, max(_BLOCK_WORDS, -(-base.size // thread_count()))))
    return sum(found, np.zeros((form.context_count, size), np.int64))


def _decoding_table(payload: Payload, form: _Form) -> npt.NDArray[np.uint64]:
    """As `kernels.decode_differences` takes it. Raises CorruptPayload."""
    from merge_on_load import kernels

    stored = payload.get("tables")
    if stored is None or stored.dtype != torch.uint8:
        raise CorruptPayload("payload part 'tables' is not as expected")
    tables: Tables = symbols.from_bytes(raw_bytes(stored), form.context_count, form.word_bits)
    letters = symbols.alphabet(form.word_bits, tables.fine)
    table = np.empty(2 * form.context_count + len(tables.shares) * kernels.SLOTS, np.uint64)
    begins, entries = np.split(table, [2 * form.context_count])
    begins[:] = begins.size + np.tile(tables.of_context, 2).astype(np.uint64) * kernels.SLOTS
    kernels.decoding_table(tables.shares, letters.extra, letters.lowest, entries)
    return table
