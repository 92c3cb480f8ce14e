"""The running vLLM: started, told which weights to serve, asked for answers, stopped.

Everything that we call of vLLM in the worker's own process is here. Read from vLLM 0.32.0.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vllm import AsyncEngineArgs, SamplingParams
from vllm.distributed.weight_transfer.base import (
    WeightTransferInitRequest,
    WeightTransferUpdateRequest,
)
from vllm.inputs import tokens_input
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from merge_on_load.errors import CorruptPayload
from model_pool.capacity import Tier
from model_pool.engine import Sampling
from model_pool.vllm import faults
from model_pool.vllm.deltas import HeldAdapter
from model_pool.vllm.options import NO_NEEDS, Needs, VllmOptions, environment
from model_pool.vllm.room import divide_card

_LONGEST_SEED = 2**63 - 1


class VllmProcess:
    """One AsyncLLM, whose engine core and workers are processes of their own."""

    def __init__(self, llm: Any) -> None:
        """Use `start`."""
        self._llm = llm
        self._digest = "default"  # vLLM's own first name

    @classmethod
    async def start(
        cls,
        base: Path,
        options: VllmOptions,
        *,
        running_count: int,
        context_token_count: int | None,
        thread_count: int | None,
        needs: Needs = NO_NEEDS,
    ) -> VllmProcess:
        """Start vLLM on the base, its weights streamed in. Takes many seconds.

        Raises ValueError (options or base are unfit) and RuntimeError (vLLM did not start).
        """
        arguments = options.engine_arguments(
            base, running_count=running_count, context_token_count=context_token_count, needs=needs
        )
        if needs.lora_count and current_platform.is_cpu():
            # There, rows without an adapter read the last slot: no adapter may ever be in it.
            arguments["max_loras"] = arguments["max_cpu_loras"] = needs.lora_count + 1
        llm, room = await asyncio.to_thread(_start, arguments, environment(thread_count), needs)
        process = cls(llm)
        await llm.init_weight_transfer_engine(
            WeightTransferInitRequest({"base": str(base), **room})
        )
        return process

    @property
    def context_token_count(self) -> int:
        """Longest prompt plus answer, in tokens."""
        return int(self._llm.model_config.max_model_len)

    @property
    def cache_token_count(self) -> int:
        """Tokens that the key-value cache has room for, prefixes of former requests included."""
        return int(self._llm.vllm_config.cache_config.kv_cache_size_tokens or 0)

    @property
    def is_dead(self) -> bool:
        return bool(self._llm.errored)

    async def switch(self, prepared: Path | None, digest: str) -> None:
        """Make the weights live, named `digest` in every output from now on.

        prepared: a file of `merge_on_load.prepare`, None for the base. The engine must have no
        request. Raises MergeError: the former weights are live. Anything else: which weights are
        live is not known.
        """
        update = WeightTransferUpdateRequest(
            {"prepared": None if prepared is None else str(prepared)}
        )
        # Calls reach the engine core in the order of these lines: all at once save round trips.
        # Where the update fails, vLLM refuses to finish it and the name is set back.
        former, self._digest = self._digest, digest
        for ended in await asyncio.gather(
            self._llm.start_weight_update(),
            self._llm.update_weights(update),
            self._llm.finish_weight_update(),
            self._llm.update_weight_version(digest),
            return_exceptions=True,
        ):
            if isinstance(ended, BaseException):
                self._digest = former
                await self._llm.update_weight_version(former)
                raise faults.from_text(str(ended)) or ended

    async def add_adapter(self, adapter: HeldAdapter) -> None:
        """Have vLLM read a LoRA adapter. Raises CorruptPayload with its reason where it refuses.

        It forgets all of them in each switch, and reads one again when a request names it.
        """
        try:
            await self._llm.add_lora(_lora_request(adapter))
        except Exception as error:
            if self.is_dead:
                raise
            raise CorruptPayload(f"vLLM refuses the adapter: {error}") from error

    async def remove_adapter(self, adapter: HeldAdapter) -> None:
        """Have vLLM forget the adapter."""
        await self._llm.remove_lora(adapter.number)

    def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        *,
        salt: str,
        request_id: str,
        adapter: HeldAdapter | None = None,
        wants_log_probabilities: bool = False,
        rank: int = 0,
    ) -> AsyncGenerator[Any, None]:
        """vLLM's RequestOutputs, each with what is new. Closing the generator aborts the request.

        salt: requests share cached prefixes only with those of the same salt. rank: where the cache
        has no room for all, the smaller goes first, and the greatest is put off.
        wants_log_probabilities: of the tokens of the answer, each at temperature 1.
        """
        outputs: AsyncGenerator[Any, None] = self._llm.generate(
            tokens_input(list(prompt_ids), cache_salt=salt),
            _sampling_params(sampling, wants_log_probabilities),
            request_id,
            lora_request=None if adapter is None else _lora_request(adapter),
            priority=rank,
        )
        return outputs

    async def stop(self) -> None:
        """End all processes."""
        llm, self._llm = self._llm, None
        await asyncio.to_thread(llm.shutdown)


def _start(
    arguments: Mapping[str, Any], variables: Mapping[str, str], needs: Needs
) -> tuple[Any, dict[str, Any]]:
    """vLLM, and what of `DeltaInit` says where base and deltas are kept."""
    with _environment(variables):
        config = AsyncEngineArgs(**arguments).create_engine_config()
        if (quantization := config.model_config.quantization) is not None:
            raise ValueError(
                f"{arguments['model']}: quantised weights ({quantization}) cannot be switched in "
                "place"
            )
        room = {} if current_platform.is_cpu() else _divide_card(config, needs)
        return AsyncLLM.from_vllm_config(config, disable_log_stats=True), room


def _divide_card(config: Any, needs: Needs) -> dict[str, Any]:
    """Leave room on the card for the base's copy and for deltas. Untested on a GPU.

    Nothing is left where the user has sized the cache, and with sharded weights.
    """
    cache, model = config.cache_config, config.model_config
    if cache.kv_cache_memory_bytes or config.parallel_config.world_size > 1:
        return {}
    found = divide_card(
        Path(model.model),
        needs.deltas,
        memory_bytes=current_platform.get_device_total_memory(),
        share=cache.gpu_memory_utilization,
        item_bytes=model.dtype.itemsize,
        context_token_count=model.max_model_len,
    )
    if found.base_tier is not Tier.CARD:
        return {}
    cache.kv_cache_memory_bytes = found.cache_bytes
    return {"card": True, "card_budget_bytes": found.rooms[Tier.CARD]}


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set what is not set already, for as long as vLLM starts its processes."""
    added = [name for name in variables if name not in os.environ]
    os.environ.update({name: variables[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _lora_request(adapter: HeldAdapter) -> Any:
    return LoRARequest(f"adapter-{adapter.number}", adapter.number, str(adapter.path))


def _sampling_params(sampling: Sampling, wants_log_probabilities: bool) -> Any:
    """Text and stop texts are not vLLM's to make and find (`answer.py`). A request that it ends in
    its front end may still run in the engine core, and weights are switched only when nothing does.
    """
    # vLLM takes -1 for "no seed".
    seed = None if sampling.seed is None else sampling.seed & _LONGEST_SEED
    return SamplingParams(
        max_tokens=sampling.max_output_token_count,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=seed,
        logprobs=0 if wants_log_probabilities else None,  # 0: of the chosen token alone
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )
