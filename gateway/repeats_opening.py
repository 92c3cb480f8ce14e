"""fleet.yaml → what knows requests by their names, in this gateway and beside it."""

from __future__ import annotations

from gateway.limits.counters import Counters
from gateway.limits.failover import FailoverCounters
from gateway.metrics import Metrics
from gateway.redis_names import RedisNames
from gateway.repeats import Repeats
from gateway.settings import LimitStore, Server
from gateway.shared_repeats import LEAST_KEEP_S, Alone, First, SharedRepeats


def make_repeats(
    server: Server, store: LimitStore, counters: Counters, metrics: Metrics
) -> Repeats:
    """Shared where the counts of limits are, in the same Redis, unless the server says no."""
    return Repeats(
        server.repeat_keep_s,
        server.repeat_memory_mib * 2**20,
        first=_make_first(server, store, counters, metrics),
        on_repeat=lambda state: metrics.repeats.labels(state).inc(),
    )


def _make_first(server: Server, store: LimitStore, counters: Counters, metrics: Metrics) -> First:
    if not (server.repeat_shared and isinstance(counters, FailoverCounters)):
        return Alone()
    names = RedisNames(
        counters.link,
        prefix=store.prefix,
        lease_s=store.lease_s,
        keep_s=max(LEAST_KEEP_S, server.repeat_keep_s),
    )
    shared = SharedRepeats(
        names,
        counters,
        on_repeat=lambda state: metrics.repeats.labels(state).inc(),
        on_alone=metrics.unshared_names.inc,
    )
    counters.also_renew(shared.renew)
    return shared
