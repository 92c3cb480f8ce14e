"""Everything that the gateway itself counts, declared once. Base units; ratios belong in PromQL.

deploy/monitoring/README.md says what vLLM and the Gateway API inference extension call the same.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterable
from importlib.metadata import version

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector

from gateway.histograms import ModelHistogram
from gateway.limits.counters import Limit
from gateway.repeats import REPEATED
from gateway.usd_counter import UsdCounter
from model_pool.call import elapsed_s

log = logging.getLogger("gateway.access")

# Seconds; vLLM's own buckets for the same quantities, so that one dashboard reads both. Smaller
# ones below them, for models that answer before vLLM's first bucket ends.
FIRST_TOKEN_BUCKETS_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
TOKEN_BUCKETS_S = (
    *(0.001, 0.0025, 0.005),
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0),
)
REQUEST_BUCKETS_S = (
    *(0.01, 0.05, 0.1),
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
LOOP_LAG_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
SHED_BUCKETS_S = (0.00025, *LOOP_LAG_BUCKETS_S)
SHED = ("pool_saturated", "caller_saturated", "rate_limited")  # why a request is told to come again
LIMITS = (*(limit.value for limit in Limit), "unavailable")
ANSWERING = ("Generate", "StreamGenerate")
HTTP_ANSWERING = ("/v1/chat/completions", "/v1/completions")


class LabelledCounter(Counter):
    """A counter whose series are found at once: the library's own checks the labels each time.

    None of them is ever removed.
    """

    def labels(self, *values: str) -> Counter:  # type: ignore[override]
        """Of the labels, in their order."""
        known: dict[tuple[str, ...], Counter] = self.__dict__.setdefault("_known", {})
        found = known.get(values)
        if found is None:
            found = known[values] = super().labels(*values)
        return found


class Metrics:
    """The gateway's metrics in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        build = Info("deltafleet_build", "What runs.", registry=self.registry)
        build.info({"version": version("deltafleet"), "python": platform.python_version()})
        self._config = Info(
            "deltafleet_config", "The configuration in force.", registry=self.registry
        )
        self._reloads = self._counter(
            "config_reloads", "Readings of a changed fleet.yaml, by what became of them.", "outcome"
        )
        for outcome in ("applied", "refused"):
            self._reloads.labels(outcome)
        self._reload_time = Gauge(
            "deltafleet_config_last_reload_timestamp_seconds",
            "When the configuration in force was read, since the epoch.",
            registry=self.registry,
        )
        self._reload_time.set_to_current_time()
        self._declare_traffic()
        self._declare_money()
        self._declare_times()

    def _declare_traffic(self) -> None:
        self.requests = self._counter(
            "requests", "Finished requests that were routed.", "model", "reason", "outcome"
        )
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens.", "model")
        self.output_tokens = self._counter("output_tokens", "Output tokens.", "model")
        self.route_decisions = self._counter(
            "route_decisions", "Decisions, by the step that made them.", "decided_by", "reason"
        )
        self.unweighed = self._counter(
            "unweighed_answers", "Taken by the cascade without knowing how sure they are.", "model"
        )
        self.limited = self._counter(
            "limited_requests", "Refused or cut by a limit of their caller.", "limit"
        )
        self.limits_store_up = Gauge(
            "deltafleet_limits_store_up",
            "Whether the counts that all gateways share are there; 1 where none are shared.",
            registry=self.registry,
        )
        self.limits_store_up.set(1)
        self.feedback = self._counter(
            "feedback", "Answers that callers scored, for the first time or again.", "model", "said"
        )
        self.feedback_score = self._counter("feedback_score", "Sum of their scores.", "model")
        self._handled = self._counter(
            "grpc_server_handled",
            "Ended calls, by status and the ErrorReason behind it.",
            *("grpc_service", "grpc_method", "grpc_code", "reason"),
        )
        self.repeats = self._counter(
            "repeated_requests",
            "Joined to one of the same x-request-id that ran, or was answered.",
            "state",
        )
        self.unshared_names = self._counter(
            "unshared_named_requests",
            "With an x-request-id that other gateways were not told, as Redis was away.",
        )
        self._http = self._counter(
            "http_requests",
            "Ended requests of the HTTP door, by status and the ErrorReason behind it.",
            *("path", "status", "reason"),
        )
        self.in_flight = Gauge(
            "deltafleet_requests_in_flight",
            "Requests that are being answered.",
            registry=self.registry,
        )
        self.loop_lag = Histogram(
            "deltafleet_event_loop_lag_seconds",
            "How late the event loop calls a timer: what every call waits before it is looked at.",
            buckets=LOOP_LAG_BUCKETS_S,
            registry=self.registry,
        )
        shed = Histogram(
            "deltafleet_shed_duration_seconds",
            "From hearing of a request to its refusal since there is too much to do.",
            ["reason"],
            buckets=SHED_BUCKETS_S,
            registry=self.registry,
        )
        self._shed = {reason: shed.labels(reason) for reason in SHED}
        self.tasks = Gauge(
            "deltafleet_event_loop_tasks",
            "Tasks of the gateway's event loop that have not ended.",
            registry=self.registry,
        )

    def _declare_money(self) -> None:
        self.cost = UsdCounter(
            "deltafleet_cost_usd",
            "What the requests cost us, in USD.",
            ("model",),
            self.registry,
        )
        self.baseline_cost = UsdCounter(
            "deltafleet_baseline_cost_usd",
            "What closed APIs would have charged for the answered requests, in USD.",
            ("model", "baseline"),
            self.registry,
        )
        self.price_age = Gauge(
            "deltafleet_price_age_seconds",
            "Since the day on which a baseline's price was true.",
            ["baseline"],
            registry=self.registry,
        )

    def _declare_times(self) -> None:
        self.first_token = self._histogram(
            "time_to_first_token_seconds",
            "From receiving a request to its first token.",
            FIRST_TOKEN_BUCKETS_S,
        )
        self.token_gap = self._histogram(
            "inter_token_latency_seconds",
            "Between two pieces of an answer, per token of the second.",
            TOKEN_BUCKETS_S,
        )
        self.token_mean = self._histogram(
            "request_time_per_output_token_seconds",
            "From the first to the last token of a request, per token after the first.",
            TOKEN_BUCKETS_S,
        )
        self.queue = self._histogram(
            "request_queue_time_seconds",
            "At the worker, before the first step, where the worker tells it.",
            REQUEST_BUCKETS_S,
        )
        self.total = self._histogram(
            "e2e_request_latency_seconds",
            "From receiving a request to its end.",
            REQUEST_BUCKETS_S,
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return LabelledCounter(f"deltafleet_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> ModelHistogram:
        return ModelHistogram(f"deltafleet_{name}", text, buckets, self.registry)

    def call_ended(self, method: str, code: grpc.StatusCode, reason: str) -> None:
        """What `model_pool.rpc.Door` tells of each call. method: /package.Service/Method."""
        service, _, name = method.lstrip("/").partition("/")
        self._handled.labels(service, name, code.name, reason).inc()
        if reason:
            self._refused(reason, {"method": f"{service}/{name}", "code": code.name})

    def http_ended(self, path: str, status: int, reason: str) -> None:
        """What the HTTP door tells of each request. path: as its route is written."""
        self._http.labels(path, str(status), reason).inc()
        if reason:
            self._refused(reason, {"path": path, "status": status})

    def _refused(self, reason: str, what: dict[str, object]) -> None:
        took_s = elapsed_s()
        if reason in self._shed:
            self._shed[reason].observe(took_s)
        told = {"reason": reason, "total_us": round(took_s * 1e6)}
        log.info("call_refused", extra=what | told)

    def expect(
        self, models: Iterable[str], baselines: Iterable[str], weighed: Iterable[str] = ()
    ) -> None:
        """Show these at 0 from the start: `rate` does not see the step from nothing to a first
        value, and an alert needs a total while everything fails. weighed: by a cascade.
        """
        names = tuple(baselines)
        for model in models:
            self.cost.add(0, model)
            for baseline in names:
                self.baseline_cost.add(0, model, baseline)
            self.prompt_tokens.labels(model)
            self.output_tokens.labels(model)
            for histogram in (self.first_token, self.total):
                histogram.labels(model)
        for model in weighed:
            self.unweighed.labels(model)
        for limit in LIMITS:
            self.limited.labels(limit)
        for method in ANSWERING:
            self._handled.labels("deltafleet.v1.InferenceService", method, "OK", "")
        for path in HTTP_ANSWERING:
            self._http.labels(path, "200", "")
        for state in REPEATED:
            self.repeats.labels(state)

    def reloaded(self, outcome: str) -> None:
        """fleet.yaml was read again. outcome: "applied" or "refused"."""
        self._reloads.labels(outcome).inc()
        if outcome == "applied":
            self._reload_time.set_to_current_time()

    def describe(self, config_digest: str) -> None:
        """Which configuration is in force. config_digest: SHA-256 in hex."""
        self._config.info({"sha256": config_digest})
