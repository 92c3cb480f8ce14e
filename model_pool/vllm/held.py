"""What the engine holds ready: for each loaded specialist its prepared delta or its adapter."""

from __future__ import annotations

import asyncio
from collections.abc import Set
from pathlib import Path

from model_pool.engine import Weights
from model_pool.settings import BASE_MODEL
from model_pool.vllm.deltas import DeltaShelf, HeldAdapter, HeldDelta
from model_pool.vllm.process import VllmProcess


class HeldSpecialists:
    """Holds what was made ready until nobody needs it. Of one running vLLM, in its event loop."""

    def __init__(self, shelf: DeltaShelf, process: VllmProcess) -> None:
        self._shelf = shelf
        self._process: VllmProcess | None = process
        self._held: dict[Weights, HeldDelta | HeldAdapter] = {}
        self._removals: set[asyncio.Task[None]] = set()

    async def hold(self, weights: Weights) -> None:
        """Make the weights ready, unless they are. Raises MergeError; EngineFailed (vLLM's)."""
        if weights in self._held or (weights.delta is None and weights.lora is None):
            return
        held = await asyncio.to_thread(self._shelf.prepare, weights)
        try:
            if isinstance(held, HeldAdapter) and self._process is not None:
                await self._process.add_adapter(held)
        except BaseException:
            held.close()
            raise
        if self._process is None or weights in self._held:  # closed or overtaken meanwhile
            self._drop(held)
        else:
            self._held[weights] = held

    def live_weights(self, weights: Weights) -> Weights:
        """What must be live for these: an adapter runs on the base. Once they were held."""
        if weights.lora is None:
            return weights
        return Weights(BASE_MODEL, self._shelf.base_digest())

    def prepared(self, weights: Weights) -> Path | None:
        """The file to switch to; None: the base."""
        held = self._held.get(weights)
        return None if held is None else held.path

    def adapter(self, weights: Weights) -> HeldAdapter | None:
        """What requests of these weights name to vLLM, if anything."""
        held = self._held.get(weights)
        return held if isinstance(held, HeldAdapter) else None

    def keep_only(self, needed: Set[Weights]) -> None:
        """Drop everything else."""
        for weights in [one for one in self._held if one not in needed]:
            self._drop(self._held.pop(weights))

    def close(self) -> None:
        """Drop everything: vLLM has ended."""
        self._process = None
        self.keep_only(frozenset())

    def _drop(self, held: HeldDelta | HeldAdapter) -> None:
        held.close()
        if isinstance(held, HeldAdapter) and self._process is not None:
            removal = asyncio.create_task(self._process.remove_adapter(held))
            self._removals.add(removal)  # a task that nothing refers to may be collected
            removal.add_done_callback(self._removals.discard)
