"""The only place where the gateway's objects meet.

What is made of fleet.yaml and may be replaced meanwhile is made in `gateway/configuration/`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from functools import partial

from sqlalchemy.exc import SQLAlchemyError

from deltafleet.v1 import (
    admin_pb2_grpc,
    cost_pb2_grpc,
    fleet_pb2_grpc,
    inference_pb2_grpc,
    routing_pb2_grpc,
)
from gateway.admin_service import AdminServicer
from gateway.configuration.configured import Configured
from gateway.configuration.current import Current, CurrentWalk
from gateway.configuration.effective_config import effective_config
from gateway.configuration.fleet_file import FleetFile
from gateway.configuration.making import Maker
from gateway.configuration.reloading import Reloader
from gateway.configuration.watched import watched_paths
from gateway.cost_service import CostServicer
from gateway.errors import LedgerUnavailable
from gateway.fleet_files import ledger_url
from gateway.fleet_models import weighed_models
from gateway.fleet_service import FleetServicer
from gateway.grpc_door import GrpcDoor
from gateway.http_door.admission import http_admission
from gateway.http_door.opening import open_http_door
from gateway.identity.identity import Identity
from gateway.identity.opening import admission, open_identity
from gateway.ledger_store import BadLedger, LedgerStore
from gateway.limits.opening import open_counters
from gateway.loop_lag import loop_lag_measured
from gateway.metrics import Metrics
from gateway.page.books import LedgerBooks
from gateway.page.finished import FinishedRequests
from gateway.page.opening import open_metrics_port
from gateway.page.state import Sources
from gateway.price_list import PricedBaseline
from gateway.repeats_opening import make_repeats
from gateway.routing.feedback import Feedback, Opinions, RecentAnswers
from gateway.routing.feedback_store import FeedbackStore
from gateway.service import InferenceServicer, RoutingServicer
from gateway.settings import Ledger as LedgerSettings
from gateway.spending_metrics import SpendingCollector
from gateway.wait_metrics import WaitCollector
from gateway.worker_lives import LifeRecorder
from gateway.worker_metrics import WorkerCollector
from model_pool.admission import Admission
from model_pool.configured_members import ConfiguredMembers
from model_pool.discovery import Discovery
from model_pool.file_watch import FileWatch, stamps_of
from model_pool.pool import Pool
from model_pool.settings import Pool as PoolSection
from model_pool.settings import SettingsError
from model_pool.tls import Connector, make_connector
from model_pool.tracing import open_tracing

Stop = Callable[[], Awaitable[None]]


class Gateway:
    """One gateway and the workers that it started. `serving` is the whole life of it.

    page_address: host:port of the page and of /metrics, once it serves; http_address: of the HTTP
    door, "" where there is none.
    """

    def __init__(self, fleet: FleetFile) -> None:
        """Reads it. Raises SettingsError."""
        self._fleet = fleet
        self._reading = fleet.read()
        self._settings = self._reading.settings
        self._seen = stamps_of(watched_paths(fleet.path, [self._settings]))
        self._watch: FileWatch | None = None
        self._changed = asyncio.Event()
        self._connector = make_connector(self._settings.pool.tls)
        self._metrics = Metrics()
        self._finished = FinishedRequests()
        self.page_address = ""
        self.http_address = ""

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Everything started, in order; everything stopped, in reverse.

        Yields the address of the gRPC door once it is open; workers may still be starting (health
        says NOT_SERVING until one is ready). Raises SettingsError where an address is taken.
        """
        async with contextlib.AsyncExitStack() as stack:
            tracing = await stack.enter_async_context(
                open_tracing(self._settings.tracing, "deltafleet-gateway")
            )
            await stack.enter_async_context(loop_lag_measured(self._metrics.loop_lag))
            members = self._make_members()
            pool = await self._start_pool(stack, members)
            discovery = await _start_discovery(stack, self._settings.pool, pool, self._connector)
            store = await _open_ledger(stack, self._settings.ledger)
            recorder = LifeRecorder(pool, store)
            recorder.start()
            stack.push_async_callback(recorder.stop)
            feedback = await self._start_feedback(stack)
            limits = self._settings.limits
            counters = await open_counters(stack, limits, self._metrics)
            repeats = make_repeats(self._settings.server, limits, counters, self._metrics)
            maker = Maker(
                *(pool, store, self._metrics, feedback, self._finished, repeats, tracing, counters)
            )
            current = Current(await maker.make(self._settings, self._reading.files))
            maker.applied(current.now)
            stack.push_async_callback(current.stop)
            self._expect(current, pool)
            identity = await open_identity(stack, self._settings.identity)
            door = self._make_door(identity, pool, store, current, feedback)
            change = partial(self._change, current, maker, members, pool, discovery, door)
            reloader = Reloader(self._fleet, current, maker, members, self._metrics, change)
            admin = AdminServicer(lambda: effective_config(current.now), reloader.reload)
            admin_pb2_grpc.add_AdminServiceServicer_to_server(admin, door.server)
            self._open_page(stack, pool, store, current)
            address = await self._open_doors(stack, door, pool, current, identity)
            self._start_watch(stack, reloader)
            yield address

    def read_again(self) -> None:
        """Read fleet.yaml again, soon."""
        if self._watch is not None:
            self._watch.look_now()

    def _start_watch(self, stack: contextlib.AsyncExitStack, reloader: Reloader) -> None:
        self._watch = FileWatch(reloader.paths, reloader.reload_quietly)
        watching = asyncio.create_task(self._watch.run(self._seen), name="watch fleet.yaml")
        stack.callback(watching.cancel)

    def _change(
        self,
        current: Current,
        maker: Maker,
        members: ConfiguredMembers,
        pool: Pool,
        discovery: Discovery,
        door: GrpcDoor,
        configured: Configured,
    ) -> None:
        """Put a configuration in force, in one turn of the event loop."""
        settings = configured.settings
        current.replace(configured)
        maker.applied(configured)
        members.change(settings.pool, pool, current.left)
        discovery.change(settings.pool.discovery)
        pool.change(settings.pool)
        door.change(settings.server)
        show_configuration(self._metrics, configured)

    def _make_members(self) -> ConfiguredMembers:
        beside = self._fleet.path.resolve().parent
        return ConfiguredMembers(self._settings.pool, self._reading.text, beside, self._connector)

    async def _start_pool(
        self, stack: contextlib.AsyncExitStack, members: ConfiguredMembers
    ) -> Pool:
        pool_settings = self._settings.pool
        pool = Pool(
            members.members,
            limit_count=pool_settings.max_running_count + pool_settings.max_queued_count,
            wait_s=pool_settings.worker_wait_s,
            on_change=self._changed.set,
            groups={name: group.serves for name, group in pool_settings.discovery.items()},
            choice=pool_settings,
            admission=Admission(pool_settings.admission.thresholds),
        )
        members.start()
        stack.push_async_callback(members.stop)
        pool.start()
        stack.push_async_callback(pool.stop)
        return pool

    def _make_door(
        self,
        identity: Identity | None,
        pool: Pool,
        store: LedgerStore,
        current: Current,
        feedback: Feedback | None,
    ) -> GrpcDoor:
        walk, settings = CurrentWalk(current), self._settings
        inference = InferenceServicer(walk)
        routing = RoutingServicer(walk, feedback, self._metrics)
        models = FleetServicer(current, pool)
        costs = CostServicer(store, lambda: current.now.baselines)
        admit = admission(identity, [settings.server.listen, *filter(None, [settings.server.http])])
        door = GrpcDoor(settings.server, admit, self._metrics.call_ended)
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(inference, door.server)
        routing_pb2_grpc.add_RoutingServiceServicer_to_server(routing, door.server)
        fleet_pb2_grpc.add_FleetServiceServicer_to_server(models, door.server)
        cost_pb2_grpc.add_CostServiceServicer_to_server(costs, door.server)
        return door

    def _open_page(
        self,
        stack: contextlib.AsyncExitStack,
        pool: Pool,
        store: LedgerStore,
        current: Current,
    ) -> None:
        models = FleetServicer(current, pool)
        sources = Sources(current, pool, models, self._finished, LedgerBooks(store))
        registry = self._metrics.registry
        self.page_address = open_metrics_port(stack, self._settings, registry, sources)

    async def _open_doors(
        self,
        stack: contextlib.AsyncExitStack,
        door: GrpcDoor,
        pool: Pool,
        current: Current,
        identity: Identity | None,
    ) -> str:
        address = await door.start()
        stops: list[Stop] = [door.stop]
        stack.push_async_callback(_stop_together, stops)
        server = self._settings.server
        if server.http:
            http = await open_http_door(
                server.http,
                server,
                CurrentWalk(current),
                current,
                admit=http_admission(identity),
                on_end=self._metrics.http_ended,
                is_ready=lambda: pool.is_ready,
            )
            stops.append(http.stop)
            self.http_address = http.address
        readiness = asyncio.create_task(door.follow(pool, self._changed), name="readiness")
        stack.callback(readiness.cancel)
        return address

    def _expect(self, current: Current, pool: Pool) -> None:
        """Let the metrics show what is in force."""
        show_configuration(self._metrics, current.now)
        loop = asyncio.get_running_loop()
        self._metrics.tasks.set_function(lambda: len(asyncio.all_tasks(loop)))
        register = self._metrics.registry.register
        register(WorkerCollector(pool))
        register(WaitCollector(pool.waits, lambda: current.now.settings.models))
        register(SpendingCollector(lambda: current.now.closed_apis.budgets))

    async def _start_feedback(self, stack: contextlib.AsyncExitStack) -> Feedback | None:
        kept = self._settings.routing.feedback
        if kept is None:
            return None
        store = FeedbackStore(kept.path, kept.capacity)
        feedback = Feedback(store, RecentAnswers(kept.recent_count), Opinions(kept.capacity))
        try:
            await store.open()
            stack.push_async_callback(store.close)
            await feedback.start()
        except (OSError, ValueError, SQLAlchemyError) as error:
            raise SettingsError(f"routing.feedback: cannot read {kept.path}: {error}") from error
        return feedback


