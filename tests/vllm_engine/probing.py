"""A fleet on disk for vLLM, vLLM on it, and what is seen inside vLLM's workers."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from engine.asking import Fleet
from engine.tiny_models import CONTEXT_TOKEN_COUNT, write_checkpoint, write_variant
from transformers import PreTrainedConfig

from merge_on_load import Checkpoint, Delta, pack, stream
from model_pool.engine import Weights
from model_pool.vllm.options import VllmOptions
from model_pool.vllm.process import VllmProcess

OPTIONS = VllmOptions(
    dtype="float32", kv_cache_memory_bytes=64 << 20, block_size=32, enforce_eager=True
)


class Kept:
    """A process that others go on to use: stopping it does nothing."""

    def __init__(self, process: VllmProcess) -> None:
        self._process = process

    def __getattr__(self, name: str) -> Any:
        return getattr(self._process, name)

    async def stop(self) -> None:
        """Leave it running."""


def write_fleet(root: Path, config: PreTrainedConfig) -> Fleet:
    """A base, the deltas sql and chat, and a corrupt one that calls itself sql."""
    base = write_checkpoint(root / "base", config)
    weights = {"base": Weights("base", "digest-of-base")}
    for seed, name in enumerate(("sql", "chat"), 1):
        tuned = write_variant(base, root / name, seed=seed)
        pack(base, tuned, "lossless", root / f"{name}.delta")
        weights[name] = Weights(name, f"digest-of-{name}", root / f"{name}.delta")
    pack(base, root / "sql", "lossless", root / "corrupt.delta")
    payload = max((root / "corrupt.delta").rglob("*.*"), key=lambda path: path.stat().st_size)
    content = bytearray(payload.read_bytes())
    content[len(content) // 2] ^= 1
    payload.write_bytes(content)
    corrupt = Weights("sql", "digest-of-corrupt", root / "corrupt.delta")
    return Fleet(base, root / "sql", weights, corrupt)


async def start_process(base: Path, **changes: Any) -> VllmProcess:
    """vLLM with one computing thread. changes: to OPTIONS."""
    return await VllmProcess.start(
        base,
        OPTIONS.model_copy(update=changes),
        running_count=32,
        context_token_count=CONTEXT_TOKEN_COUNT,
        thread_count=1,
    )


async def inside(process: Any, function: Any, *arguments: Any) -> Any:
    """Call function(worker, *arguments) in vLLM's worker."""
    return (await process._llm.collective_rpc(function, args=arguments))[0]


def live_digest(worker: Any) -> str:
    """SHA-256 over the bytes of every live parameter."""
    total = hashlib.sha256()
    for name, parameter in sorted(worker.model_runner.get_model().named_parameters()):
        assert parameter.numel() > 0, name
        total.update(name.encode())
        total.update(parameter.detach().contiguous().view(torch.uint8).numpy())
    return total.hexdigest()


def storage_addresses(worker: Any) -> list[int]:
    """Where each live parameter lies."""
    return [one.data_ptr() for one in worker.model_runner.get_model().parameters()]


def break_next_write(worker: Any, after_count: int) -> None:
    """The next write of weights fails after so many blocks; later ones do not."""
    weights = worker.weight_transfer_engine._weights
    write_block, written = weights._write_block, itertools.count()

    def broken(block: Any, prepared: Any) -> None:
        if next(written) == after_count:
            del weights._write_block
            raise OSError("broken on purpose")
        write_block(block, prepared)

    weights._write_block = broken


def load_by_the_model_itself(worker: Any, base: str, delta: str | None) -> str:
    """What `stream` gives, placed by the model's own load_weights: the live digest then."""
    opened = None if delta is None else Delta.open(Path(delta))
    worker.model_runner.get_model().load_weights(stream(Checkpoint.open(Path(base)), opened))
    worker.weight_transfer_engine._is_whole = False  # written behind its back
    return live_digest(worker)


def mapped_deltas(worker: Any) -> int:
    """Mappings of prepared deltas in this process."""
    return Path("/proc/self/maps").read_text().count("memfd:deltafleet-")


async def token_ids(
    llm: Any, prompt_ids: Sequence[int], *, token_count: int = 40, salt: str | None = None
) -> tuple[list[int], int]:
    """Greedy tokens of an AsyncLLM, and how many of the prompt's came from the prefix cache."""
    from vllm import SamplingParams
    from vllm.inputs import tokens_input

    params = SamplingParams(temperature=0, max_tokens=token_count, ignore_eos=True)
    name = f"probe-{salt}-{hash(tuple(prompt_ids))}"
    async for output in llm.generate(tokens_input(list(prompt_ids), cache_salt=salt), params, name):
        last = output
    return list(last.outputs[0].token_ids), last.num_cached_tokens or 0
