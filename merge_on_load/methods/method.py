"""What a merge method is: arithmetic on one tensor of several models. Pure, and knows no torch.

A method reads flat arrays of words and fills the result block by block, so that a tensor of any
size takes a few blocks of memory:

    for begin, end in blocks(task.element_count):
        found = out.room(begin, end)
        ...                      # fill found from task.models[i].words[begin:end]
        out.put(begin, end)

One tensor is one thread's: what is summed is summed in one order, so that the number of threads
does not show in the result.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Words = npt.NDArray[Any]  # flat: bfloat16 as uint16, float16 as int16, float32 as itself
Value = float | int | bool | None
Values = Mapping[str, Value]


class BaseUse(Enum):
    """REQUIRED, OPTIONAL: the recipe's base_model is no input among others: `Task.base` has it.

    UNUSED: base_model says where side files come from, and is an input only where it is listed.
    """

    REQUIRED = "required"
    OPTIONAL = "optional"
    UNUSED = "unused"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter by mergekit's name. kind: float, int or bool. Required: no default."""

    name: str
    kind: type[float] | type[int] | type[bool] = float
    default: Value = None
    required: bool = False


@dataclass(frozen=True, slots=True)
class Input:
    """One model's tensor. words: [element_count], read-only. values: the method's `per_model`."""

    words: Words
    file: Path
    values: Values = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Task:
    """One tensor to merge.

    models: in the recipe's order, without the base where there is one. values: the method's
    `overall`. seed: the recipe's; random numbers depend on it, the tensor's name, the model's place
    and the element's, on nothing else. allow_nan: let NaN and infinity through.
    """

    tensor: str
    shape: tuple[int, ...]
    base: Input | None
    models: tuple[Input, ...]
    values: Values = field(default_factory=dict)
    seed: int = 0
    allow_nan: bool = False

    @property
    def element_count(self) -> int:
        """Elements of the tensor."""
        return int((self.base or self.models[0]).words.size)

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The base, where there is one, and the models."""
        return (*([self.base] if self.base else []), *self.models)


class Out(Protocol):
    """Takes the result, each element once, in any order of blocks."""

    def room(self, begin: int, end: int) -> Words:
        """[end - begin] words of the result's dtype, to be filled; good until `put`."""

    def put(self, begin: int, end: int) -> None:
        """What `room` gave last, for the same elements, is filled."""


@dataclass(frozen=True, slots=True)
class PlainInput:
    """One model's tensor for `Method.plain`: float32, of the tensor's shape."""

    tensor: "torch.Tensor"
    values: Values = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PlainTask:
    """A `Task` in torch, on any device; the fields mean the same."""

    tensor: str
    base: PlainInput | None
    models: tuple[PlainInput, ...]
    values: Values = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Method:
    """A method by mergekit's name.

    per_model: parameters of which each model has its own; overall: of all. least, most: how many
    models, the base not counted where the method has one. merge: compiled; sums in float32, or
    float64 where a sum runs over a whole tensor, and rounds once. Raises NonFinite, naming file and
    tensor, for NaN or infinity in an input unless `allow_nan`. plain: the same in torch, whole
    tensors at once, float32 out: what `merge` is tested against, and what runs on accelerators.
    """

    name: str
    merge: Callable[[Task, Out], None]
    plain: "Callable[[PlainTask], torch.Tensor]"
    per_model: tuple[Parameter, ...] = ()
    overall: tuple[Parameter, ...] = ()
    base: BaseUse = BaseUse.UNUSED
    least: int = 1
    most: int | None = None
