"""fleet.yaml → closed APIs that can be asked."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from gateway.closed_apis.apis import ClosedApis, open_closed_api
from gateway.closed_apis.shared_budget import ACCOUNT_PREFIX, SharedBudget
from gateway.fleet_files import closed_api_key
from gateway.ledger_store import LedgerStore
from gateway.limits.account import EPOCH, month_of
from gateway.limits.counters import Counters, Spent
from gateway.limits.ledger_counters import SeededCounters
from gateway.pricing import TokenPrice, to_nano_usd
from gateway.settings import Settings
from gateway.spending import Budget


async def open_closed_apis(
    settings: Settings,
    prices: Mapping[str, TokenPrice],
    store: LedgerStore,
    budgets: Mapping[str, Budget],
    counters: Counters,
) -> ClosedApis:
    """Their budgets go on where the ledger says that today's spending is. Raises SettingsError.

    prices: by the API's name. budgets: those that there were before, which go on as they are.
    counters: where others count there too, a budget is all gateways'.
    """
    seeded = SeededCounters(counters, ClosedApiSpending(settings, store).read)
    is_known = settings.closed_apis.keys() <= budgets.keys()
    spent = {} if is_known else await spent_today(settings, store)
    clients = {}
    for name, one in settings.closed_apis.items():
        limit = to_nano_usd(one.daily_budget_usd)
        budget = budgets.get(name) or Budget(name, limit, spent_nano_usd=spent[name])
        clients[name] = open_closed_api(
            name,
            one,
            closed_api_key(name, one).get_secret_value(),
            prices[name],
            budget,
            shared=SharedBudget(seeded, budget) if counters.is_shared else None,
        )
    longest = settings.server.default_output_token_count
    return ClosedApis(clients, default_output_token_count=longest)


class ClosedApiSpending:
    """What closed APIs were paid, by the ledger."""

    def __init__(self, settings: Settings, store: LedgerStore) -> None:
        self._settings = settings
        self._store = store

    async def read(self, account: str) -> Spent:
        """Of the UTC day that it is; there are no budgets of months. Raises LedgerUnavailable."""
        day = (datetime.now(UTC) - EPOCH).days
        spent = await spent_today(self._settings, self._store)
        of_api = spent[account.removeprefix(ACCOUNT_PREFIX)]
        return Spent(day, of_api, month_of(day), of_api)


async def spent_today(settings: Settings, store: LedgerStore) -> dict[str, int]:
    """Nano-dollars by closed API, since midnight UTC, or more: the ledger does not tell whose the
    cost of a mixture was, so that each of its closed APIs counts all of it.
    """
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    sums = {one.key["model"]: one.cost_nano_usd for one in await store.sums(midnight, None)}
    spent = {}
    for name in settings.closed_apis:
        mixtures = [
            mixture for mixture, one in settings.mixtures.items() if name in one.specialists
        ]
        spent[name] = sum(sums.get(model, 0) for model in (name, *mixtures))
    return spent
