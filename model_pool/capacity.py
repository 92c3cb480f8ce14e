"""How many specialists fit on an accelerator, and how long a switch takes there. Pure.

The engine holds one set of live weights on the card and writes base + delta over them. So three
things are kept beside the live weights: the base's own copy, the deltas, and the cache of keys and
values. They are placed in this order:

1. Live weights, an allowance for activations, and a cache of one full context. Without them the
   card cannot serve the model at all.
2. The cache gets room for `context_count` full contexts, as far as there is room.
3. The base's copy goes on the card if it fits beside that; else to host memory (pinned); else it
   is read from disk at each switch.
4. Deltas, the most recently used first, fill the card, then host memory; the rest stay on disk.
   None is kept on a faster tier than the base: a switch moves all of the base, so that what it
   takes is decided there, and the room is worth more as cache.
5. What is left of the card is cache too.

In memory a delta is kept *prepared*, that is, decompressed. Speeds are data-sheet peaks and stated
assumptions, not measurements.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

GIB = 1 << 30

# Share of a card's peak bandwidth that a switch reaches (as in `simulations/accelerator.py`).
BANDWIDTH_SHARE = 0.8
# One NVMe drive reading large files.
DISK_BYTES_PER_S = 3e9
# SHA-256 and zstd on four cores; one core of a small server did 0.6 GB/s.
PREPARE_BYTES_PER_S = 2e9
# The calls that lead a drained engine through a switch: 2.6 ms measured, with vLLM on a CPU.
CONTROL_S = 0.003
# What vLLM 0.32 takes of the card unless gpu_memory_utilization says otherwise.
DEFAULT_SHARE = 0.92
# Activations, CUDA graphs and the buffers of a switch, for a 7B.
OVERHEAD_BYTES = 1_500_000_000
DEFAULT_CONTEXT_COUNT = 8
DEFAULT_HOST_MEMORY_BYTES = 64 * GIB


class Tier(Enum):
    """Where weights are kept, the fastest first."""

    CARD = "card"
    HOST = "host"
    DISK = "disk"


@dataclass(frozen=True, slots=True)
class Card:
    """An accelerator. memory_bytes: as CUDA reports it. memory_bytes_per_s, flop_per_s: peak, in
    bfloat16 without sparsity. link_bytes_per_s: from pinned host memory, effective.
    """

    name: str
    memory_bytes: int
    memory_bytes_per_s: float
    link_bytes_per_s: float
    flop_per_s: float
    source: str


CARDS = {
    "a10": Card(
        "A10",
        int(22.06 * GIB),
        600e9,
        25e9,
        125e12,
        "22.06 GiB (vLLM issue 928), 600 GB/s, 125 TFLOP/s (data sheet), PCIe 4.0 x16: 25 of 31.5 "
        "GB/s",
    ),
    "a10g": Card(
        "A10G",
        int(22.06 * GIB),
        600e9,
        25e9,
        70e12,
        "22.06 GiB, 600 GB/s, 70 TFLOP/s (data sheet), PCIe 4.0 x16: 25 of 31.5 GB/s",
    ),
    "h100": Card(
        "H100",
        int(79.11 * GIB),
        3.35e12,
        50e9,
        989e12,
        "SXM: 79.11 GiB (vLLM issue 27508), 3.35 TB/s, 989 TFLOP/s (data sheet), PCIe 5.0 x16: 50 "
        "of 63 GB/s",
    ),
}


@dataclass(frozen=True, slots=True)
class ModelShape:
    """weights_bytes: live on the card. base_bytes: the base's own copy, as its checkpoint has it.
    cache_bytes_per_token: keys and values.
    """

    name: str
    weights_bytes: int
    base_bytes: int
    cache_bytes_per_token: int


@dataclass(frozen=True, slots=True)
class DeltaSizes:
    """One specialist. prepared_bytes: in memory. stored_bytes: on disk."""

    name: str
    prepared_bytes: int
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What the engine may take and must hold. share: of the card's memory, 0 to 1."""

    context_token_count: int
    context_count: int = DEFAULT_CONTEXT_COUNT
    host_memory_bytes: int = DEFAULT_HOST_MEMORY_BYTES
    share: float = DEFAULT_SHARE
    overhead_bytes: int = OVERHEAD_BYTES


