"""What is run inside vLLM's worker; sent there by name."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import torch


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


def live_digest(worker: Any) -> str:
    """SHA-256 over the bytes of every live parameter."""
    total = hashlib.sha256()
    for name, parameter in sorted(worker.model_runner.get_model().named_parameters()):
        total.update(name.encode())
        total.update(parameter.detach().contiguous().view(torch.uint8).numpy())
    return total.hexdigest()


def thread_count(worker: Any) -> int:
    """Threads that compute, and that switch."""
    return torch.get_num_threads()
