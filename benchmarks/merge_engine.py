"""From a recipe to its first token: merged into a running engine, or on the disk and then loaded.

Run by vLLM's environment; leaves its figures beside those of `benchmarks.merge`.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks import models
from benchmarks.models import ROOT
from benchmarks.timing import say

FIGURES = ROOT / "merge-engine.json"
REPEATS = 3
PROMPT = "What is merged here?"


def main() -> int:
    """Measure, in turns."""
    from model_pool.vllm.options import environment

    os.environ.update(environment(None))
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
    os.environ["HF_HUB_OFFLINE"] = "1"
    FIGURES.write_text(json.dumps(asyncio.run(_measure()), indent=1))
    return 0


async def _measure() -> dict[str, Any]:
    big = models.big()
    recipe = _write_recipe(big.merged("lossless"), big.merged("int8"), big.base)
    found: dict[str, Any] = {"into": [], "disk": []}
    found["parameter_count"] = models.parameter_count(big)
    for turn in range(REPEATS):
        found["disk"].append(await _through_the_disk(recipe))
        found["into"].append(await _into_the_engine(big.base, recipe))
        disk, into = (sum(found[way][-1].values()) for way in ("disk", "into"))
        say(f"{turn + 1}: through the disk {disk:.1f} s, into the engine {into:.1f} s")
    return found


def _write_recipe(first: Path, second: Path, base: Path) -> Path:
    document = {
        "merge_method": "task_arithmetic",
        "base_model": str(base.absolute()),
        "models": [
            {"model": str(one.absolute()), "parameters": {"weight": 0.5}} for one in (first, second)
        ],
    }
    path = ROOT / "merge-engine.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


async def _into_the_engine(base: Path, recipe: Path) -> dict[str, float]:
    """The engine runs on the base already, as a worker's does."""
    from benchmarks.engines import OPTIONS
    from merge_on_load import Checkpoint, Merged
    from model_pool.engine import Job, Message, Role, Sampling, Weights
    from model_pool.vllm.engine import VllmEngine

    engine = VllmEngine(base, OPTIONS, context_token_count=512)
    await engine.start()
    try:
        await engine.load(Weights("base", Checkpoint.open(base).fingerprint()))
        message = (Message(Role.USER, PROMPT),)
        await _first(engine.generate(Job("warm", "base", message, Sampling(1))))
        began = time.perf_counter()
        weights = Weights("merged", Merged.open(recipe).fingerprint(), recipe)
        named = time.perf_counter()
        await engine.load(weights)
        merged = time.perf_counter()
        await _first(engine.generate(Job("first", "merged", message, Sampling(1))))
        ended = time.perf_counter()
    finally:
        await engine.stop()
    return {"fingerprint": named - began, "merge": merged - named, "first": ended - merged}


async def _through_the_disk(recipe: Path) -> dict[str, float]:
    """Merge to a checkpoint, start vLLM on it with its own loader."""
    from vllm import SamplingParams

    from benchmarks.engines import plain_vllm
    from merge_on_load.recipes import merge

    out = ROOT / "merge-engine"
    shutil.rmtree(out, ignore_errors=True)
    began = time.perf_counter()
    await asyncio.to_thread(merge, recipe, out)
    merged = time.perf_counter()
    async with plain_vllm(out) as llm:
        started = time.perf_counter()
        await _first(llm.generate(PROMPT, SamplingParams(max_tokens=1), "first"))
        ended = time.perf_counter()
    shutil.rmtree(out)
    return {"merge": merged - began, "start": started - merged, "first": ended - started}


async def _first(outputs: Any) -> None:
    async for _ in outputs:
        pass


if __name__ == "__main__":
    sys.exit(main())
