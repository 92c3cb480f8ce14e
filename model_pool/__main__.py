"""Start one worker: python -m model_pool FLEET.yaml --worker NAME --listen ADDRESS.

Once its engine runs and pool.preload is loaded, gRPC health says SERVING. SIGTERM: NOT_SERVING, new
requests are refused, those that run have pool.drain_limit_s to end; then it exits with 0. SIGHUP,
or a change of the file or of a specialist's: specialists are read again, and taken over or refused
as a whole.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import logging
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from merge_on_load.errors import MergeError
from model_pool.catalog import read_catalog
from model_pool.catalog_reloader import CatalogReloader
from model_pool.engine import Engine
from model_pool.errors import ConfigRefused, FleetError
from model_pool.file_watch import FileWatch, Stamps, stamps_of
from model_pool.logs import start_logging
from model_pool.settings import GATEWAY_SECTIONS, PoolSettings, SettingsError
from model_pool.settings_file import load
from model_pool.switching import Policy
from model_pool.tracing import Tracing, open_tracing
from model_pool.worker import WorkerIdentity, WorkerServicer
from model_pool.worker_door import WorkerDoor

log = logging.getLogger("model_pool")


def main(arguments: list[str] | None = None) -> int:
    """Run a worker until SIGTERM or SIGINT. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m model_pool", description=__doc__)
    parser.add_argument("fleet", type=Path, help="the fleet.yaml")
    parser.add_argument("--worker", default="worker-0", help="its name (default: worker-0)")
    parser.add_argument("--listen", required=True, help="host:port or unix:PATH")
    parser.add_argument("--health-listen", help="host:port for health alone, without TLS")
    parser.add_argument("--group", help="the group of pool.discovery that it belongs to")
    parser.add_argument(
        "--with-parent", action="store_true", help="stop when standard input is closed"
    )
    parser.add_argument(
        "--beside", type=Path, help="where paths in the file start from (default: where it lies)"
    )
    options = parser.parse_args(arguments)
    start_logging()
    try:
        settings = _read_settings(options)
        seen = stamps_of(_watched(settings, options))
        asyncio.run(_serve(settings, options, seen))
    except (SettingsError, MergeError, FleetError, OSError, RuntimeError) as error:
        log.error("worker_failed", extra={"worker": options.worker, "reason": str(error)})
        return 1
    return 0


def _read_settings(options: argparse.Namespace) -> PoolSettings:
    settings = load(PoolSettings, options.fleet, ignored=GATEWAY_SECTIONS, beside=options.beside)
    return settings if options.group is None else settings.of_group(options.group)


async def _serve(settings: PoolSettings, options: argparse.Namespace, seen: Stamps) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopping.set)
    if options.with_parent:
        loop.add_reader(sys.stdin.fileno(), _stop_at_end, stopping)
    async with open_tracing(settings.tracing, "deltafleet-worker") as tracing:
        await _serve_until(settings, options, seen, stopping, tracing)


async def _serve_until(
    settings: PoolSettings,
    options: argparse.Namespace,
    seen: Stamps,
    stopping: asyncio.Event,
    tracing: Tracing,
) -> None:
    engine = make_engine(settings)
    servicer = WorkerServicer(
        _identity(settings, options.worker),
        engine,
        monotonic=time.monotonic,
        wall=time.time,
        tracing=tracing,
        thresholds=settings.pool.admission.thresholds,
        linger_s=settings.pool.linger_s,
    )
    watch = _watch_files(settings, options, servicer)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, watch.look_now)
    watching = asyncio.create_task(watch.run(seen), name="watch files")
    door = WorkerDoor(servicer, options.listen, settings.pool.tls, options.health_listen)
    await door.open()
    stop = asyncio.create_task(stopping.wait(), name="stop signal")
    fault = None
    if await _started(settings, servicer, stop):
        await door.serve()
        log.info("worker_ready", extra={"worker": options.worker, "pid": os.getpid()})
        fault = await _fault_or_end(door, engine, stop, settings.pool.drain_limit_s)
    watching.cancel()
    await door.close()
    await engine.stop()
    if fault is not None:
        raise RuntimeError(fault)