def show_configuration(metrics: Metrics, configured: Configured) -> None:
    """Let the metrics show a configuration that is in force from now on."""
    settings, baselines = configured.settings, configured.baselines
    metrics.expect(configured.targets, settings.baselines, weighed_models(settings))
    metrics.describe(configured.digest)
    metrics.price_age.clear()
    for name, one in baselines.items():
        metrics.price_age.labels(name).set_function(partial(_age_s, one))


async def _start_discovery(
    stack: contextlib.AsyncExitStack, section: PoolSection, pool: Pool, connector: Connector
) -> Discovery:
    discovery = Discovery(section.discovery, pool, connector=connector)
    discovery.start()
    stack.push_async_callback(discovery.stop)
    return discovery


async def _stop_together(stops: list[Stop]) -> None:
    """All doors at once: none of them takes more while another one drains."""
    await asyncio.gather(*(stop() for stop in stops))


async def _open_ledger(stack: contextlib.AsyncExitStack, ledger: LedgerSettings) -> LedgerStore:
    store = LedgerStore(ledger_url(ledger), retry_s=ledger.retry_s, keep_days=ledger.keep_days)
    stack.push_async_callback(store.close)
    try:
        await store.open()
    except (BadLedger, LedgerUnavailable, OSError, SQLAlchemyError) as error:
        why = error.__cause__ if isinstance(error, LedgerUnavailable) else error
        raise SettingsError(f"ledger: cannot open {store.database.name}: {why}") from error
    return store


def _age_s(baseline: PricedBaseline) -> float:
    return baseline.age_s(datetime.now(UTC))
