"""deltafleet ledger check, ledger export, ledger prune."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.fleet_files import ledger_url
from gateway.settings import Settings, load_settings
from model_pool.settings import SettingsError

if TYPE_CHECKING:
    from gateway.ledger_store.database import Database

_FLEET = click.argument("fleet", type=click.Path(exists=True, dir_okay=False, path_type=Path))
_TIME = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"])


@click.group(epilog="Example: deltafleet ledger check examples/demo/fleet.yaml")
def ledger() -> None:
    """Look after the ledger of a fleet, whose gateway may be running or not."""


@ledger.command("check", epilog="Example: deltafleet ledger check examples/demo/fleet.yaml")
@_FLEET
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def check_command(fleet: Path, as_json: bool) -> None:
    """See whether FLEET's ledger is whole; ends with 1 where it is not."""
    from gateway.ledger_store.checking import check

    with _database(_settings(fleet)) as database:
        found = check(database)
    if as_json:
        click.echo(json.dumps(asdict(found)))
    else:
        click.echo(
            f"{database.name}: {found.request_count:,} requests, {found.folded_count:,} folded, "
            f"{found.life_count:,} lives of workers"
        )
        for problem in found.problems:
            click.echo(problem)
        click.echo("not whole" if found.problems else "whole")
    if found.problems:
        raise SystemExit(1)


@ledger.command("export", epilog="Example: deltafleet ledger export fleet.yaml --out june.parquet")
@_FLEET
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--from", "start", type=_TIME, help="UTC; from then on.")
@click.option("--to", "end", type=_TIME, help="UTC; before then.")
@click.option("--daily", is_flag=True, help="Sums by day, model, task and caller, of all requests.")
def export_command(
    fleet: Path, out: Path, start: datetime | None, end: datetime | None, daily: bool
) -> None:
    """Write FLEET's finished requests to a .csv or .parquet file.

    Requests that were folded into daily sums are only in --daily.
    """
    from gateway.ledger_store.exporting import NoParquet, export

    start, end = (one.replace(tzinfo=UTC) if one else None for one in (start, end))
    if start and end and end <= start:
        raise click.BadParameter("not after --from", param_hint="--to")
    with _database(_settings(fleet)) as database:
        try:
            count = export(database, out, start, end, daily=daily)
        except (NoParquet, ValueError, OSError) as error:
            raise click.ClickException(str(error)) from error
    click.echo(f"{out}: {count:,} {'sums' if daily else 'requests'}")


@ledger.command("prune", epilog="Example: deltafleet ledger prune fleet.yaml --keep-days 90")
@_FLEET
@click.option("--keep-days", type=click.IntRange(1), help="Default: ledger.keep_days of FLEET.")
def prune_command(fleet: Path, keep_days: int | None) -> None:
    """Fold older requests of FLEET's ledger into daily sums; every total stays."""
    from gateway.ledger_store.folding import first_kept_us, fold_some

    settings = _settings(fleet)
    keep_days = keep_days or settings.ledger.keep_days
    if keep_days is None:
        raise click.ClickException("say --keep-days: fleet.yaml has no ledger.keep_days")
    before_us = first_kept_us(datetime.now(UTC), keep_days)
    total = 0
    with _database(settings) as database:
        while count := fold_some(database, before_us):
            total += count
    click.echo(f"{database.name}: {total:,} requests folded into daily sums")


def _settings(fleet: Path) -> Settings:
    try:
        return load_settings(fleet)
    except SettingsError as error:
        raise click.ClickException(str(error)) from None


@contextlib.contextmanager
def _database(settings: Settings) -> Iterator[Database]:
    """The ledger as it is: neither made nor brought to another shape."""
    from sqlalchemy.exc import SQLAlchemyError

    from gateway.ledger_store.database import BadLedger, Database
    from gateway.ledger_store.migrating import check_current

    try:
        database = Database(ledger_url(settings.ledger))
    except SettingsError as error:
        raise click.ClickException(str(error)) from None
    try:
        if database.file and not database.file.exists():
            raise BadLedger(f"{database.name}: there is no ledger yet")
        check_current(database)
        yield database
    except (BadLedger, SQLAlchemyError) as error:
        raise click.ClickException(str(error)) from error
    finally:
        database.dispose()
