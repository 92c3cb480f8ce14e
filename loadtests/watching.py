"""What gateways tell Prometheus, second by second, and what their ledger says in the end."""

from __future__ import annotations

import asyncio
import contextlib
import time
import urllib.request
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field

from google.protobuf.timestamp_pb2 import Timestamp
from prometheus_client.parser import text_string_to_metric_families

from deltafleet.v1 import cost_pb2, cost_pb2_grpc
from loadtests.access import Access, frame_of

INTERVAL_S = 1.0
NANO = 10**9


@dataclass(slots=True)
class Sample:
    """The pages of all gateways at one moment. at: seconds since the epoch.

    Counters of gateways are summed, those of workers taken from whoever tells the most. changes:
    worker -> changes of weights so far. loaded: worker -> models in its memory. shed: a bound in
    seconds -> refusals that took no longer, since there was too much to do.
    """

    at: float
    requests: float = 0.0
    cost_nano_usd: int = 0
    baselines_nano_usd: dict[str, int] = field(default_factory=dict)
    changes: dict[str, float] = field(default_factory=dict)
    loaded: dict[str, list[str]] = field(default_factory=dict)
    waiting: float = 0.0
    shed: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """As a mapping."""
        return asdict(self)


def read_sample(pages: Sequence[str], at: float) -> Sample:
    """pages: in Prometheus' text format."""
    sample = Sample(at)
    waiting: dict[str, float] = {}
    for page in pages:
        for family in text_string_to_metric_families(page):
            for one in family.samples:
                worker = one.labels.get("worker", "")
                match one.name:
                    case "deltafleet_requests_total":
                        sample.requests += one.value
                    case "deltafleet_cost_usd_total":
                        sample.cost_nano_usd += round(one.value * NANO)
                    case "deltafleet_baseline_cost_usd_total":
                        name = one.labels["baseline"]
                        before = sample.baselines_nano_usd.get(name, 0)
                        sample.baselines_nano_usd[name] = before + round(one.value * NANO)
                    case "deltafleet_worker_switch_seconds_count":
                        sample.changes[worker] = max(sample.changes.get(worker, 0), one.value)
                    case "deltafleet_shed_duration_seconds_bucket":
                        bound = one.labels["le"]
                        sample.shed[bound] = sample.shed.get(bound, 0) + one.value
                    case "deltafleet_worker_waiting_requests":
                        waiting[worker] = max(waiting.get(worker, 0), one.value)
                    case "deltafleet_model_loaded_bytes":
                        models = sample.loaded.setdefault(worker, [])
                        if one.labels["model"] not in models:
                            models.append(one.labels["model"])
    sample.waiting = sum(waiting.values())
    return sample


async def scrape(addresses: Sequence[str]) -> Sample:
    """Ask every page now; one that does not answer is left out."""
    pages = await asyncio.gather(*(asyncio.to_thread(_read, address) for address in addresses))
    return read_sample([page for page in pages if page], time.time())


@contextlib.asynccontextmanager
async def watching(addresses: Sequence[str]) -> AsyncIterator[list[Sample]]:
    """Yields a list that grows by a sample a second."""
    samples: list[Sample] = []

    async def watch() -> None:
        while True:
            samples.append(await scrape(addresses))
            await asyncio.sleep(INTERVAL_S)

    task = asyncio.create_task(watch(), name="watch metrics")
    try:
        yield samples
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def cost_report(address: str, access: Access, start: float) -> cost_pb2.GetCostReportResponse:
    """Sums of the ledger by model, of what ended since then (seconds since the epoch)."""
    stamp = Timestamp()
    stamp.FromNanoseconds(int(start * NANO))
    request = cost_pb2.GetCostReportRequest(start_time=stamp, by=["model"])
    async with access.open_channel([address]) as channel:
        costs = cost_pb2_grpc.CostServiceStub(channel)
        report: cost_pb2.GetCostReportResponse = await costs.GetCostReport(
            request, timeout=60, metadata=frame_of()
        )
        return report


def _read(address: str) -> str:
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as page:
            return str(page.read().decode())
    except OSError:
        return ""
