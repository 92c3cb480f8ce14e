"""The only place where the gateway's objects meet."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from deltafleet.v1 import (
    cost_pb2_grpc,
    fleet_pb2_grpc,
    inference_pb2_grpc,
    routing_pb2_grpc,
)
from gateway.answering import Answering
from gateway.caller import admit_anybody
from gateway.classifier import Cascade, Classifier
from gateway.closed_apis.apis import ClosedApis
from gateway.closed_apis.opening import open_closed_apis
from gateway.cost_service import CostServicer
from gateway.encoder import BatchedEncoder
from gateway.errors import LedgerUnavailable
from gateway.fleet_files import ledger_url, load_curve, load_examples, load_quality, load_router
from gateway.fleet_models import (
    descriptions,
    make_escalation,
    make_habits,
    make_mixtures,
    make_targets,
    weighed_models,
)
from gateway.fleet_service import FleetServicer
from gateway.forecast import AnswerForecast, CostForecast
from gateway.grpc_door import GrpcDoor
from gateway.ledger import Ledger
from gateway.ledger_store import BadLedger, LedgerStore
from gateway.metrics import Metrics
from gateway.page.books import LedgerBooks
from gateway.page.finished import FinishedRequests
from gateway.page.opening import engines, model_names_by_file, open_metrics_port
from gateway.page.state import Sources
from gateway.price_list import (
    PricedBaseline,
    load_prices,
    make_counter,
    priced_baselines,
    stale_names,
)
from gateway.pricing import TokenPrice
from gateway.repeats import Repeats
from gateway.route_planner import RoutePlanner
from gateway.router import Router
from gateway.routing.encoder_files import digest_of
from gateway.routing.feedback import Feedback, Opinions, RecentAnswers
from gateway.routing.feedback_store import FeedbackStore
from gateway.routing.head import BadRouter
from gateway.routing.labelled import BadLabels
from gateway.routing.onnx_encoder import OnnxEncoder
from gateway.routing.opening import Opened, fit_examples, open_fitted
from gateway.service import InferenceServicer, RoutingServicer
from gateway.settings import Ledger as LedgerSettings
from gateway.settings import Server, Settings
from gateway.spending_metrics import SpendingCollector
from gateway.wait_metrics import WaitCollector
from gateway.walk import Walk
from gateway.worker_lives import LifeRecorder
from gateway.worker_metrics import WorkerCollector
from model_pool.discovery import Discovery
from model_pool.local_workers import LocalWorkers
from model_pool.member import Member
from model_pool.openai_member import OpenAIMember
from model_pool.pool import Pool
from model_pool.settings import SettingsError, Worker, member_key
from model_pool.worker_link import WorkerLink

log = logging.getLogger("gateway")


class Gateway:
    """One gateway and the workers that it started.

    fleet: the file that settings came from; the workers read it too. `serving` is the whole life of
    it. page_address: host:port of the page and of /metrics, once it serves.
    """

    def __init__(self, fleet: Path, settings: Settings) -> None:
        self._fleet = fleet
        self._settings = settings
        self._prices = load_prices(settings)
        self._baselines = priced_baselines(settings, self._prices)
        self._counter = make_counter(self._baselines)
        self._examples = load_examples(settings)
        self._fitted = load_router(settings)
        self._quality = load_quality(settings)
        self._curve = load_curve(settings)
        self._changed = asyncio.Event()
        self.targets = make_targets(settings)
        self.page_address = ""

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Everything started, in order; everything stopped, in reverse.

        Yields the address of the gRPC door once it is open; workers may still be starting (health
        says NOT_SERVING until one is ready). Raises SettingsError where an address is taken.
        """
        async with contextlib.AsyncExitStack() as stack:
            pool = await self._start_pool(stack)
            store = await _open_ledger(stack, self._settings.ledger)
            recorder = LifeRecorder(pool, store)
            recorder.start()
            stack.push_async_callback(recorder.stop)
            classifier = await self._start_classifier(stack)
            yield await self._open_door(stack, pool, store, classifier)

    async def _start_pool(self, stack: contextlib.AsyncExitStack) -> Pool:
        pool_settings = self._settings.pool
        local_names = [one.name for one in pool_settings.workers if one.is_local]
        local = LocalWorkers(self._fleet, local_names, pool_settings.drain_limit_s)
        pool = Pool(
            [self._member(one, local) for one in pool_settings.workers],
            limit_count=pool_settings.max_running_count + pool_settings.max_queued_count,
            wait_s=pool_settings.worker_wait_s,
            on_change=self._changed.set,
            groups={name: group.serves for name, group in pool_settings.discovery.items()},
        )
        local.start()
        stack.push_async_callback(local.stop)
        pool.start()
        stack.push_async_callback(pool.stop)
        discovery = Discovery(pool_settings.discovery, pool)
        discovery.start()
        stack.push_async_callback(discovery.stop)
        return pool

    def _member(self, worker: Worker, local: LocalWorkers) -> Member:
        server = worker.openai
        if server is None:
            return WorkerLink(worker.name, worker.address or local.address(worker.name))
        return OpenAIMember(
            worker.name,
            server,
            member_key(worker.name),
            price_nano_usd_per_hour=self._settings.pool.hardware_of(worker.name).nano_usd_per_hour,
        )

    async def _start_classifier(self, stack: contextlib.AsyncExitStack) -> Classifier:
        routing = self._settings.routing
        opened = await asyncio.to_thread(self._open_router)
        self._check_quality(opened)
        encoder = BatchedEncoder(
            lambda: OnnxEncoder(opened.encoder, routing.encoder_thread_count),
            cache_count=routing.encoder_cache_count,
        )
        stack.push_async_callback(encoder.stop)
        try:
            await encoder.start()
        except BadRouter as error:
            raise SettingsError(f"routing: {error}") from error
        return Cascade(
            opened.router,
            encoder,
            budget_s=routing.encoder_budget_s,
            wants_rows=self._quality is not None or routing.feedback is not None,
        )

    def _open_router(self) -> Opened:
        routing = self._settings.routing
        try:
            if routing.router is not None:
                return open_fitted(routing.router, self._fitted)
            return fit_examples(self._examples, routing.encoder)
        except (BadRouter, BadLabels, OSError) as error:
            place = "routing.encoder" if routing.router is None else "routing.router"
            raise SettingsError(f"{place}: {error}") from error

    def _check_quality(self, opened: Opened) -> None:
        if self._quality is None:
            return
        theirs, ours = self._quality.facts.get("encoder_digest"), digest_of(opened.encoder)
        if theirs != ours:
            raise SettingsError(
                f"routing.quality: fitted with the encoder {theirs}, and the router with {ours}"
            )

    async def _open_door(
        self,
        stack: contextlib.AsyncExitStack,
        pool: Pool,
        store: LedgerStore,
        classifier: Classifier,
    ) -> str:
        settings, closed_prices = self._settings, self._closed_prices()
        closed_apis = await open_closed_apis(settings, closed_prices, store)
        stack.push_async_callback(closed_apis.stop)
        metrics = self._make_metrics(pool, closed_apis)
        members = {name: one.specialists for name, one in settings.mixtures.items()}
        forecast = CostForecast(closed_prices, members)
        feedback = await self._start_feedback(stack)
        planner = RoutePlanner(
            classifier,
            Router(
                self.targets,
                fallback=settings.routing.fallback,
                min_quality=settings.routing.min_quality,
            ),
            AnswerForecast(forecast, self._quality, feedback),
            make_habits(settings),
            metrics,
            closed_apis.refusal,
        )
        answering = Answering(
            pool,
            closed_apis,
            make_escalation(settings, self.targets, self._curve),
            make_mixtures(settings),
            on_unweighed=lambda model: metrics.unweighed.labels(model).inc(),
        )
        baselines = {name: one.price for name, one in self._baselines.items()}
        finished = FinishedRequests()
        walk = Walk(
            planner,
            answering,
            Ledger(store, metrics, forecast, baselines, self._counter, on_finish=finished.add),
            feedback,
            _make_repeats(settings.server, metrics),
            default_output_token_count=settings.server.default_output_token_count,
            stale_baselines=lambda: stale_names(self._baselines, datetime.now(UTC)),
        )
        inference = InferenceServicer(walk)
        routing = RoutingServicer(walk, feedback, metrics)
        models = FleetServicer(self.targets, descriptions(settings), pool)
        costs = CostServicer(store, self._baselines)
        door = GrpcDoor(settings.server, admit_anybody, metrics.call_ended)
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(inference, door.server)
        routing_pb2_grpc.add_RoutingServiceServicer_to_server(routing, door.server)
        fleet_pb2_grpc.add_FleetServiceServicer_to_server(models, door.server)
        cost_pb2_grpc.add_CostServiceServicer_to_server(costs, door.server)
        sources = Sources(
            pool,
            models,
            tuple(sorted(self.targets)),
            engines(settings),
            model_names_by_file(settings),
            self._baselines,
            finished,
            LedgerBooks(store),
        )
        self.page_address = open_metrics_port(stack, settings, metrics.registry, sources)
        address = await door.start()
        stack.push_async_callback(door.stop)
        readiness = asyncio.create_task(door.follow(pool, self._changed), name="readiness")
        stack.callback(readiness.cancel)
        return address

    def _make_metrics(self, pool: Pool, closed_apis: ClosedApis) -> Metrics:
        metrics = Metrics()
        weighed = weighed_models(self._settings)
        metrics.expect(self.targets, self._settings.baselines, weighed)
        metrics.describe(hashlib.sha256(self._settings.model_dump_json().encode()).hexdigest())
        metrics.registry.register(WorkerCollector(pool))
        metrics.registry.register(WaitCollector(pool.waits, self._settings.models))
        metrics.registry.register(SpendingCollector(closed_apis.budgets))
        loop = asyncio.get_running_loop()
        metrics.tasks.set_function(lambda: len(asyncio.all_tasks(loop)))
        for name, one in self._baselines.items():
            metrics.price_age.labels(name).set_function(partial(_age_s, one))
        return metrics

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

    def _closed_prices(self) -> dict[str, TokenPrice]:
        listed = self._settings.closed_apis.items()
        return {name: self._prices.token_price(one.price) for name, one in listed}


def _make_repeats(server: Server, metrics: Metrics) -> Repeats:
    return Repeats(
        server.repeat_keep_s,
        server.repeat_memory_mib * 2**20,
        on_repeat=lambda state: metrics.repeats.labels(state).inc(),
    )


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
