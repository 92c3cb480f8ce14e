"""What every `merge` does around its kernels: blocks, where the words lie, what is refused."""

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from merge_on_load.errors import NonFinite
from merge_on_load.methods.method import Input, Out, Task, Words

Addresses = npt.NDArray[np.int64]  # [count, 2] or [2]: where the words lie, and their kind
Flags = npt.NDArray[np.bool_]

BLOCK_ELEMENTS = 1 << 16  # with its inputs and result, stays in a core's cache

MASK_GROUP = 256  # elements whose bits lie together in a mask of what pruning keeps

# Kinds of words, as compiled code tells them apart.
BFLOAT16, FLOAT16, FLOAT32 = range(3)
_KINDS = {"uint16": BFLOAT16, "int16": FLOAT16, "float32": FLOAT32}


def address(words: Words) -> tuple[int, int]:
    """Where the words begin, and their kind. Good as long as the array lives."""
    if words.ndim != 1 or not (words.flags.c_contiguous or words.size == 0):
        raise TypeError("words must be flat and contiguous")
    return int(words.__array_interface__["data"][0]), _KINDS[words.dtype.name]


def addresses(inputs: tuple[Input, ...]) -> Addresses:
    """[len(inputs), 2], in their order."""
    return np.array([address(one.words) for one in inputs], np.int64).reshape(-1, 2)


def blocks(
    element_count: int, multiple: int = 1, size: int | None = None
) -> Iterator[tuple[int, int]]:
    """(begin, end) of about BLOCK_ELEMENTS each, all but the last a multiple of `multiple`."""
    step = max(1, (size or BLOCK_ELEMENTS) // max(1, multiple)) * max(1, multiple)
    for begin in range(0, element_count, step):
        yield begin, min(begin + step, element_count)


class Filling:
    """The result, filled block by block by kernels.

        filling = Filling(task, out)
        for begin, end, room in filling:
            kernel(filling.sources, ..., begin, end, room, filling.is_finite)

    sources: the base, where there is one, and the models. is_finite: one flag per source, which
    kernels clear. Raises NonFinite after the block, or the `check`, that met NaN or infinity.
    """

    def __init__(self, task: Task, out: Out, multiple: int = 1) -> None:
        self._task = task
        self._out = out
        self._multiple = multiple
        self.sources = addresses(task.inputs)
        self.is_finite: Flags = np.ones(len(task.inputs), np.bool_)

    def __iter__(self) -> Iterator[tuple[int, int, Addresses]]:
        for begin, end in blocks(self._task.element_count, self._multiple):
            room = self._out.room(begin, end)
            yield begin, end, np.array(address(room), np.int64)
            self.check()
            self._out.put(begin, end)

    def check(self) -> None:
        """Raises NonFinite if a kernel has met NaN or infinity that the task does not allow."""
        if self._task.allow_nan or self.is_finite.all():
            return
        found = self._task.inputs[int(np.argmin(self.is_finite))]
        raise NonFinite(
            "a model's tensor has NaN or infinity", file=found.file, tensor=self._task.tensor
        )


def row_width(shape: tuple[int, ...]) -> int:
    """Elements of a row, which is the last axis; at least 1."""
    return max(1, shape[-1]) if shape else 1


def column_height(shape: tuple[int, ...]) -> tuple[int, int]:
    """(rows, columns) with the first axis as rows and all others as columns."""
    if not shape:
        return 1, 1
    return shape[0], math.prod(shape[1:])
