"""What an accelerator computes in which time: a roofline model, not a measurement.

One step of continuous batching takes

    step_s + running * sequence_s + prefilled tokens / prefill_token_rate

step_s: reading all weights once, and the host's work. sequence_s: reading one sequence's keys and
values, and its share of the arithmetic. The model is a 7B of Mistral's shape (7.24e9 parameters,
32 layers, 8 key-value heads of 128) in bfloat16: 14.5 GB of weights, 131,072 bytes of keys and
values per token, 14.5 GFLOP per token. Attention's arithmetic is left out. Peak numbers are from
NVIDIA's data sheets (H100 SXM: 3.35 TB/s, 989 TFLOP/s; A10: 600 GB/s, 125 TFLOP/s); 80% of the
bandwidth and 50% of the arithmetic are assumed to be reached.

As a check, NVIDIA publishes 9,193 tokens/s for a 7B at batch 64 on an H100 in FP8, that is 7.0 ms
a step (TensorRT-LLM 0.5, performance.md); this model says 9.6 ms with weights of twice that size.
"""

from __future__ import annotations

from dataclasses import dataclass

WEIGHTS_BYTES = 14.5e9
CACHE_BYTES_PER_TOKEN = 131_072
FLOP_PER_TOKEN = 14.5e9
# The sequence length at which sequence_s is taken.
TYPICAL_TOKEN_COUNT = 600
HOST_S = 1e-3


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One engine's speed and room. cache_token_count: keys and values that it can keep.

    prefill_limit_count: prompt tokens in one step, at most (chunked prefill).
    """

    name: str
    step_s: float
    sequence_s: float
    prefill_token_rate: float
    batch_limit_count: int
    cache_token_count: int
    prefill_limit_count: int = 2048

    def decode_s(self, running_count: int) -> float:
        """Seconds of one step without prefill."""
        return self.step_s + running_count * self.sequence_s


def roofline(
    name: str, *, bytes_per_s: float, flop_per_s: float, batch_limit_count: int, cache_bytes: float
) -> Accelerator:
    """The 7B model on an accelerator of this peak bandwidth and arithmetic."""
    bandwidth, arithmetic = 0.8 * bytes_per_s, 0.5 * flop_per_s
    return Accelerator(
        name=name,
        step_s=WEIGHTS_BYTES / bandwidth + HOST_S,
        sequence_s=TYPICAL_TOKEN_COUNT * CACHE_BYTES_PER_TOKEN / bandwidth
        + FLOP_PER_TOKEN / arithmetic,
        prefill_token_rate=arithmetic / FLOP_PER_TOKEN,
        batch_limit_count=batch_limit_count,
        cache_token_count=int(cache_bytes / CACHE_BYTES_PER_TOKEN),
    )


# 80 GB, 90% of it used: 72 less weights and 1.5 GB of activations; the one that is shared also
# keeps the base (14.5 GB) and 20 deltas of 0.9 GB (one bit per parameter).
H100_ALONE = roofline(
    "7B on an H100", bytes_per_s=3.35e12, flop_per_s=989e12, batch_limit_count=256, cache_bytes=56e9
)
H100_SHARED = roofline(
    "7B on an H100", bytes_per_s=3.35e12, flop_per_s=989e12, batch_limit_count=256, cache_bytes=23e9
)
# 24 GB: the base and the deltas lie in host memory.
A10 = roofline(
    "7B on an A10", bytes_per_s=600e9, flop_per_s=125e12, batch_limit_count=64, cache_bytes=5.6e9
)
# A tiny model on two CPU cores, of the demo fleet's order of magnitude; the numbers are made up.
TOY = Accelerator(
    name="toy on a CPU",
    step_s=0.008,
    sequence_s=0.0005,
    prefill_token_rate=5000.0,
    batch_limit_count=16,
    cache_token_count=20_000,
    prefill_limit_count=512,
)
