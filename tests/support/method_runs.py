"""Runs one merge method on tensors: compiled, or plain in torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from merge_on_load.floats import words
from merge_on_load.methods import METHODS
from merge_on_load.methods.method import Input, PlainInput, PlainTask, Task, Value, Words

Values = Mapping[str, Value]


class Room:
    """A `method.Out` that keeps the result, and refuses blocks out of place."""

    def __init__(self, element_count: int, dtype: torch.dtype) -> None:
        self.result = torch.zeros(element_count, dtype=dtype)
        self._words = words(self.result)
        self._given: tuple[int, int] | None = None
        self.filled = np.zeros(element_count, np.int64)

    def room(self, begin: int, end: int) -> Words:
        self._given = begin, end
        return self._words[begin:end]

    def put(self, begin: int, end: int) -> None:
        assert self._given == (begin, end)
        self.filled[begin:end] += 1


@dataclass(frozen=True)
class Run:
    """A method and its inputs. values: one mapping per model; overall: those of all."""

    method: str
    base: torch.Tensor | None
    models: Sequence[torch.Tensor]
    values: Sequence[Values] = ()
    overall: Values = field(default_factory=dict)
    seed: int = 0
    tensor: str = "model.layers.0.mlp.up_proj.weight"
    allow_nan: bool = False

    def task(self) -> Task:
        """What `merge` is given."""
        base = None if self.base is None else _input(self.base, "base", {})
        models = tuple(
            _input(one, f"model{i}", self._values(i)) for i, one in enumerate(self.models)
        )
        first = self.models[0] if self.base is None else self.base
        return Task(
            self.tensor, tuple(first.shape), base, models, self.overall, self.seed, self.allow_nan
        )

    def merged(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The compiled result."""
        task = self.task()
        room = Room(task.element_count, dtype)
        METHODS[self.method].merge(task, room)
        assert (room.filled == 1).all()
        return room.result.reshape(task.shape)

    def plain(self) -> torch.Tensor:
        """The result in torch, float32."""
        base = None if self.base is None else PlainInput(self.base.float())
        models = tuple(
            PlainInput(one.float(), self._values(i)) for i, one in enumerate(self.models)
        )
        task = PlainTask(self.tensor, base, models, self.overall, self.seed)
        return METHODS[self.method].plain(task)

    def _values(self, i: int) -> Values:
        return self.values[i] if i < len(self.values) else {}

    def but(self, **changes: object) -> "Run":
        """The same with other fields."""
        return replace(self, **changes)  # type: ignore[arg-type]


def _input(tensor: torch.Tensor, name: str, values: Values) -> Input:
    return Input(words(tensor.contiguous().flatten()), Path(name) / "model.safetensors", values)


def roundings_apart(first: torch.Tensor, second: torch.Tensor, dtype: torch.dtype) -> int:
    """The greatest distance between two tensors, in numbers of the dtype that lie between."""
    kind = torch.int16 if dtype.itemsize == 2 else torch.int32
    least = torch.iinfo(kind).min
    places = []
    for one in (first, second):
        bits = one.to(dtype).view(kind).to(torch.int64)
        places.append(torch.where(bits < 0, least - bits, bits))
    return int((places[0] - places[1]).abs().max()) if first.numel() else 0
