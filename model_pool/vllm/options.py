"""What fleet.yaml may say to vLLM, and the engine arguments that follow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from model_pool.capacity import DeltaSizes
from model_pool.vllm.plugin import LOAD_FORMAT, TRANSFER_BACKEND

# vLLM is told these through the environment only. "spawn": forking a process that serves gRPC is
# not safe. The usage report would be sent over the network.
ENVIRONMENT = {
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}


# What vLLM takes for max_lora_rank.
_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
# Adapters in one batch unless said otherwise: each takes room on the card, used or not.
_LORA_SLOTS = 8


@dataclass(frozen=True, slots=True)
class Needs:
    """What vLLM must have room for beside the base: the fleet's deltas, most wanted first, and its
    LoRA adapters, of the largest rank.
    """

    deltas: tuple[DeltaSizes, ...] = ()
    lora_count: int = 0
    lora_rank: int = 0


NO_NEEDS = Needs()


class VllmOptions(BaseModel):
    """Passed to vLLM's AsyncEngineArgs under the same names; None leaves vLLM's own default.

    The context and the number of running requests are the pool's, not repeated here.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    gpu_memory_utilization: float | None = Field(None, gt=0, le=1)  # share of all memory
    kv_cache_memory_bytes: int | None = Field(None, ge=1)  # instead of what is left of that share
    kv_cache_dtype: str | None = None
    block_size: int | None = Field(None, ge=1)  # tokens in one block of the prefix cache
    enable_prefix_caching: bool = True
    enable_chunked_prefill: bool | None = None
    max_num_batched_tokens: int | None = Field(None, ge=1)  # tokens in one step
    tensor_parallel_size: int = Field(1, ge=1)
    max_loras: int | None = Field(None, ge=1)  # LoRA adapters in one batch
    quantization: str | None = None
    speculative_config: dict[str, Any] | None = None
    enforce_eager: bool = False

    @model_validator(mode="after")
    def _weights_can_be_switched(self) -> Self:
        """Refuse by name what the switch in place does not handle."""
        if self.quantization is not None:
            raise ValueError(
                f"quantization {self.quantization}: quantised weights cannot be switched in place"
            )
        return self

    def engine_arguments(
        self,
        base: Path,
        *,
        running_count: int,
        context_token_count: int | None,
        needs: Needs = NO_NEEDS,
    ) -> dict[str, Any]:
        """Keyword arguments of AsyncEngineArgs. An adapter of a rank that vLLM does not take is
        refused when it is loaded.
        """
        chosen = {key: value for key, value in self.model_dump().items() if value is not None}
        if needs.lora_count:
            slots = min(needs.lora_count, self.max_loras or _LORA_SLOTS)
            chosen |= {
                "enable_lora": True,
                "max_loras": slots,
                "max_cpu_loras": needs.lora_count,
                "max_lora_rank": next(
                    (rank for rank in _LORA_RANKS if rank >= needs.lora_rank), _LORA_RANKS[-1]
                ),
            }
        if context_token_count is not None:
            chosen["max_model_len"] = context_token_count
        return {
            **chosen,
            "model": str(base),
            "max_num_seqs": running_count,
            "scheduling_policy": "priority",
            "load_format": LOAD_FORMAT,
            "weight_transfer_config": {"backend": TRANSFER_BACKEND},
            "generation_config": "auto",
            "logprobs_mode": "raw_logprobs",  # at temperature 1, as worker.proto promises
            "disable_log_stats": True,
        }


def environment(thread_count: int | None) -> dict[str, str]:
    """Variables that vLLM's processes start with. thread_count: of one step, on a CPU."""
    if thread_count is None:
        return dict(ENVIRONMENT)
    count = str(thread_count)
    return {**ENVIRONMENT, "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": count}
