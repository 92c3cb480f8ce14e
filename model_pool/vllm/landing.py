"""Where each tensor of a checkpoint lands in a loaded model's parameters.

Found by watching the model's own `load_weights` once: it knows fused, tied and sharded parameters.
Needs torch alone; what is said here of vLLM was read from 0.32.0.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_CONSTANT = (torch.ops.aten.fill_.Scalar, torch.ops.aten.zero_.default)


@dataclass(frozen=True)
class Landing:
    """A block of one checkpoint tensor, seen as a matrix, and the view of a parameter it goes to.

    to: live memory, of as many elements as the block, in that order. is_direct: the block is whole
    rows, written one after the other.
    """

    name: str
    rows: slice
    columns: slice
    to: torch.Tensor
    is_direct: bool


@dataclass(frozen=True)
class Landings:
    """found: what plain copies write; no two write to the same place. others: tensors that need
    the model's own `load_weights`, because it computes with them.
    """

    found: tuple[Landing, ...]
    others: frozenset[str]


def find_landings(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> Landings:
    """Load the tensors into the model and tell where each went. What they hold is live afterwards.

    tensors: contiguous. One in neither answer is not used by the model.
    """
    watch = _Watch(model, tensors)
    before = _storages(model)
    with watch, torch.no_grad():
        model.load_weights(watch.yielding(tensors))  # type: ignore[operator] # vLLM's models have it
    if _storages(model) != before:  # parameters were replaced: none of the views is live
        return Landings((), frozenset(tensors))
    found = _without_overwritten(watch.found)
    computed = watch.computed | {
        one.name for one in found if _storage(one.to) in watch.computed_storages
    }
    computed |= _overlapping([one for one in found if one.name not in computed])
    others = set(tensors) - {one.name for one in found} if computed else set()
    return Landings(
        tuple(one for one in found if one.name not in computed), frozenset(computed | others)
    )


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch's
    """Sees every operator. A copy of a block of a checkpoint tensor into a parameter is a landing.
    After any other write into a parameter, neither the tensor that was handed out last nor what
    landed in that parameter counts as copied.
    """

    def __init__(self, model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Landing] = []
        self.computed: set[str] = set()
        self.computed_storages: set[int] = set()
        self._current = ""
        self._live = set(_storages(model))
        filled = [(one.data_ptr(), name, one) for name, one in tensors.items() if one.numel()]
        self._sources = sorted(filled, key=lambda source: source[0])
        self._begins = [begin for begin, _, _ in self._sources]

    def yielding(self, tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
        for self._current, tensor in tensors.items():
            yield self._current, tensor

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func._schema.is_mutable:
            for written in _written(func, args, kwargs or {}):
                if written.numel() and _storage(written) in self._live:
                    self._note(func, args, written)
        return func(*args, **(kwargs or {}))

    def _note(self, func: Any, args: tuple[Any, ...], written: torch.Tensor) -> None:
        landing = None
        if func is torch.ops.aten.copy_.default:
            landing = self._landing(args[0], args[1])
        if landing is not None:
            self.found.append(landing)
        elif not (func in _CONSTANT and self._is_untouched(written)):
            self.computed.add(self._current)
            self.computed_storages.add(_storage(written))

    def _is_untouched(self, written: torch.Tensor) -> bool:
        """Nothing has landed there: a padding that keeps its constant."""
        begin, end = _span(written)
        spans = (_span(landing.to) for landing in self.found)
        return all(end <= other_begin or other_end <= begin for other_begin, other_end in spans)

    def _landing(self, to: torch.Tensor, source: torch.Tensor) -> Landing | None:
        """None unless `source` is a block of a checkpoint tensor."""
        i = bisect_right(self._begins, source.data_ptr()) - 1
        if i < 0 or source.shape != to.shape:
            return None
        begin, name, tensor = self._sources[i]
        offset = source.data_ptr() - begin
        if offset >= tensor.nbytes or source.dtype != tensor.dtype:
            return None
        width = tensor.shape[-1] if tensor.ndim else 1
        block = _block(source, offset // tensor.itemsize, width)
        if block is None:
            return None
        rows, columns = block
        is_direct = columns == slice(0, width) and to.is_contiguous()
        return Landing(name, rows, columns, to.detach(), is_direct)


def _without_overwritten(found: Sequence[Landing]) -> list[Landing]:
    """The last landing in each place: tied parameters may be written twice."""
    return list({(_span(one.to), one.to.stride()): one for one in found}.values())


def _overlapping(found: Sequence[Landing]) -> set[str]:
    """Tensors of which a landing touches another's memory: their order matters."""
    names: set[str] = set()
    ordered = sorted(found, key=lambda one: _span(one.to))
    for first, second in pairwise(ordered):
        if _span(second.to)[0] < _span(first.to)[1]:
            names |= {first.name, second.name}
    return names


def _block(source: torch.Tensor, begin: int, width: int) -> tuple[slice, slice] | None:
    """Rows and columns that a view covers of a matrix of that width. None: it is no such block."""
    row, column = divmod(begin, width)
    count = source.numel()
    if source.is_contiguous() and column == 0 and count % width == 0:
        return slice(row, row + count // width), slice(0, width)
    if source.is_contiguous() and column + count <= width:
        return slice(row, row + 1), slice(column, column + count)
    if source.ndim == 2 and source.stride() == (width, 1) and column + source.shape[1] <= width:
        return slice(row, row + source.shape[0]), slice(column, column + source.shape[1])
    return None


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[torch.Tensor]:
    """The arguments that an operator changes."""
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        given = args[i] if i < len(args) else kwargs.get(argument.name)
        for one in given if isinstance(given, (list, tuple)) else (given,):
            if isinstance(one, torch.Tensor):
                yield one


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _storages(model: torch.nn.Module) -> list[int]:
    return [_storage(one) for one in (*model.parameters(), *model.buffers())]


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """First byte, and the one after the last, of a tensor that is not empty."""
    reach = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (reach + 1) * tensor.itemsize
