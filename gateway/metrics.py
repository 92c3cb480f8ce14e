"""Everything that Prometheus is told, declared once. Base units; ratios belong in PromQL."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from deltafleet.v1 import worker_pb2
from model_pool.pool import Pool

# Seconds; vLLM's own buckets for the same quantities, so that one dashboard reads both.
FIRST_TOKEN_BUCKETS_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
TOTAL_BUCKETS_S = (0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0)


class Metrics:
    """The gateway's metrics in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter(
            "requests", "Finished requests.", "model", "reason", "outcome"
        )
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens.", "model")
        self.output_tokens = self._counter("output_tokens", "Output tokens.", "model")
        self.cost = self._counter("cost_usd", "What the requests cost us.", "model")
        self.baseline_cost = self._counter(
            "baseline_cost_usd",
            "What closed APIs would have charged for the answered requests.",
            "model",
            "baseline",
        )
        self.route_decisions = self._counter(
            "route_decisions", "Decisions, by the step that made them.", "decided_by", "reason"
        )
        self.feedback = self._counter(
            "feedback", "Answers that callers scored, for the first time or again.", "model", "said"
        )
        self.feedback_score = self._counter("feedback_score", "Sum of their scores.", "model")
        self.first_token = self._histogram(
            "time_to_first_token_seconds",
            "From receiving a request to its first token.",
            FIRST_TOKEN_BUCKETS_S,
        )
        self.total = self._histogram(
            "request_duration_seconds", "From receiving a request to its end.", TOTAL_BUCKETS_S
        )
        self.in_flight = Gauge(
            "deltafleet_requests_in_flight",
            "Requests that are being answered.",
            registry=self.registry,
        )

        self.price_age = Gauge(
            "deltafleet_price_age_seconds",
            "Since the day on which a baseline's price was true.",
            ["baseline"],
            registry=self.registry,
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"deltafleet_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(
            f"deltafleet_{name}", text, ["model"], buckets=buckets, registry=self.registry
        )


class WorkerCollector(Collector):
    """The workers' own words as metrics, read when Prometheus asks."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def collect(self) -> Iterator[Metric]:
        """One family per quantity, one sample per worker."""
        up = GaugeMetricFamily(
            "deltafleet_worker_up", "1 where the worker takes requests.", labels=["worker"]
        )
        running = GaugeMetricFamily(
            "deltafleet_worker_running_requests", "Requests that compute.", labels=["worker"]
        )
        waiting = GaugeMetricFamily(
            "deltafleet_worker_waiting_requests", "Requests that wait.", labels=["worker"]
        )
        loaded = GaugeMetricFamily(
            "deltafleet_model_loaded_bytes",
            "Memory that a model's weights take on a worker.",
            labels=["worker", "model"],
        )
        seconds = CounterMetricFamily(
            "deltafleet_worker_seconds",
            "Seconds of the worker's life: computing, building weights, idle.",
            labels=["worker", "state"],
        )
        switches = CounterMetricFamily(
            "deltafleet_worker_switches",
            "Switches of the live weights, where an engine has one set of them.",
            labels=["worker"],
        )
        for worker, member in self._pool.members.items():
            status = member.status
            is_up = status is not None and status.state == worker_pb2.WORKER_STATE_READY
            up.add_metric([worker], float(is_up))
            if status is None:
                continue
            running.add_metric([worker], status.running_count)
            waiting.add_metric([worker], status.queued_count)
            switches.add_metric([worker], status.switch_count)
            for model in status.loaded:
                loaded.add_metric([worker, model.model], model.size_bytes)
            for state, value in life_seconds(status).items():
                seconds.add_metric([worker, state], value)
        return iter((up, running, waiting, loaded, seconds, switches))


def life_seconds(status: worker_pb2.WatchStatusResponse) -> dict[str, float]:
    """A worker's uptime in its three parts."""
    idle_s = max(0.0, status.uptime_s - status.busy_s - status.load_s)
    return {"busy": status.busy_s, "load": status.load_s, "idle": idle_s}
