"""make bench-gateway: measure what the gateway adds; writes gateway/BENCHMARK.md.

The figures are left in build/benchmarks/bench-gateway.json; --report makes the report of what is
there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from pathlib import Path

from benchmarks.gateway.fleet import make_router
from benchmarks.gateway.processes import CLIENT_CORE
from benchmarks.gateway.report import REPORT, render
from benchmarks.gateway.running import measure
from benchmarks.machine import facts

FIGURES = Path("build/benchmarks/bench-gateway.json")
PACKAGES = ("grpcio", "uvloop", "pygrpc-native", "protobuf", "prometheus-client")


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=__doc__)
    parser.add_argument("--litellm", type=Path, help="the program; default: it is left out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    chosen = parser.parse_args()
    if not chosen.report:
        os.environ["HF_HUB_OFFLINE"] = "1"
        make_router()
        machine = facts(PACKAGES)
        os.sched_setaffinity(0, {CLIENT_CORE})
        began_s = time.perf_counter()
        litellm = chosen.litellm.absolute() if chosen.litellm else None
        figures = asyncio.run(measure(litellm, chosen.rounds, chosen.seconds))
        machine["load average after"] = f"{os.getloadavg()[0]:.1f}"
        machine["minutes"] = f"{(time.perf_counter() - began_s) / 60:.0f}"
        FIGURES.parent.mkdir(parents=True, exist_ok=True)
        FIGURES.write_text(json.dumps({"machine": machine, "figures": figures}, indent=1))
    REPORT.write_text(render(json.loads(FIGURES.read_text())), encoding="utf-8")
    sys.stdout.write(f"{REPORT}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
