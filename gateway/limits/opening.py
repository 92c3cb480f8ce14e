"""fleet.yaml → what counts callers' requests, tokens and money."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime

from gateway.fleet_files import redis_url
from gateway.fleet_models import named_limits
from gateway.ledger_store import LedgerStore
from gateway.limits.account import EPOCH, month_of
from gateway.limits.counters import Counters, Spent
from gateway.limits.failover import FailoverCounters
from gateway.limits.limiter import Limiter
from gateway.limits.memory import MemoryCounters
from gateway.limits.redis import RedisCounters
from gateway.metrics import Metrics
from gateway.settings import LimitStore, Settings

RENEWALS_PER_LEASE = 3


def make_limiter(
    settings: Settings, counters: Counters, store: LedgerStore, metrics: Metrics
) -> Limiter:
    """By what fleet.yaml says of callers."""
    return Limiter(
        counters,
        named_limits(settings),
        LedgerSpending(store).read,
        default_output_token_count=settings.server.default_output_token_count,
        on_refused=lambda limit: metrics.limited.labels(limit).inc(),
    )


async def open_counters(
    stack: contextlib.AsyncExitStack, store: LimitStore, metrics: Metrics
) -> Counters:
    """For as long as the gateway lives; a Redis that is away is no reason not to start.

    Raises SettingsError.
    """
    url = redis_url(store)
    if url is None:
        return MemoryCounters()
    counters = FailoverCounters(
        RedisCounters(
            url,
            prefix=store.prefix,
            connect_timeout_s=store.connect_timeout_s,
            operation_timeout_s=store.operation_timeout_s,
            lease_s=store.lease_s,
        ),
        MemoryCounters(),
        renewal_s=store.lease_s / RENEWALS_PER_LEASE,
        on_change=metrics.limits_store_up.set,
    )
    stack.push_async_callback(counters.stop)
    await counters.start()
    return counters


class LedgerSpending:
    """What callers have spent, by the ledger."""

    def __init__(self, store: LedgerStore) -> None:
        self._store = store

    async def read(self, caller: str) -> Spent:
        """Of the UTC day and month that it is. Raises LedgerUnavailable."""
        today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        day = (today - EPOCH).days
        return Spent(
            day,
            await self._store.spent_nano_usd(caller, today),
            month_of(day),
            await self._store.spent_nano_usd(caller, today.replace(day=1)),
        )
