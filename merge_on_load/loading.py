"""Base + delta -> weights straight into memory that is there already, on a few threads.

`building.stream` checks every file of a delta before it yields the first tensor, so that what takes
them one by one never holds half a model. Here whoever waits for the whole model throws it away if
anything is wrong: so what is stored of each tensor is hashed once, by the thread that decodes it.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch

from merge_on_load.applying import apply_into
from merge_on_load.building import Built, check_belongs
from merge_on_load.checkpoint import Checkpoint
from merge_on_load.codecs import SAME, make_codec
from merge_on_load.delta import Delta
from merge_on_load.errors import MergeError, ShapeMismatch
from merge_on_load.floats import copy_words, matrix, row_blocks
from merge_on_load.lora import Lora
from merge_on_load.memory import Room, ask_for_huge_pages
from merge_on_load.recipes.merging import Merged
from merge_on_load.specs import TensorSpec
from merge_on_load.tensors import spec_of
from merge_on_load.threads import parallel_map, thread_count

_BLOCK_ELEMENTS = 1 << 20

Fill = Callable[[str, torch.Tensor], None]


def load(
    base: Checkpoint, delta: Delta | Lora | Merged | None, targets: Mapping[str, torch.Tensor]
) -> None:
    """Fill the targets, tensors by the base's names, with the model: the bits that `stream` gives.

    A target may be on another device or of another dtype, which it is then cast to. None: the base.
    Raises as `stream`, and ShapeMismatch; then some targets may be filled, and all are worthless.
    """
    if isinstance(delta, Delta):
        check_belongs(base, delta)
        below = Built(base, delta.parent) if delta.parent else base
        specs = {name: delta.spec(name) for name in targets}
        fill: Fill = partial(_fill, below, delta, Room())
    else:
        built = base if delta is None else Built(base, delta)
        specs = {name: built.spec(name) for name in targets}
        fill = partial(_copy, built)
    for name, target in targets.items():
        if tuple(target.shape) != specs[name].shape:
            expected, found = specs[name].shape, tuple(target.shape)
            raise ShapeMismatch("target differs", tensor=name, expected=expected, found=found)
    for target in targets.values():
        if _is_plain(target):
            ask_for_huge_pages(target)
    # What is large is worked on by all threads; a recipe's tensors use them anyway.
    is_serial = isinstance(delta, Lora | Merged)
    large, small = (list(targets), list[str]()) if is_serial else _by_size(specs)
    for name in large:
        fill(name, targets[name].detach())
    parallel_map(
        lambda name: fill(name, targets[name].detach()),
        small,
        is_apart=_is_compiled(base, delta, targets),
    )


def _by_size(specs: Mapping[str, TensorSpec]) -> tuple[list[str], list[str]]:
    """Those so large that threads would wait for who has one, and the others; largest first."""
    names = sorted(specs, key=lambda name: -specs[name].size_bytes)
    share = sum(spec.size_bytes for spec in specs.values()) / (2 * thread_count())
    count = sum(spec.size_bytes > share for spec in specs.values())
    return names[:count], names[count:]


def _is_compiled(
    base: Checkpoint, delta: Delta | Lora | Merged | None, targets: Mapping[str, torch.Tensor]
) -> bool:
    """Whether kernels do all of it: torch casts, and copies to other devices."""
    if isinstance(delta, Delta) and delta.parent:
        return False
    source = delta if isinstance(delta, Delta) else base
    return all(
        _is_plain(target) and spec_of(target) == base.spec(name) == source.spec(name)
        for name, target in targets.items()
    )


def _copy(source: Checkpoint | Built, name: str, target: torch.Tensor) -> None:
    if not _is_plain(target) or source.spec(name) != spec_of(target):
        target.copy_(source.read(name))
        return
    from_rows, to_rows = matrix(source.read(name)), matrix(target)
    parallel_map(
        lambda block: copy_words(from_rows[block], to_rows[block]),
        row_blocks(to_rows.shape[0], to_rows.shape[1], _BLOCK_ELEMENTS),
        is_apart=True,
    )


def _fill(
    below: Checkpoint | Built, delta: Delta, room: Room, name: str, target: torch.Tensor
) -> None:
    """below: what the delta builds on. room: for what is stored of one tensor."""
    entry = delta.entry(name)
    if entry.codec == SAME:
        _copy(below, name, target)
        return
    is_direct = _is_plain(target) and spec_of(target) == entry.spec
    out = target if is_direct else torch.empty(entry.spec.shape, dtype=entry.spec.torch_dtype)
    try:
        codec = make_codec(entry.codec, entry.settings)
        apply_into(out, below.read(name), delta.payload(name, room), codec)
    except MergeError as error:
        raise error.located(file=delta.path, tensor=name) from error
    if not is_direct:
        target.copy_(out)


def _is_plain(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.is_contiguous()