@dataclass(frozen=True, slots=True)
class Plan:
    """What one card holds.

    shortage_bytes: above 0, the card cannot serve the model, and all deltas are on disk.
    rooms: bytes for deltas per tier, used or not. held: each delta in exactly one tier, in the
    order of `deltas`. cache_bytes: keys and values.
    """

    card: Card
    model: ModelShape
    limits: Limits
    base_tier: Tier
    cache_bytes: int
    rooms: Mapping[Tier, int]
    held: Mapping[Tier, tuple[DeltaSizes, ...]]
    shortage_bytes: int = 0

    @property
    def fits(self) -> bool:
        return self.shortage_bytes == 0

    @property
    def budget_bytes(self) -> int:
        """What the engine may take of the card."""
        return budget_bytes(self.card, self.limits)

    @property
    def cache_token_count(self) -> int:
        return self.cache_bytes // self.model.cache_bytes_per_token

    @property
    def context_count(self) -> float:
        """Full contexts that the cache holds at once."""
        return self.cache_token_count / self.limits.context_token_count

    @property
    def card_used_bytes(self) -> int:
        """All that is on the card. At most budget_bytes where it fits."""
        copy_bytes = self.model.base_bytes if self.base_tier is Tier.CARD else 0
        fixed_bytes = self.model.weights_bytes + self.limits.overhead_bytes
        return fixed_bytes + self.cache_bytes + copy_bytes + self.held_bytes(Tier.CARD)

    @property
    def host_used_bytes(self) -> int:
        """All that is pinned in host memory."""
        copy_bytes = self.model.base_bytes if self.base_tier is Tier.HOST else 0
        return copy_bytes + self.held_bytes(Tier.HOST)

    def held_bytes(self, tier: Tier) -> int:
        """Bytes of the deltas in memory; of those that stay on disk, as stored."""
        if tier is Tier.DISK:
            return sum(delta.stored_bytes for delta in self.held[tier])
        return sum(delta.prepared_bytes for delta in self.held[tier])

    def switch_s(self, tier: Tier, delta: DeltaSizes | None) -> float:
        """Seconds to make a delta that is in this tier live; None: the base alone.

        The sum of all transfers: none is assumed to overlap another.
        """
        prepared = delta.prepared_bytes if delta else 0
        base = self.model.base_bytes
        read_bytes = base if self.base_tier is Tier.DISK else 0
        link_bytes = 0 if self.base_tier is Tier.CARD else base
        prepare_bytes = 0
        if delta and tier is not Tier.CARD:
            link_bytes += prepared
        if delta and tier is Tier.DISK:
            read_bytes += delta.stored_bytes
            prepare_bytes = prepared
        moved_bytes = base + prepared + self.model.weights_bytes  # read, read, written
        return (
            CONTROL_S
            + read_bytes / DISK_BYTES_PER_S
            + prepare_bytes / PREPARE_BYTES_PER_S
            + link_bytes / self.card.link_bytes_per_s
            + moved_bytes / (BANDWIDTH_SHARE * self.card.memory_bytes_per_s)
        )


def plan(card: Card, model: ModelShape, deltas: Sequence[DeltaSizes], limits: Limits) -> Plan:
    """Place the base and the deltas. deltas: the most recently used first."""
    context_bytes = limits.context_token_count * model.cache_bytes_per_token
    free_bytes = budget_bytes(card, limits) - model.weights_bytes - limits.overhead_bytes
    if free_bytes < context_bytes:
        rooms = {Tier.CARD: 0, Tier.HOST: 0}
        shortage_bytes = context_bytes - free_bytes
        return Plan(card, model, limits, Tier.DISK, 0, rooms, _place(deltas, rooms), shortage_bytes)
    spare_bytes = max(0, free_bytes - limits.context_count * context_bytes)
    base_tier, rooms = _place_base(model.base_bytes, spare_bytes, limits.host_memory_bytes)
    held = _place(deltas, rooms)
    cache_bytes = free_bytes - sum(delta.prepared_bytes for delta in held[Tier.CARD])
    if base_tier is Tier.CARD:
        cache_bytes -= model.base_bytes
    return Plan(card, model, limits, base_tier, cache_bytes, rooms, held)


