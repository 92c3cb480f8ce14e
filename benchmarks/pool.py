"""make bench-pool: measure the pool on a real vLLM; writes model_pool/BENCHMARK.md.

Each part leaves its figures in build/benchmarks/; the report is made from what is there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any

from benchmarks.models import ROOT
from benchmarks.report import REPORT, render

# Each part and its module.
PARTS = {"switch": "switch", "gateway": "pool_gateway", "sharing": "sharing"}
# Of one step of vLLM's: None leaves its choice. Where others work beside it: one, as on an
# accelerator the host's cores are free for them.
THREAD_COUNTS = {"switch": None, "gateway": 1, "sharing": 1}


def main() -> int:
    """Measure the parts that were asked for, each in a process of its own, and write the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pool", description=__doc__)
    parser.add_argument("--part", choices=PARTS, action="append", help="default: all of them")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--report", action="store_true", help="measure nothing")
    chosen = parser.parse_args()
    if chosen.here:
        return measure(chosen.part[0])
    for part in () if chosen.report else chosen.part or PARTS:
        command = [sys.executable, "-m", "benchmarks.pool", "--here", "--part", part]
        if (code := subprocess.run(command, check=False).returncode) != 0:
            return code
    found = {part: ROOT / f"{part}.json" for part in PARTS}
    results = {part: json.loads(path.read_text()) for part, path in found.items() if path.is_file()}
    REPORT.write_text(render(results), encoding="utf-8")
    sys.stdout.write(f"{REPORT}\n")
    return 0


def measure(part: str) -> int:
    """One part, here: its figures and the machine's facts."""
    from benchmarks.machine import facts, vllm_build
    from model_pool.vllm.options import environment

    os.environ.update(environment(THREAD_COUNTS[part]))
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"  # of all engines alike
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # functions are sent into vLLM's worker
    ROOT.mkdir(parents=True, exist_ok=True)
    machine = {"vLLM": vllm_build(), **facts(("torch", "transformers", "numba", "grpcio"))}
    began = time.perf_counter()
    run: Callable[[], Awaitable[dict[str, Any]]] = import_module(
        f"benchmarks.{PARTS[part]}"
    ).measure
    figures = asyncio.run(_awaited(run))
    seconds = time.perf_counter() - began
    content = {"machine": machine, "seconds": seconds, "figures": figures}
    (ROOT / f"{part}.json").write_text(json.dumps(content, indent=1))
    return 0


async def _awaited(run: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    return await run()


if __name__ == "__main__":
    sys.exit(main())