def _watched(settings: PoolSettings, options: argparse.Namespace) -> list[Path]:
    if options.with_parent:  # a gateway, which tells
        return []
    return [options.fleet, *(one.source for one in settings.specialists.values())]


def _watch_files(
    settings: PoolSettings, options: argparse.Namespace, servicer: WorkerServicer
) -> FileWatch:
    """Reload when asked, on SIGHUP and, unless a gateway tells, when files have changed."""
    read = partial(_read_settings, options)
    name, served = options.worker, servicer.served
    reloader = CatalogReloader(read, settings, name, served, servicer.notify)
    servicer.reload_by(reloader.reload)

    async def reload() -> None:
        await servicer.until_started()
        with contextlib.suppress(ConfigRefused):  # logged
            await reloader.reload()

    return FileWatch(lambda: _watched(reloader.read, options), reload)


async def _started(
    settings: PoolSettings, servicer: WorkerServicer, stop: asyncio.Task[Any]
) -> bool:
    """Start it. Returns whether it runs: not where the stop signal came first."""

    async def start() -> None:
        catalog = await asyncio.to_thread(read_catalog, settings)
        await servicer.start(catalog, settings.pool.preload)

    starting = asyncio.create_task(start(), name="start")
    await _first(starting, stop)
    if starting.done():
        await starting  # what it raised
        return True
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    return False


async def _fault_or_end(
    door: WorkerDoor, engine: Engine, stop: asyncio.Task[Any], drain_limit_s: float
) -> str | None:
    """Return None when a stop signal came and what ran has ended, or drain_limit_s is over.

    Where the engine died: of what.
    """
    death = asyncio.create_task(engine.died(), name="death of the engine")
    await _first(death, stop)
    if not death.done():
        await door.drain(drain_limit_s)
    if death.done():
        return death.result()
    death.cancel()
    return None


async def _first(*tasks: asyncio.Task[Any]) -> None:
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)


def make_engine(settings: PoolSettings) -> Engine:
    """The engine that fleet.yaml names, not started. Raises SettingsError where it is not there."""
    if settings.pool.engine == "vllm":
        return _make_vllm_engine(settings)
    from model_pool.transformers_engine import TransformersEngine

    pool = settings.pool
    return TransformersEngine(
        settings.base.path,
        max_running_count=pool.max_running_count,
        max_queued_count=pool.max_queued_count,
        context_token_count=pool.context_token_count,
        thread_count=pool.thread_count,
    )


def _make_vllm_engine(settings: PoolSettings) -> Engine:
    if importlib.util.find_spec("vllm") is None:
        raise SettingsError(
            "pool.engine: vllm is not installed beside this program; `tools/vllm-env` makes an "
            "environment with it"
        )
    from model_pool.vllm.engine import VllmEngine

    pool = settings.pool
    return VllmEngine(
        settings.base.path,
        pool.vllm,
        specialists=[settings.specialists[name].source for name in settings.by_recency()],
        policy=Policy(
            max_wait_s=pool.switching.max_wait_s,
            amortisation=pool.switching.amortisation,
            drain_s=pool.switching.drain_s,
        ),
        max_running_count=pool.max_running_count,
        max_queued_count=pool.max_queued_count,
        context_token_count=pool.context_token_count,
        thread_count=pool.thread_count,
    )


def _identity(settings: PoolSettings, name: str) -> WorkerIdentity:
    pool = settings.pool
    return WorkerIdentity(
        name=name,
        engine=pool.engine,
        price_nano_usd_per_hour=pool.hardware_of(name).nano_usd_per_hour,
        limit_count=pool.max_running_count + pool.max_queued_count,
        memory_budget_bytes=pool.memory_budget_mib * 2**20,
    )


def _stop_at_end(stopping: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        stopping.set()


if __name__ == "__main__":
    sys.exit(main())
