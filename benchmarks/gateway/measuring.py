"""Each figure of the report, as plain values that JSON can hold."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
import urllib.request
from collections.abc import Sequence
from typing import Any

from benchmarks.gateway import grpc_load
from benchmarks.gateway.grpc_load import Call
from benchmarks.gateway.http2 import header_block
from benchmarks.gateway.loading import Asked, Sample, Subject, load
from benchmarks.gateway.pacing import Pacing
from benchmarks.gateway.processes import Running
from benchmarks.gateway.subjects import STREAM, Gateway

TOKEN_COUNT = 16
CONCURRENCIES = (1, 32, 128)
STREAM_COUNT, GAP_S, STREAM_TOKEN_COUNT = 800, 0.2, 20
EVENT_TOKEN_COUNT = 8
ABORT_COUNT, ABORT_CONCURRENCY, ABORT_GAP_S = 1000, 20, 0.02
SCRAPE_COUNT = 10

Figures = dict[str, Any]


async def at_once(subject: Subject, *, streams: bool, concurrency: int, seconds: float) -> Figures:
    """Answers that are there at once: of one piece, or of a piece for each token."""
    pacing = Pacing(1 if streams else TOKEN_COUNT)
    sample = await load(subject, Asked(streams, TOKEN_COUNT, pacing, concurrency), seconds=seconds)
    return _figures(sample)


async def bursts(subject: Subject, *, seconds: float) -> Figures:
    """Events of several tokens, as fast as they go."""
    asked = Asked(True, 16 * EVENT_TOKEN_COUNT, Pacing(EVENT_TOKEN_COUNT), 32)
    sample = await load(subject, asked, seconds=seconds)
    tokens = len(sample.latencies_s) * asked.token_count
    return _figures(sample) | {"tokens_per_cpu_s": tokens / sample.cpu_s if sample.cpu_s else 0.0}


async def paced(subject: Subject, *, seconds: float, stream_count: int = STREAM_COUNT) -> Figures:
    """Many streams whose tokens come one by one. first_s: beyond the pause before the first."""
    asked = Asked(True, STREAM_TOKEN_COUNT, Pacing(1, GAP_S), stream_count)
    spread_s = STREAM_TOKEN_COUNT * GAP_S
    sample = await load(subject, asked, seconds=seconds, spread_s=spread_s)
    tokens = stream_count / GAP_S * sample.seconds  # what the upstream sends
    first_s = sorted(one - GAP_S for one in sample.first_s)
    return _figures(sample) | {
        "cpu_us_per_token": sample.cpu_s / tokens * 1e6,
        "first_p50_s": at(first_s, 0.5),
        "first_p99_s": at(first_s, 0.99),
        "asked_tokens_per_s": stream_count / GAP_S,
        "events_per_s": sample.event_count / sample.seconds,
    }


async def aborts(gateway: Gateway, stub: Running) -> Figures:
    """How long after a caller left its request has ended at the worker."""
    connection = await grpc_load.connect(gateway.address, STREAM, gateway.metadata)
    [message, *_] = gateway.messages(True, 10_000, Pacing(1, ABORT_GAP_S))
    left_s: dict[str, float] = {}
    free = asyncio.Semaphore(ABORT_CONCURRENCY)

    async def leave(name: str) -> None:
        async with free:
            heard = asyncio.Event()

            def hear(message: bytes) -> None:
                if gateway.is_text(True, message):
                    heard.set()

            call = Call(hear, lambda in_order: heard.set())
            headers = header_block({"x-request-id": name})
            connection.start(message, call, headers)
            await heard.wait()
            left_s[name] = time.monotonic()
            connection.cancel(call)

    await asyncio.gather(*(leave(f"abort-{number}") for number in range(ABORT_COUNT)))
    await asyncio.sleep(2)
    connection.close()
    ended_s = json.loads(await stub.ask())["cancelled_s"]
    delays_s = sorted(
        ended_s[name] - since_s for name, since_s in left_s.items() if name in ended_s
    )
    return {
        "count": len(delays_s),
        "p50_s": at(delays_s, 0.5),
        "p99_s": at(delays_s, 0.99),
        "longest_s": delays_s[-1],
        "within_50_ms": sum(delay_s <= 0.05 for delay_s in delays_s),
    }


async def scrapes(subject: Subject, running: Running) -> Figures:
    """How late the loop was at most: alone, under load, and under load while /metrics is read."""
    page = running.addresses[1]
    await running.ask()  # begins to look
    quiet_s = [await _longest_s(running) for _ in range(SCRAPE_COUNT)]
    asked = Asked(False, TOKEN_COUNT, Pacing(TOKEN_COUNT), 1)
    loading = asyncio.create_task(load(subject, asked, seconds=SCRAPE_COUNT * 1.5))
    await asyncio.sleep(0.5)
    await running.ask()
    loaded_s = [await _longest_s(running) for _ in range(SCRAPE_COUNT)]
    scraped_s, size_bytes, took_s = [], 0, []
    for _ in range(SCRAPE_COUNT):
        await running.ask()
        began_s = time.perf_counter()
        text = await asyncio.to_thread(_get, f"http://{page}/metrics")
        took_s.append(time.perf_counter() - began_s)
        scraped_s.append(json.loads(await running.ask())["longest_s"])
        size_bytes = len(text)
    await loading
    return {
        "quiet_s": quiet_s,
        "loaded_s": loaded_s,
        "scraped_s": scraped_s,
        "scrape_s": statistics.median(took_s),
        "size_bytes": size_bytes,
    }


async def _longest_s(running: Running) -> float:
    await running.ask()
    await asyncio.sleep(0.3)
    return float(json.loads(await running.ask())["longest_s"])


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url) as answer:
        content: bytes = answer.read()
        return content


def at(ordered: Sequence[float], share: float) -> float:
    """The quantile; 0 where there is nothing."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def _figures(sample: Sample) -> Figures:
    latencies_s, first_s = sorted(sample.latencies_s), sorted(sample.first_s)
    count = max(1, len(latencies_s))
    return {
        "rate": sample.rate,
        "count": len(latencies_s),
        "failed_count": sample.failed_count,
        "p50_s": at(latencies_s, 0.5),
        "p99_s": at(latencies_s, 0.99),
        "first_p50_s": at(first_s, 0.5),
        "first_p99_s": at(first_s, 0.99),
        "cpu_us": sample.cpu_s / count * 1e6,
        "client_cpu_us": sample.client_cpu_s / count * 1e6,
    }
