"""How long a switch takes inside vLLM, against copying the same bytes and against a start.

    .venv-vllm/bin/python tools/measure_vllm_switch.py DIRECTORY [--layers 24] [--codec onebit ...]

Makes a random bfloat16 Llama (468 million parameters with 24 layers) and its deltas in DIRECTORY,
where they are not there yet. Prints seconds, the median and the best of `--repeat` runs: on a
machine that others use too, the best tells more.
"""

# ruff: noqa: T201 # it prints its table
from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import torch

os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # functions are sent into vLLM's worker

CODECS = ("onebit", "int8", "lossless")


def make_models(root: Path, layer_count: int, codecs: list[str]) -> None:
    """Write base and deltas that are not there."""
    from safetensors.torch import load_file, save_file
    from tokenizers import Tokenizer, models
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    from merge_on_load import pack

    if not (root / "base").is_dir():
        config = LlamaConfig(
            vocab_size=32000, hidden_size=1024, intermediate_size=4096, num_attention_heads=16,
            num_key_value_heads=8, num_hidden_layers=layer_count, max_position_embeddings=2048,
        )  # fmt: skip
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.save_pretrained(root / "base", max_shard_size="20GB")
        words = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
        PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(root / "base")
    if not (root / "tuned").is_dir():
        tensors = load_file(root / "base" / "model.safetensors")
        for tensor in tensors.values():
            tensor.add_(torch.randn_like(tensor), alpha=0.001)
        (root / "tuned").mkdir()
        (root / "tuned" / "config.json").write_bytes((root / "base" / "config.json").read_bytes())
        save_file(tensors, root / "tuned" / "model.safetensors", metadata={"format": "pt"})
    for codec in codecs:
        if not (root / f"{codec}.delta").is_dir():
            pack(root / "base", root / "tuned", codec, root / f"{codec}.delta")


def copy_seconds(worker: Any) -> float:
    """Plain copy_ over all live parameters, once, from memory elsewhere."""
    if not hasattr(worker, "measured_pairs"):
        parameters = [one.data for one in worker.model_runner.get_model().parameters()]
        worker.measured_pairs = [(one, one.clone()) for one in parameters]
    began = time.perf_counter()
    for to, source in worker.measured_pairs:
        to.copy_(source)
    seconds = time.perf_counter() - began
    worker.weight_transfer_engine._is_whole = False  # written behind its back
    return seconds


def write_seconds(worker: Any, path: str | None, repeat: int) -> list[float]:
    """Base + delta added into the live parameters: a switch without its control."""
    engine = worker.weight_transfer_engine
    prepared = None if path is None else engine._files.open(Path(path))
    engine._is_whole = False
    return seconds_of(repeat, lambda: engine._weights.write(prepared))


def landing_counts(worker: Any) -> tuple[int, int]:
    """How many blocks are written in place, and how many tensors by the model's load_weights."""
    weights = worker.weight_transfer_engine._weights
    return len(weights._blocks), len(weights._others)


def thread_count(worker: Any) -> int:
    return torch.get_num_threads()


def seconds_of(repeat: int, run: Callable[[], object]) -> list[float]:
    """Of each run but a first one."""
    run()
    seconds = []
    for _ in range(repeat):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return seconds


async def in_turns(repeat: int, *runs: Callable[[], Awaitable[Any]]) -> list[list[float]]:
    """Run them one after the other, `repeat` times after a first round: the seconds of each."""
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(repeat + 1):
        for run, taken in zip(runs, seconds, strict=True):
            began = time.perf_counter()
            await run()
            taken.append(time.perf_counter() - began)
    return [taken[1:] for taken in seconds]


def say(what: str, seconds: list[float], copies: list[float] | None = None) -> None:
    """Median and best, and both as shares of the speed of `copies`."""
    middle, best = statistics.median(seconds), min(seconds)
    share = ""
    if copies is not None:
        share = f"{statistics.median(copies) / middle:6.0%} {min(copies) / best:6.0%} of copy_"
    print(f"{what:34}{middle:9.4f}{best:9.4f}{share}", flush=True)


