"""What the gateway counts and the workers say, as one sample of the page's history."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from prometheus_client import Histogram
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.samples import Sample as MetricSample

from deltafleet.v1 import worker_pb2
from gateway.metrics import Metrics
from gateway.page.history import Buckets, Sample, WorkerSeconds
from gateway.worker_metrics import life_cost_nano_usd
from model_pool.pool import Pool


def take_sample(metrics: Metrics, pool: Pool, at_s: float) -> Sample:
    """All that is counted until now, on any thread."""
    requests: Counter[str] = Counter()
    failed_count = 0
    for one in _told(metrics.requests, "_total"):
        requests[one.labels["model"]] += int(one.value)
        failed_count += int(one.value) if one.labels["outcome"] != "answered" else 0
    baselines: Counter[str] = Counter()
    for (_, baseline), nano_usd in metrics.baseline_cost.sums().items():
        baselines[baseline] += nano_usd
    heard = {name: member.last_word for name, member in pool.members.items()}
    return Sample(
        at_s=at_s,
        requests=requests,
        failed_count=failed_count,
        output_token_count=sum(int(one.value) for one in _told(metrics.output_tokens, "_total")),
        cost_nano_usd=sum(metrics.cost.sums().values()),
        baselines_nano_usd=baselines,
        workers={name: _seconds(status) for name, status in heard.items() if status},
        first_token=to_buckets(metrics.first_token),
        total=to_buckets(metrics.total),
    )


def to_buckets(histogram: Histogram) -> Buckets:
    """A histogram of prometheus_client, all its labels together."""
    cumulative: Counter[float] = Counter()
    for one in _told(histogram, "_bucket"):
        cumulative[float(one.labels["le"])] += int(one.value)
    bounds = sorted(cumulative)
    below = [0, *(cumulative[bound] for bound in bounds)]
    return Buckets(
        tuple(bounds),
        tuple(count - before for before, count in pairwise(below)),
    )


def _told(metric: MetricWrapperBase, suffix: str) -> Iterator[MetricSample]:
    for family in metric.collect():
        yield from (one for one in family.samples if one.name.endswith(suffix))


def _seconds(status: worker_pb2.WatchStatusResponse) -> WorkerSeconds:
    return WorkerSeconds(
        status.incarnation, status.uptime_s, status.busy_s, life_cost_nano_usd(status)
    )
