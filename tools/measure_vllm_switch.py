"""How long a switch takes inside vLLM, against copying the same bytes and against a start.

    .venv-vllm/bin/python tools/measure_vllm_switch.py DIRECTORY [--layers 24] [--codec onebit ...]

Makes a random bfloat16 Llama (468 million parameters with 24 layers) and its deltas in DIRECTORY,
where they are not there yet. Seconds, the median of `--repeat` runs.
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


def copy_seconds(worker: Any, repeat: int) -> float:
    """Plain copy_ over all live parameters, from memory elsewhere."""
    parameters = [one.data for one in worker.model_runner.get_model().parameters()]
    sources = [one.clone() for one in parameters]
    pairs = list(zip(parameters, sources, strict=True))
    return _median(repeat, lambda: [to.copy_(source) for to, source in pairs])


def decode_seconds(worker: Any, delta: str | None, repeat: int) -> float:
    """Every tensor of base + delta made, and written nowhere."""
    from merge_on_load import stream

    engine = worker.weight_transfer_engine
    opened = None if delta is None else engine._open(Path(delta))

    def decode() -> None:
        for _, tensor in stream(engine._base, opened):
            tensor.view(torch.int16).flatten()[::2048].sum()  # touch every page of what is mapped

    return _median(repeat, decode)


def place_seconds(worker: Any, repeat: int) -> float:
    """The base's tensors, already in memory, through the model's own load_weights."""
    from merge_on_load import stream

    engine = worker.weight_transfer_engine
    tensors = [(name, tensor.clone()) for name, tensor in stream(engine._base, None)]
    return _median(repeat, lambda: engine.model.load_weights(iter(tensors)))


def thread_count(worker: Any) -> int:
    return torch.get_num_threads()


def _median(repeat: int, run: Callable[[], object]) -> float:
    run()
    seconds = []
    for _ in range(repeat):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


async def _median_of(repeat: int, *runs: Callable[[], Awaitable[Any]]) -> list[float]:
    """Run them one after the other, `repeat` times after a first round: the median of each."""
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(repeat + 1):
        for run, taken in zip(runs, seconds, strict=True):
            began = time.perf_counter()
            await run()
            taken.append(time.perf_counter() - began)
    return [statistics.median(taken[1:]) for taken in seconds]


async def start_ordinary(root: Path, options: Any) -> float:
    """Seconds to start vLLM on the base with its own loader."""
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    began = time.perf_counter()
    chosen = options.model_dump(exclude_none=True)
    arguments = AsyncEngineArgs(
        model=str(root / "base"), disable_log_stats=True,
        max_model_len=1024, max_num_seqs=32, **chosen,
    )  # fmt: skip
    llm = await asyncio.to_thread(AsyncLLM.from_engine_args, arguments)
    seconds = time.perf_counter() - began
    await asyncio.to_thread(llm.shutdown)
    return seconds


async def inside(process: Any, function: Any, *arguments: Any) -> Any:
    """Call function(worker, *arguments) in vLLM's worker."""
    return (await process._llm.collective_rpc(function, args=arguments))[0]


async def measure_codec(process: Any, delta: Path, codec: str, repeat: int) -> None:
    async def there() -> None:
        await process.switch(delta, codec)

    async def back() -> None:
        await process.switch(None, "base")

    began = time.perf_counter()
    await there()
    print(f"{codec:9} first switch      {time.perf_counter() - began:8.3f}")
    await back()
    to_s, control_s, back_s = await _median_of(repeat, there, there, back)
    decode_s = await inside(process, decode_seconds, str(delta), repeat)
    print(f"{codec:9} switch to it      {to_s:8.3f}")
    print(f"{codec:9} control alone     {control_s:8.4f}")
    print(f"{codec:9} back to the base  {back_s:8.3f}")
    print(f"{codec:9} decode alone      {decode_s:8.3f}", flush=True)


async def measure(root: Path, codecs: list[str], repeat: int) -> None:
    from model_pool.vllm.options import VllmOptions
    from model_pool.vllm.process import VllmProcess

    options = VllmOptions(
        dtype="bfloat16", kv_cache_memory_bytes=256 << 20, block_size=32, enforce_eager=True
    )
    print(f"start, vLLM's own loader    {await start_ordinary(root, options):8.3f}", flush=True)
    began = time.perf_counter()
    process = await VllmProcess.start(
        root / "base", options, running_count=32, context_token_count=1024, thread_count=None
    )
    print(f"start, merged loader        {time.perf_counter() - began:8.3f}", flush=True)

    print(f"threads of the worker       {await inside(process, thread_count):8d}")
    for codec in codecs:
        await measure_codec(process, root / f"{codec}.delta", codec, repeat)
    print(f"base      read alone        {await inside(process, decode_seconds, None, repeat):8.3f}")
    print(f"place alone (load_weights)  {await inside(process, place_seconds, repeat):8.3f}")
    print(f"copy_ of the same bytes     {await inside(process, copy_seconds, repeat):8.3f}")
    await process.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--codec", nargs="*", default=list(CODECS), choices=CODECS)
    parser.add_argument("--repeat", type=int, default=5)
    chosen = parser.parse_args()
    make_models(chosen.directory, chosen.layers, chosen.codec)
    asyncio.run(measure(chosen.directory, chosen.codec, chosen.repeat))


if __name__ == "__main__":
    main()
