"""deltafleet up, deltafleet check."""

from __future__ import annotations

import asyncio
import resource
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import click

from gateway.fleet_files import (
    check_paths,
    ledger_url,
    load_examples,
    load_quality,
    load_router,
    redis_url,
)
from gateway.identity.opening import check_identity
from gateway.price_list import load_prices
from gateway.settings import Settings, load_settings
from model_pool.settings import SettingsError

FLEET = click.argument("fleet", type=click.Path(exists=True, dir_okay=False, path_type=Path))


@click.command(epilog="Example: deltafleet up examples/demo/fleet.yaml --listen 127.0.0.1:7070")
@FLEET
@click.option("--listen", help="host:port or unix:PATH of the gRPC door.")
@click.option("--metrics", help="host:port of the page and /metrics.")
@click.option("--http", help="host:port of the HTTP door, for OpenAI's clients.")
def up(fleet: Path, listen: str | None, metrics: str | None, http: str | None) -> None:
    """Start the gateway and its workers, and serve until SIGTERM or ctrl-C.

    When FLEET or a file that it names changes, and on SIGHUP, it is read again.
    """
    settings = _load(fleet)
    changes = {"listen": listen, "metrics": metrics, "http": http}
    server = {key: value for key, value in changes.items() if value}
    try:
        _run(_serve(fleet, server), settings.server.event_loop)
    except SettingsError as error:
        raise click.ClickException(str(error)) from None


def _run(work: Coroutine[Any, Any, None], event_loop: str) -> None:
    """Raises SettingsError where the loop is not installed."""
    if event_loop == "asyncio":
        asyncio.run(work)
        return
    try:
        import uvloop
    except ImportError:
        work.close()
        raise SettingsError(
            "server.event_loop: uvloop is not installed (deltafleet[fast])"
        ) from None
    uvloop.run(work)


async def _serve(fleet: Path, server: dict[str, str]) -> None:
    from gateway.assembly import Gateway
    from gateway.configuration.fleet_file import FleetFile
    from gateway.long_lived import set_apart
    from model_pool.logs import start_logging

    start_logging()
    # Each connection is a descriptor, and many systems begin with 1,024 of them.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    stopping = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stopping.set)
    gateway = Gateway(FleetFile(fleet, server))
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, gateway.read_again)
    async with gateway.serving() as address:
        set_apart()
        click.echo(f"deltafleet listens on {address}")
        if gateway.http_address:
            click.echo(f"OpenAI's clients: http://{gateway.http_address}/v1")
        click.echo(f"its page: http://{gateway.page_address}/")
        await stopping.wait()


@click.command(epilog="Example: deltafleet check examples/demo/fleet.yaml")
@FLEET
def check(fleet: Path) -> None:
    """Read FLEET and every file it names; start nothing."""
    settings = _load(fleet)
    for worker in settings.pool.workers:
        for model, theirs in worker.openai.models.items() if worker.openai else ():
            click.echo(f"{model:<16} {theirs} on {worker.name}")
    if not all(worker.openai for worker in settings.pool.workers):
        _check_files(settings)


def _check_files(settings: Settings) -> None:
    from merge_on_load.errors import MergeError
    from model_pool.catalog import read_catalog

    try:
        models = read_catalog(settings).models()
    except MergeError as error:
        raise click.ClickException(str(error)) from None
    faults = [f"{files.model}: {files.fault}" for files in models if files.fault]
    for files in models:
        kib = files.stored_size_bytes / 1024
        click.echo(f"{files.model:<16} {files.fault or f'{files.codec}, {kib:,.0f} KiB'}")
    if faults:
        raise click.ClickException("; ".join(faults))


def _load(fleet: Path) -> Settings:
    try:
        settings = load_settings(fleet)
        load_prices(settings)
        ledger_url(settings.ledger)
        redis_url(settings.limits)
        load_examples(settings)
        load_router(settings)
        load_quality(settings)
        check_paths(settings)
        check_identity(settings)
    except SettingsError as error:
        raise click.ClickException(str(error)) from None
    return settings
