"""What the figures were taken on."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path


def facts(packages: Iterable[str]) -> dict[str, str]:
    """Name -> what it is here and now. packages: whose versions matter."""
    return {
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        **{name: version(name) for name in packages},
        "load average before": f"{os.getloadavg()[0]:.1f}",
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def vllm_build() -> str:
    """vLLM's version, and for what it was built."""
    import torch
    import vllm

    return f"{vllm.__version__} ({'CUDA' if torch.cuda.is_available() else 'CPU'} build)"
