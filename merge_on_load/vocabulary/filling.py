"""One rearranged tensor, a block of rows after another."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from merge_on_load.errors import MergeError, NonFinite, ShapeMismatch, UnsupportedDtype
from merge_on_load.rounding import FLOATS, Float32, Words, as_words, from_float32, to_float32
from merge_on_load.vocabulary.names import counterpart
from merge_on_load.vocabulary.rows import LACKS, MEAN, Numbers, Rows

if TYPE_CHECKING:
    from merge_on_load.recipes.sources import Source
    from merge_on_load.specs import TensorSpec

_BLOCK_BYTES = 1 << 20

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor whose rows are needed."""

    source: "Source"
    tensor: str
    spec: "TensorSpec"


class Filling:
    """The rows of one tensor of one model, from its own and from other models' tensors.

    parts: what is read, by member; members that have no such tensor (a bias) have zeros for it.
    """

    def __init__(self, name: str, member: int, rows: Rows, sources: Sequence["Source"]) -> None:
        """sources: by member. Raises ShapeMismatch, UnsupportedDtype where rows do not fit."""
        self._member = member
        self._rows = rows
        self._is_own = rows.is_own(member)
        self._spec = sources[member].spec(name)
        self.parts: dict[int, Part] = {}
        for place, last_row in rows.reads(member).items():
            tensor = name if place == member else counterpart(sources[place], name)
            if tensor is not None:
                part = Part(sources[place], tensor, sources[place].spec(tensor))
                self._check(part, last_row)
                self.parts[place] = part

    def blocks(self) -> Iterator[Words]:
        """All rows, in their order: unsigned words [some, row width]. Raises MergeError."""
        begun: list[Part] = []
        try:
            words = {}
            for place, part in self.parts.items():
                begun.append(part)
                words[place] = _matrix(part)
            step = max(1, _BLOCK_BYTES // max(1, self._width * self._spec.item_bytes))
            for begin in range(0, self._rows.size, step):
                yield self._block(slice(begin, min(begin + step, self._rows.size)), words)
        finally:
            for part in begun:
                part.source.release(part.tensor)

    @property
    def _width(self) -> int:
        return math.prod(self._spec.shape[1:])

    def _check(self, part: Part, last_row: int) -> None:
        found = part.spec.shape
        if found[1:] != self._spec.shape[1:] or len(found) != len(self._spec.shape):
            raise ShapeMismatch(
                "rows of another width: a token of one model has no place in the other",
                file=part.source.path,
                tensor=part.tensor,
                expected=["any", *self._spec.shape[1:]],
                found=list(found),
            )
        if found[0] <= last_row:
            raise ShapeMismatch(
                "fewer rows than the model's vocabulary needs",
                file=part.source.path,
                tensor=part.tensor,
                expected=f"{last_row + 1} or more",
                found=list(found),
            )
        if part.spec.dtype != self._spec.dtype or self._rows.has_means(self._member):
            for spec in (part.spec, self._spec):
                try:
                    _check_float(spec.dtype)
                except MergeError as error:
                    raise error.located(file=part.source.path, tensor=part.tensor) from error

    def _block(self, where: slice, words: Mapping[int, Words]) -> Words:
        is_own = self._is_own[where]
        own = self._rows.own[self._member, where]
        if is_own.all():
            return words[self._member][own]
        block = np.zeros((is_own.size, self._width), f"u{self._spec.item_bytes}")
        block[is_own] = words[self._member][own[is_own]]
        donor = self._rows.donor[where]
        for place in np.unique(donor[~is_own]):
            chosen = ~is_own & (donor == place)
            if place == MEAN:
                block[chosen] = self._mean(self._rows.own[:, where][:, chosen], words)
            elif place in self.parts:
                numbers = self._rows.donor_row[where][chosen]
                block[chosen] = self._taken(self.parts[place], words[int(place)][numbers])
        return block

    def _taken(self, part: Part, found: Words) -> Words:
        if part.spec.dtype == self._spec.dtype:
            return found
        return self._rounded(_finite(part, to_float32(found, part.spec.dtype)))

    def _mean(self, own: Numbers, words: Mapping[int, Words]) -> Words:
        """own: [member, token]: of those that are not LACKS. Summed in the members' order."""
        has = own != LACKS
        total = np.zeros((own.shape[1], self._width), np.float32)
        for place, part in self.parts.items():
            found = words[place][own[place, has[place]]]
            total[has[place]] += _finite(part, to_float32(found, part.spec.dtype))
        total /= has.sum(axis=0, dtype=np.float32)[:, None]
        return self._rounded(total)

    def _rounded(self, values: Float32) -> Words:
        rounded = from_float32(values, self._spec.dtype)
        own = self.parts[self._member]
        _finite(own, to_float32(rounded, self._spec.dtype))
        return rounded


def _matrix(part: Part) -> Words:
    raw = part.source.raw(part.tensor)
    return as_words(raw, part.spec.item_bytes).reshape(part.spec.shape[0], -1)


def _finite(part: Part, values: Float32) -> Float32:
    if not np.isfinite(values).all():
        raise NonFinite(
            "a token's embedding has NaN or infinity, or has them in another model's dtype",
            file=part.source.path,
            tensor=part.tensor,
        )
    return values


def _check_float(dtype: str) -> None:
    """dtype: a safetensors name. Raises UnsupportedDtype for what has no rows to be averaged."""
    if dtype not in FLOATS:
        raise UnsupportedDtype(
            "embeddings of another model, or a mean of several, cannot be had in this dtype",
            expected=", ".join(FLOATS),
            found=dtype,
        )
