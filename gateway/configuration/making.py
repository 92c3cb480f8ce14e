"""fleet.yaml → everything that goes by it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from datetime import UTC, datetime

from gateway.answering import Answering
from gateway.classifier import Cascade
from gateway.closed_apis.apis import ClosedApis
from gateway.closed_apis.opening import open_closed_apis
from gateway.configuration.configured import Configured
from gateway.configuration.encoders import Encoders
from gateway.configuration.named_files import NamedFiles
from gateway.configuration.watched import content_digest, named_paths
from gateway.encoder import BatchedEncoder
from gateway.fleet_models import (
    descriptions,
    make_allowed_models,
    make_escalation,
    make_habits,
    make_mixtures,
    make_targets,
)
from gateway.forecast import AnswerForecast, CostForecast
from gateway.in_use import InUse
from gateway.ledger import Ledger
from gateway.ledger_store import LedgerStore
from gateway.limits.counters import Counters
from gateway.limits.opening import make_limiter
from gateway.metrics import Metrics
from gateway.page.finished import FinishedRequests
from gateway.price_list import make_counter, stale_names
from gateway.pricing import TokenPrice, to_nano_usd
from gateway.repeats import Repeats
from gateway.route_planner import RoutePlanner, nothing_refused
from gateway.router import Router
from gateway.routing.encoder_files import digest_of
from gateway.routing.feedback import Feedback
from gateway.routing.head import BadRouter
from gateway.routing.labelled import BadLabels
from gateway.routing.opening import Opened, fit_examples_apart, open_fitted
from gateway.settings import Settings
from gateway.spending import Budget
from gateway.walk import Walk
from model_pool.pool import Pool
from model_pool.settings import SettingsError
from model_pool.tracing import Tracing


class Maker:
    """Makes configurations over what lives as long as the gateway."""

    def __init__(
        self,
        pool: Pool,
        store: LedgerStore,
        metrics: Metrics,
        feedback: Feedback | None,
        finished: FinishedRequests,
        repeats: Repeats,
        tracing: Tracing,
        counters: Counters,
    ) -> None:
        self._pool = pool
        self._store = store
        self._metrics = metrics
        self._feedback = feedback
        self._finished = finished
        self._repeats = repeats
        self._tracing = tracing
        self._counters = counters
        self._encoders = Encoders()
        self._budgets: dict[str, Budget] = {}  # of every closed API that there was
        self._costs: dict[str, float] = {}  # what answers of each model cost, as forecasts have it

    async def make(
        self, settings: Settings, files: NamedFiles, before: Configured | None = None
    ) -> Configured:
        """Whole, beside those that are in use. before: the one in force, if any.

        Raises SettingsError and what the ledger does, and leaves nothing open.
        """
        content = await asyncio.to_thread(_content, settings)
        async with contextlib.AsyncExitStack() as stack:
            opened = await self._open_router(settings, files, content, before)
            _check_quality(files, opened)
            encoder = await self._encoders.take(opened.encoder, settings.routing)
            stack.push_async_callback(self._encoders.give_back, encoder)
            classifier = _make_classifier(settings, files, opened, encoder)
            prices, in_use = _closed_prices(settings, files), InUse()
            closed_apis = await open_closed_apis(
                settings, prices, self._store, self._budgets, self._counters
            )
            stack.push_async_callback(closed_apis.stop)
            return Configured(
                settings=settings,
                files=files,
                content=content,
                digest=_digest(settings, content),
                loaded=datetime.now(UTC),
                targets=make_targets(settings),
                descriptions=descriptions(settings),
                allowed_models=make_allowed_models(settings),
                opened=opened,
                encoder=encoder,
                closed_apis=closed_apis,
                walk=self._make_walk(settings, files, classifier, closed_apis, in_use),
                in_use=in_use,
                close=stack.pop_all().aclose,
            )

    def applied(self, configured: Configured) -> None:
        """It is in force from now on."""
        for name, budget in configured.closed_apis.budgets.items():
            self._budgets[name] = budget
            api = configured.settings.closed_apis[name]
            budget.limit_nano_usd = to_nano_usd(api.daily_budget_usd)
        for gone in self._costs.keys() - configured.targets.keys():
            del self._costs[gone]

    async def _open_router(
        self, settings: Settings, files: NamedFiles, content: str, before: Configured | None
    ) -> Opened:
        """Fitting takes seconds: what was fitted before is taken where it would be the same."""
        if before and _is_same_router(settings, files, content, before):
            return before.opened
        return await asyncio.to_thread(_open_router, settings, files)

    def _make_walk(
        self,
        settings: Settings,
        files: NamedFiles,
        classifier: Cascade,
        closed_apis: ClosedApis,
        in_use: InUse,
    ) -> Walk:
        metrics, targets = self._metrics, make_targets(settings)
        members = {name: one.specialists for name, one in settings.mixtures.items()}
        forecast = CostForecast(_closed_prices(settings, files), members, self._costs)
        planner = RoutePlanner(
            classifier,
            Router(
                targets,
                fallback=settings.routing.fallback,
                min_quality=settings.routing.min_quality,
            ),
            AnswerForecast(forecast, files.quality, self._feedback),
            make_habits(settings),
            metrics,
            closed_apis.refusal if closed_apis.budgets else nothing_refused,
            make_allowed_models(settings),
        )
        answering = Answering(
            self._pool,
            closed_apis,
            make_escalation(settings, targets, files.curve),
            make_mixtures(settings),
            on_unweighed=lambda model: metrics.unweighed.labels(model).inc(),
            tracing=self._tracing,
        )
        return Walk(
            planner,
            answering,
            self._make_ledger(files, forecast),
            self._feedback,
            self._repeats,
            in_use,
            self._tracing,
            make_limiter(settings, self._counters, self._store, metrics),
            default_output_token_count=settings.server.default_output_token_count,
            stale_baselines=lambda: stale_names(files.baselines, datetime.now(UTC)),
        )

    def _make_ledger(self, files: NamedFiles, forecast: CostForecast) -> Ledger:
        return Ledger(
            self._store,
            self._metrics,
            forecast,
            {name: one.price for name, one in files.baselines.items()},
            make_counter(files.baselines),
            on_finish=self._finished.add,
        )


def _content(settings: Settings) -> str:
    try:
        return content_digest(named_paths(settings))
    except OSError as error:
        raise SettingsError(f"{error.filename}: cannot be read: {error.strerror}") from error


def _digest(settings: Settings, content: str) -> str:
    return hashlib.sha256(f"{settings.model_dump_json()}{content}".encode()).hexdigest()


def _is_same_router(
    settings: Settings, files: NamedFiles, content: str, before: Configured
) -> bool:
    now, then = settings.routing, before.settings.routing
    if (now.router, now.encoder) != (then.router, then.encoder):
        return False
    if now.router is not None:
        return content == before.content
    return files.examples == before.files.examples


def _make_classifier(
    settings: Settings, files: NamedFiles, opened: Opened, encoder: BatchedEncoder
) -> Cascade:
    routing = settings.routing
    return Cascade(
        opened.router,
        encoder,
        budget_s=routing.encoder_budget_s,
        wants_rows=files.quality is not None or routing.feedback is not None,
    )


def _open_router(settings: Settings, files: NamedFiles) -> Opened:
    routing = settings.routing
    try:
        if routing.router is not None:
            return open_fitted(routing.router, files.fitted)
        return fit_examples_apart(files.examples, routing.encoder)
    except (BadRouter, BadLabels, OSError) as error:
        place = "routing.encoder" if routing.router is None else "routing.router"
        raise SettingsError(f"{place}: {error}") from error


def _check_quality(files: NamedFiles, opened: Opened) -> None:
    if files.quality is None:
        return
    theirs, ours = files.quality.facts.get("encoder_digest"), digest_of(opened.encoder)
    if theirs != ours:
        raise SettingsError(
            f"routing.quality: fitted with the encoder {theirs}, and the router with {ours}"
        )


def _closed_prices(settings: Settings, files: NamedFiles) -> dict[str, TokenPrice]:
    listed = settings.closed_apis.items()
    return {name: files.prices.token_price(one.price) for name, one in listed}
