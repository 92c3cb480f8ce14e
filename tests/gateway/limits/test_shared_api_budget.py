"""Several gateways spend of one closed API's daily budget, over a real Redis."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from gateway.closed_apis.shared_budget import SharedBudget
from gateway.errors import BudgetSpent, LimitsUnavailable
from gateway.limits.counters import Spent
from gateway.limits.failover import FailoverCounters
from gateway.limits.ledger_counters import SeededCounters
from gateway.limits.memory import MemoryCounters
from gateway.spending import Budget
from support.redis_server import RedisServer, counters_at

LIMIT = 10_000


async def nothing(account: str) -> Spent:
    return Spent(int(time.time() // 86_400), 0, 0, 0)


@pytest_asyncio.fixture(loop_scope="session")
async def gateways(own_redis: RedisServer) -> AsyncIterator[list[SharedBudget]]:
    """Three gateways' view of one API's budget."""
    prefix, opened, budgets = uuid.uuid4().hex, [], []
    for _ in range(3):
        shared = counters_at(own_redis.url, prefix=prefix)
        counters = FailoverCounters(
            shared, MemoryCounters(), renewal_s=10, on_change=lambda is_up: None
        )
        await counters.start()
        opened.append(counters)
        budgets.append(SharedBudget(SeededCounters(counters, nothing), Budget("mini", LIMIT)))
    yield budgets
    for one in opened:
        await one.stop()


async def ask(budget: SharedBudget, most: int, bill: int | None) -> int:
    """One request that may cost so much and is billed so; None: its bill never came."""
    reservation = budget.local.reserve(most)
    async with budget.cover(reservation) as cover:
        with reservation:
            await cover.extend()
            reservation.is_sent = True
            await asyncio.sleep(0)
            if bill is not None:
                reservation.bill(bill)
    return reservation.spent_nano_usd


async def test_all_gateways_together_spend_at_most_the_budget(gateways) -> None:
    rng, billed, refused_count = random.Random(4711), 0, 0
    for _ in range(12):
        asked = [
            ask(rng.choice(gateways), most, rng.choice([None, most // 2, most // 5]))
            for most in (rng.randrange(1, 900) for _ in range(20))
        ]
        for end in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(end, BudgetSpent):
                refused_count += 1
                assert end.metadata == {"closed_api": "mini", "limit_nano_usd": str(LIMIT)}
                assert end.retry_after_s > 0
            else:
                billed += end
    assert refused_count > 0
    assert LIMIT / 2 < billed <= LIMIT
    assert sum(one.local.spent_nano_usd for one in gateways) == billed
    assert all(one.local.held_nano_usd == 0 for one in gateways)


async def test_a_gateway_learns_that_others_have_spent_it(gateways) -> None:
    one, other, _ = gateways
    assert await ask(one, LIMIT, None) == LIMIT
    assert other.local.refusal(5) is None  # it has not heard of it yet
    with pytest.raises(BudgetSpent):
        await ask(other, 5, None)
    assert other.local.refusal(5) is not None  # so that decisions go elsewhere
    assert other.local.spent_nano_usd == 0


async def test_nothing_leaves_while_nobody_knows_what_others_spend(
    gateways, own_redis: RedisServer
) -> None:
    own_redis.kill()
    with pytest.raises(LimitsUnavailable):
        await ask(gateways[0], 5, None)
    assert gateways[0].local.refusal(5) is not None
    assert gateways[0].local.spent_nano_usd == 0
