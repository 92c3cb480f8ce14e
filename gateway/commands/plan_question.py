"""What `deltafleet plan --traffic` was asked: the fleet, its traffic, what is paid for what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path

import click

from gateway.commands import plan_traffic
from gateway.commands.plan_fleet import PlannedFleet
from gateway.fleet_files import ledger_url
from gateway.price_list import BUILT_IN_PRICES, load_prices, priced_baselines, read_prices
from gateway.pricing import TokenPrice
from gateway.settings import Settings
from gateway.traffic import Traffic, even_traffic, read_traffic, seen_traffic
from model_pool.capacity import DeltaSizes, Limits
from model_pool.settings import BASE_MODEL, SettingsError
from model_pool.sizing import Demand, Targets

LEDGER = "ledger"
PRESET_BASELINES = ("openai/gpt-5-mini", "anthropic/claude-haiku-4-5")


def read_question(
    wanted: PlannedFleet,
    deltas: Sequence[DeltaSizes],
    limits: Limits,
    *,
    traffic: str,
    days: int,
    peak_factor: float | None,
    hourly: Sequence[str],
    headroom: float,
    baselines: Sequence[str],
) -> plan_traffic.Question:
    """The command's options, read. Raises SettingsError, BadParameter."""
    asked = _traffic(traffic, wanted, deltas, days)
    stored = (*deltas, *wanted.adapters)
    question = plan_traffic.Question(
        shape=wanted.model,
        limits=limits,
        demands=tuple(_with_deltas(asked, wanted, deltas)),
        targets=_targets(wanted, peak_factor or asked.peak_factor),
        baselines=_baselines(wanted, baselines),
        stored_bytes=wanted.model.base_bytes + sum(one.stored_bytes for one in stored),
        headroom=Decimal(str(headroom)),
        storage_usd_per_gb_month=plan_traffic.ASSUMED_STORAGE_USD_PER_GB_MONTH,
        prices=_prices(wanted, hourly),
    )
    if not question.requests_per_day:
        raise click.BadParameter("no requests at all", param_hint="--traffic")
    return question


def _traffic(said: str, wanted: PlannedFleet, deltas: Sequence[DeltaSizes], days: int) -> Traffic:
    """Raises SettingsError, BadParameter."""
    models = [one.name for one in (*deltas, *wanted.adapters)] or [BASE_MODEL]
    if said == LEDGER:
        if wanted.settings is None:
            raise click.BadParameter("a ledger is FLEET's, not --model's", param_hint="--traffic")
        return _seen(wanted.settings, models, days)
    try:
        requests_per_day = float(said)
    except ValueError:
        return read_traffic(Path(said))
    if not 0 < requests_per_day <= 1e12:
        raise click.BadParameter(f"not {said} requests a day", param_hint="--traffic")
    return even_traffic(models, requests_per_day)


def _seen(settings: Settings, models: Sequence[str], days: int) -> Traffic:
    """Of the last days, of the models that we serve. Raises SettingsError."""
    from sqlalchemy.exc import SQLAlchemyError

    from gateway.ledger_store.database import BadLedger, Database
    from gateway.ledger_store.migrating import check_current
    from gateway.ledger_store.summing import read_sums

    database = Database(ledger_url(settings.ledger))
    try:
        if database.file and not database.file.exists():
            raise BadLedger(f"{database.name}: there is no ledger yet")
        check_current(database)
        now = datetime.now(UTC)
        sums = read_sums(database, now - timedelta(days=days), now, ["model"])
    except (BadLedger, SQLAlchemyError) as error:
        raise SettingsError(f"--traffic {LEDGER}: {error}") from None
    finally:
        database.dispose()
    ours = {BASE_MODEL, *models}
    return seen_traffic([one for one in sums if one.key["model"] in ours], days)


def _with_deltas(
    traffic: Traffic, wanted: PlannedFleet, deltas: Sequence[DeltaSizes]
) -> list[Demand]:
    """Each demand with what its model is stored as. Raises SettingsError for an unknown model."""
    stored = {one.name: one for one in deltas}
    known = {BASE_MODEL, *stored, *(one.name for one in wanted.adapters)}
    demands = traffic.demands()
    strange = sorted({one.model for one in demands} - known)
    if strange:
        raise SettingsError(f"--traffic: the fleet has no {', '.join(strange)}")
    return [replace(one, delta=stored.get(one.model)) for one in demands]


def _targets(wanted: PlannedFleet, peak_factor: float) -> Targets:
    found = Targets(peak_factor=peak_factor)
    if wanted.settings is None:
        return found
    max_wait_s = wanted.settings.pool.switching.max_wait_s
    return replace(found, max_wait_s=max_wait_s) if max_wait_s else found


def _baselines(wanted: PlannedFleet, names: Sequence[str]) -> dict[str, TokenPrice]:
    """Those that are named, else the fleet's. Raises SettingsError."""
    settings = wanted.settings
    listed = load_prices(settings) if settings else read_prices(BUILT_IN_PRICES)
    if not names and settings:
        found = priced_baselines(settings, listed)
        return {name: one.price for name, one in found.items()}
    names = names or PRESET_BASELINES
    missing = [name for name in names if name not in listed.prices]
    if missing:
        raise SettingsError(f"--baseline: the price file has no {', '.join(missing)}")
    return {name: listed.token_price(name) for name in names}


def _prices(wanted: PlannedFleet, hourly: Sequence[str]) -> dict[str, tuple[Decimal, str]]:
    """USD an hour of each card, and who says so."""
    prices = dict(plan_traffic.ASSUMED_USD_PER_HOUR)
    if wanted.settings is not None:
        hardware = wanted.settings.pool.hardware
        if hardware.accelerator.lower() in prices and hardware.usd_per_hour:
            prices[hardware.accelerator.lower()] = (hardware.usd_per_hour, "fleet.yaml")
    for said in hourly:
        card, _, usd = said.partition("=")
        try:
            price = Decimal(usd)
        except InvalidOperation:
            price = Decimal("NaN")
        if card.lower() not in prices or not price.is_finite() or price <= 0:
            raise click.BadParameter(f"{said!r} is not GPU=USD", param_hint="--usd-per-hour")
        prices[card.lower()] = (price, "--usd-per-hour")
    return prices