def budget_bytes(card: Card, limits: Limits) -> int:
    """What the engine may take of the card."""
    return int(card.memory_bytes * limits.share)


def _place_base(base_bytes: int, card_bytes: int, host_bytes: int) -> tuple[Tier, dict[Tier, int]]:
    """The base's tier, and what is then left for deltas on the card and in host memory."""
    if base_bytes <= card_bytes:
        return Tier.CARD, {Tier.CARD: card_bytes - base_bytes, Tier.HOST: host_bytes}
    if base_bytes <= host_bytes:
        return Tier.HOST, {Tier.CARD: 0, Tier.HOST: host_bytes - base_bytes}
    return Tier.DISK, {Tier.CARD: 0, Tier.HOST: 0}


def _place(
    deltas: Sequence[DeltaSizes], rooms: Mapping[Tier, int]
) -> dict[Tier, tuple[DeltaSizes, ...]]:
    """Fill the card, then host memory, in this order; a delta that is too large for what is left
    of a tier ends that tier, as least recent use would have it.
    """
    held: dict[Tier, tuple[DeltaSizes, ...]] = {}
    rest = list(deltas)
    for tier in (Tier.CARD, Tier.HOST):
        count, left_bytes = 0, rooms[tier]
        while count < len(rest) and rest[count].prepared_bytes <= left_bytes:
            left_bytes -= rest[count].prepared_bytes
            count += 1
        held[tier], rest = tuple(rest[:count]), rest[count:]
    return {**held, Tier.DISK: tuple(rest)}


def typical(deltas: Sequence[DeltaSizes]) -> DeltaSizes:
    """The mean delta; of no bytes where there is none."""
    count = max(1, len(deltas))
    prepared = sum(delta.prepared_bytes for delta in deltas) // count
    return DeltaSizes("typical", prepared, sum(delta.stored_bytes for delta in deltas) // count)


def cache_bytes_per_token(config: Mapping[str, Any], item_bytes: int) -> int:
    """Keys and values of one token: 2 x layers x key-value heads x head dimension x item_bytes.

    config: a model's config.json, its text part. Too much for models whose layers do not all keep
    every token (sliding windows, latent attention). Raises KeyError for what config.json lacks.
    """
    head_count = config["num_attention_heads"]
    kv_head_count = config.get("num_key_value_heads") or head_count
    head_dim = config.get("head_dim") or config["hidden_size"] // head_count
    return int(2 * config["num_hidden_layers"] * kv_head_count * head_dim * item_bytes)


# Shapes of 7B models from their public config.json, for planning without files.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "mistral-7b": {  # mistralai/Mistral-7B-v0.1
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000,
    },
    "llama-2-7b": {  # meta-llama/Llama-2-7b-hf
        "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000,
    },
    "qwen2.5-7b": {  # Qwen/Qwen2.5-7B
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064,
        "attention_bias": True,
    },
}  # fmt: skip


def tensor_shapes(config: Mapping[str, Any]) -> Iterable[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor of a preset, in the checkpoint's names."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head_dim = hidden // config["num_attention_heads"]
    kv_width = config["num_key_value_heads"] * head_dim
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        for name, rows in (("q_proj", hidden), ("k_proj", kv_width), ("v_proj", kv_width)):
            yield f"{prefix}.self_attn.{name}.weight", (rows, hidden)
            if config.get("attention_bias"):
                yield f"{prefix}.self_attn.{name}.bias", (rows,)
        yield f"{prefix}.self_attn.o_proj.weight", (hidden, hidden)
        yield f"{prefix}.mlp.gate_proj.weight", (inner, hidden)
        yield f"{prefix}.mlp.up_proj.weight", (inner, hidden)
        yield f"{prefix}.mlp.down_proj.weight", (hidden, inner)
        yield f"{prefix}.input_layernorm.weight", (hidden,)
        yield f"{prefix}.post_attention_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (config["vocab_size"], hidden)
