"""The live parameters of a loaded model, and base + delta written over them in place.

Needs torch alone, no vLLM. On a CPU each thread takes blocks of rows and adds them in one pass; on
another device torch's operators do it, tensor by tensor (untested on a GPU).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from merge_on_load import Checkpoint, Prepared, kernels
from merge_on_load.floats import FLOAT32_DTYPES, copy_words, matrix, row_blocks, words
from merge_on_load.tensors import TORCH_DTYPES
from model_pool.vllm.landing import Landing, find_landings

# Elements that a thread takes at a time: enough to make the interpreter's share small.
_BLOCK_ELEMENTS = 1 << 21


class LiveWeights:
    """Writes complete weights, always base + delta and never live += delta: so a write is exact,
    can be repeated, and going back to the base restores it bit for bit.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        base: Checkpoint,
        device: torch.device,
        *,
        is_base_on_card: bool = False,
        thread_count: int = 1,
    ) -> None:
        """Load the base into the model, and see where its tensors go.

        device: of the model. is_base_on_card: keep a copy of the base there, for the fastest
        switch; else it stays in the host's memory: mapped from its files for a CPU, pinned for
        another device. thread_count: on a CPU.
        """
        self._model = model
        self._device = device
        tensors = {name: base.read(name).contiguous() for name in base.names}
        landings = find_landings(model, tensors)
        self._others = landings.others
        self._base = {name: self._kept(one, is_base_on_card) for name, one in tensors.items()}
        self._blocks = list(landings.found)
        self._threads: ThreadPoolExecutor | None = None
        self._thread_count = thread_count
        if device.type == "cpu":
            _warm_up({(self._base[one.name].dtype, one.to.dtype) for one in landings.found})
            if thread_count > 1:
                self._blocks = [block for one in landings.found for block in _cut(one)]
                self._threads = ThreadPoolExecutor(
                    thread_count - 1, "switch", os.sched_setaffinity, (0, _all_cores())
                )

    @torch.no_grad()
    def write(self, prepared: Prepared | None) -> None:
        """Make base + delta live; None: the base. What fails may have written a part."""
        blocks = iter(self._blocks)  # shared: taking the next one is atomic
        if self._threads is None:
            self._write_blocks(blocks, prepared)
        else:
            _together(
                self._threads, self._thread_count, lambda: self._write_blocks(blocks, prepared)
            )
        if self._others:
            self._model.load_weights(self._whole(prepared))  # type: ignore[operator]

    def close(self) -> None:
        """End the threads and forget the base."""
        if self._threads is not None:
            self._threads.shutdown()
        self._base, self._blocks, self._others = {}, [], frozenset()

    def _kept(self, tensor: torch.Tensor, is_on_card: bool) -> torch.Tensor:
        if self._device.type == "cpu":
            return tensor
        return tensor.to(self._device) if is_on_card else tensor.pin_memory()

    def _write_blocks(self, blocks: Iterator[Landing], prepared: Prepared | None) -> None:
        for block in blocks:
            self._write_block(block, prepared)

    def _write_block(self, block: Landing, prepared: Prepared | None) -> None:
        """Straight into the parameter where that can be, else by way of a block of memory."""
        base = self._base[block.name].to(self._device, non_blocking=True)
        if prepared is None:
            rows = matrix(base)[block.rows]
            if block.is_direct and rows.dtype == block.to.dtype:
                copy_words(rows, block.to.view(rows.shape))
                return
        elif block.is_direct and prepared.spec(block.name).torch_dtype == block.to.dtype:
            prepared.write(block.name, base, block.to, block.rows)
            return
        else:
            rows = _result(prepared, block.name, base, block.rows)
        block.to.copy_(rows[:, block.columns].reshape(block.to.shape))

    def _whole(self, prepared: Prepared | None) -> Iterator[tuple[str, torch.Tensor]]:
        """What the model's own load_weights is given, in the base's order."""
        for name, kept in self._base.items():
            if name in self._others:
                base = kept.to(self._device, non_blocking=True)
                if prepared is None:
                    yield name, base
                else:
                    result = _result(prepared, name, base, slice(None))
                    yield name, result.reshape(prepared.spec(name).shape)


def _warm_up(dtypes: set[tuple[torch.dtype, torch.dtype]]) -> None:
    """Compile, or read from the disk, what the first switch would otherwise wait for."""
    lossy = {TORCH_DTYPES[name] for name in FLOAT32_DTYPES}
    for base, out in dtypes:
        if {base, out} <= lossy:
            no_rows = torch.empty((0, 8), dtype=base), torch.empty((0, 8), dtype=out)
            kernels.warm_up(*map(words, no_rows))


def _result(prepared: Prepared, name: str, base: torch.Tensor, rows: slice) -> torch.Tensor:
    """Rows of base + delta in memory of their own."""
    out = torch.empty_like(matrix(base)[rows], dtype=prepared.spec(name).torch_dtype)
    prepared.write(name, base, out, rows)
    return out


def _cut(landing: Landing) -> Iterator[Landing]:
    """The landing in blocks of rows, for several threads."""
    row_count = landing.rows.stop - landing.rows.start
    if row_count < 2 or landing.to.shape[:1] != (row_count,):
        yield landing
        return
    for block in row_blocks(row_count, landing.to.numel() // row_count, _BLOCK_ELEMENTS):
        begin = landing.rows.start
        rows = slice(begin + block.start, begin + block.stop)
        yield replace(landing, rows=rows, to=landing.to[block])


def _all_cores() -> set[int]:
    """The cores of all threads here: the one that computes may be bound to a single core."""
    cores: set[int] = set()
    for thread in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):  # it has ended
            cores |= os.sched_getaffinity(int(thread.name))
    return cores


def _together(threads: ThreadPoolExecutor, count: int, work: Callable[[], None]) -> None:
    """Run `work` in this thread and in the others. All have ended when this returns or raises."""
    started = [threads.submit(work) for _ in range(count - 1)]
    try:
        work()
    finally:
        failures = [one.exception() for one in started]
    for failure in failures:
        if failure is not None:
            raise failure
