"""fleet.yaml → closed APIs that can be asked."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from gateway.closed_apis.apis import ClosedApis, open_closed_api
from gateway.closed_apis.client import ApiPrice
from gateway.fleet_files import closed_api_key
from gateway.ledger_store import LedgerStore
from gateway.pricing import TokenPrice, to_nano_usd
from gateway.settings import Settings
from gateway.spending import Budget


async def open_closed_apis(
    settings: Settings, prices: Mapping[str, TokenPrice], store: LedgerStore
) -> ClosedApis:
    """Their budgets go on where the ledger says that today's spending is. Raises SettingsError.

    prices: by the API's name.
    """
    spent = await spent_today(store) if settings.closed_apis else {}
    clients = {}
    for name, one in settings.closed_apis.items():
        limit = to_nano_usd(one.daily_budget_usd)
        clients[name] = open_closed_api(
            name,
            one,
            closed_api_key(name, one).get_secret_value(),
            ApiPrice(prices[name], one.cached_input_usd_per_mtok),
            Budget(name, limit, spent_nano_usd=spent.get(name, 0)),
        )
    longest = settings.server.default_output_token_count
    return ClosedApis(clients, default_output_token_count=longest)


async def spent_today(store: LedgerStore) -> dict[str, int]:
    """Nano-dollars by model, since midnight UTC."""
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return {sums.key["model"]: sums.cost_nano_usd for sums in await store.sums(midnight, None)}