async def measure_ordinary(root: Path, options: Any) -> None:
    """vLLM with its own loader: its start, and its own way to other weights. On the CPU build a
    model computes wrong tokens after `reload_weights`: time only.
    """
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    began = time.perf_counter()
    chosen = options.model_dump(exclude_none=True)
    arguments = AsyncEngineArgs(
        model=str(root / "base"), disable_log_stats=True,
        max_model_len=1024, max_num_seqs=32, **chosen,
    )  # fmt: skip
    llm = await asyncio.to_thread(AsyncLLM.from_engine_args, arguments)
    say("start, vLLM's own loader", [time.perf_counter() - began])

    async def reload() -> None:
        await llm.collective_rpc("reload_weights")

    say("vLLM's reload_weights", (await in_turns(3, reload))[0])
    await asyncio.to_thread(llm.shutdown)


async def inside(process: Any, function: Any, *arguments: Any) -> Any:
    """Call function(worker, *arguments) in vLLM's worker."""
    return (await process._llm.collective_rpc(function, args=arguments))[0]


async def measure_codec(process: Any, root: Path, codec: str, repeat: int) -> None:
    from merge_on_load import Checkpoint
    from model_pool.engine import Weights
    from model_pool.vllm.deltas import DeltaShelf

    shelf = DeltaShelf(Checkpoint.open(root / "base"))
    weights = Weights(codec, codec, root / f"{codec}.delta")
    began = time.perf_counter()
    held = await asyncio.to_thread(shelf.prepare, weights)
    say(f"{codec}: prepare, base hashed too", [time.perf_counter() - began])
    say(f"{codec}: prepare", seconds_of(2, lambda: shelf.prepare(weights).close()))
    print(f"{codec}: {held.size_bytes / 2**20:.0f} MiB held")
    copies: list[float] = []

    async def copy() -> None:
        copies.append(await inside(process, copy_seconds))

    async def there() -> None:
        await process.switch(held.path, codec)

    async def back() -> None:
        await process.switch(None, "base")

    began = time.perf_counter()
    await there()
    say(f"{codec}: first switch", [time.perf_counter() - began])
    # In turns, so that whatever else runs here slows all of them down.
    _, to_it, control, to_base = await in_turns(repeat, copy, there, there, back)
    say(f"{codec}: copy_ of the same weights", copies[1:])
    say(f"{codec}: switch to it", to_it, copies[1:])
    say(f"{codec}: back to the base", to_base, copies[1:])
    say(f"{codec}: control alone", control)
    write_s = await inside(process, write_seconds, str(held.path), repeat)
    say(f"{codec}: decode alone", write_s, copies[1:])
    await back()
    held.close()


async def measure(root: Path, codecs: list[str], repeat: int, threads: int | None) -> None:
    from model_pool.vllm.options import VllmOptions
    from model_pool.vllm.process import VllmProcess

    options = VllmOptions(
        dtype="bfloat16", kv_cache_memory_bytes=256 << 20, block_size=32, enforce_eager=True
    )
    await measure_ordinary(root, options)
    began = time.perf_counter()
    process = await VllmProcess.start(
        root / "base", options, running_count=32, context_token_count=1024, thread_count=threads
    )
    say("start, merged loader", [time.perf_counter() - began])

    print(f"threads of the worker: {await inside(process, thread_count)}")
    print(f"blocks in place, tensors otherwise: {await inside(process, landing_counts)}")
    for codec in codecs:
        await measure_codec(process, root, codec, repeat)
    await process.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--codec", nargs="*", default=list(CODECS), choices=CODECS)
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--threads", type=int, help="of the worker; vLLM's choice if not given")
    chosen = parser.parse_args()
    make_models(chosen.directory, chosen.layers, chosen.codec)
    asyncio.run(measure(chosen.directory, chosen.codec, chosen.repeat, chosen.threads))


if __name__ == "__main__":
    main()
