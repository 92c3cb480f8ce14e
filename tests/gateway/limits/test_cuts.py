"""A walk whose answers have known costs: real limits and ledger, a scripted answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from deltafleet.v1 import inference_pb2, routing_pb2
from gateway.answer import AnswerPiece
from gateway.caller import Call, Caller, Limits
from gateway.classifier import Classification
from gateway.errors import CallerBudgetSpent, RateLimited
from gateway.forecast import AnswerForecast, CostForecast
from gateway.in_use import InUse
from gateway.ledger import Ledger
from gateway.ledger_store import LedgerStore
from gateway.ledger_store.tables import REQUESTS
from gateway.limits.limiter import Limiter
from gateway.limits.memory import MemoryCounters
from gateway.limits.opening import LedgerSpending
from gateway.metrics import Metrics
from gateway.repeats import Repeats
from gateway.route_planner import Habits, RoutePlanner
from gateway.router import ModelKind, Router, Target
from gateway.routing.chats import Hysteresis
from gateway.shared_repeats import Begin, Event, First
from gateway.token_counter import TokenCounter
from gateway.walk import Walk
from model_pool.call import told, within
from model_pool.tracing import Tracing

STOP = inference_pb2.FINISH_REASON_STOP
ME = Caller("me")
BUDGET = Limits(daily_budget_nano_usd=1000)
ASKED = inference_pb2.GenerateRequest(prompt="twelve chars", model="base", max_output_token_count=7)


class Script:
    """Answers of pieces with these costs, of one token each; the last has an end.

    most_nano_usd: what closed APIs may charge. rest_nano_usd: of work that was begun when an answer
    was given up. ended_count: answers that were closed.
    """

    def __init__(self, *costs: int, most_nano_usd: int = 0, rest_nano_usd: int = 0) -> None:
        self.costs = costs
        self.promises: set[int] = set()  # places of pieces whose cost is not spent yet
        self.most = most_nano_usd
        self.rest = rest_nano_usd
        self.ended_count = 0
        self.gate: asyncio.Event | None = None

    def check_room(self, caller: str, priority: int) -> None:
        """There is."""

    def most_nano_usd(self, route: object, request: object) -> int:
        return self.most

    async def answer(
        self, route: object, request: object, settle: Callable[[AnswerPiece], None], **_: object
    ) -> AsyncGenerator[object, None]:
        total, is_whole = 0, False
        try:
            yield route
            for place, cost in enumerate(self.costs):
                if self.gate:
                    await self.gate.wait()
                total += cost
                is_last = place + 1 == len(self.costs)
                yield AnswerPiece(
                    *("word ", 3, place + 1, total, STOP if is_last else 0),
                    is_promised=place in self.promises,
                )
            is_whole = True
        finally:
            self.ended_count += 1
            if not is_whole and self.rest:
                settle(AnswerPiece("", 0, 1, self.rest, 0))


class House:
    """A walk in a directory; a new one in the same directory is a gateway that was restarted."""

    def __init__(
        self, script: Script, store: LedgerStore, limits: Limits, first: First | None = None
    ) -> None:
        self.script, self.store, self.metrics = script, store, Metrics()
        forecast = CostForecast({})
        targets = {"base": Target("base", ModelKind.BASE, 0.5)}
        router = Router(targets, fallback="base", min_quality=0)
        planner = RoutePlanner(
            Unasked(),
            router,
            AnswerForecast(forecast, None, None),
            Habits({}, Hysteresis()),
            self.metrics,
        )
        self.walk = Walk(
            planner,
            script,
            Ledger(store, self.metrics, forecast, {}, TokenCounter([])),
            None,
            Repeats(1, 2**20, first=first),
            InUse(),
            Tracing(),
            Limiter(
                MemoryCounters(),
                {"me": limits},
                LedgerSpending(store).read,
                default_output_token_count=100,
                on_refused=lambda limit: self.metrics.limited.labels(limit).inc(),
            ),
            default_output_token_count=100,
            stale_baselines=lambda: (),
        )

    async def texts(self, caller: Caller = ME) -> list[str]:
        """Of one answer, as they came; those before a failure are in its notes."""
        texts = []
        events = self.walk.stream(ASKED, Call("one", caller))
        try:
            async with contextlib.aclosing(events):
                async for event in events:
                    if event.HasField("text"):
                        texts.append(event.text)
        except CallerBudgetSpent as error:
            error.texts = texts
            raise
        return texts

    def rows(self) -> list[tuple[str, int]]:
        """Outcome and cost of each row."""
        query = sa.select(REQUESTS.c.outcome, REQUESTS.c.cost_nano_usd).order_by(REQUESTS.c.row)
        with self.store.database.begin_read() as connection:
            return [tuple(row) for row in connection.execute(query)]

    def limited(self, limit: str) -> float | None:
        return self.metrics.registry.get_sample_value(
            "deltafleet_limited_requests_total", {"limit": limit}
        )


class Unasked:
    """Where the model is named nobody classifies."""

    async def classify(self, text: str) -> Classification:
        raise AssertionError(text)


@contextlib.asynccontextmanager
async def house(script: Script, directory: Path, limits: Limits = BUDGET) -> AsyncIterator[House]:
    store = LedgerStore(directory / "ledger.sqlite3")
    await store.open()
    try:
        yield House(script, store, limits)
    finally:
        await store.close()


async def test_an_answer_ends_with_the_event_that_passes_the_budget(tmp_path: Path) -> None:
    script = Script(*[300] * 9, rest_nano_usd=40)
    async with house(script, tmp_path) as one:
        with pytest.raises(CallerBudgetSpent) as cut:
            await one.texts()
        assert cut.value.texts == ["word "] * 4
        assert cut.value.metadata == {"limit": "daily_budget", "limit_nano_usd": "1000"}
        assert 0 < cut.value.retry_after_s <= 86_400
        assert one.rows() == [("cut", 1240)]
        assert script.ended_count == 1
        with pytest.raises(CallerBudgetSpent) as refused:
            await one.texts()
        assert refused.value.texts == []
        assert one.rows() == [("cut", 1240)]
        assert script.ended_count == 1
        assert one.limited("daily_budget") == 2


async def test_a_restart_does_not_give_the_budget_again(tmp_path: Path) -> None:
    async with house(Script(300, 300), tmp_path) as one:
        await one.texts()
    async with house(Script(300, 300), tmp_path) as again:
        with pytest.raises(CallerBudgetSpent) as cut:
            for _ in range(2):
                await again.texts()
        assert cut.value.texts == []
        assert again.rows() == [("answered", 600), ("answered", 600)]


async def test_the_last_event_is_never_lost(tmp_path: Path) -> None:
    async with house(Script(600, 600), tmp_path) as one:
        assert await one.texts() == ["word "] * 2
        assert one.rows() == [("answered", 1200)]


async def test_streams_at_once_pass_the_budget_by_one_event_each(tmp_path: Path) -> None:
    script = Script(*[50] * 40)
    script.gate = asyncio.Event()
    async with house(script, tmp_path) as one:
        answers = [asyncio.create_task(one.texts()) for _ in range(5)]
        await asyncio.sleep(0)
        script.gate.set()
        ends = await asyncio.gather(*answers, return_exceptions=True)
        assert all(isinstance(end, CallerBudgetSpent) for end in ends)
        spent = sum(cost for _, cost in one.rows())
        assert 1000 <= spent <= 1000 + 5 * 50


async def test_what_may_cost_too_much_is_not_begun(tmp_path: Path) -> None:
    script = Script(1, most_nano_usd=1001)
    async with house(script, tmp_path) as one:
        with pytest.raises(CallerBudgetSpent):
            await one.texts()
        assert (script.ended_count, one.rows()) == (0, [])
        script.most = 1000
        assert await one.texts() == ["word "]
        script.most = 1000
        with pytest.raises(CallerBudgetSpent):  # one of them is spent
            await one.texts()
        script.most = 999
        assert await one.texts() == ["word "]


async def test_what_is_promised_only_is_not_paid(tmp_path: Path) -> None:
    """A second try at a closed API, or the second step of a cascade, that there is no money for."""
    script = Script(100, 2000, 1)
    script.promises = {1}
    async with house(script, tmp_path) as one:
        with pytest.raises(CallerBudgetSpent) as cut:
            await one.texts()
        assert cut.value.texts == ["word "]
        assert one.rows() == [("cut", 100)]
        script.costs = (900, 1)
        assert len(await one.texts()) == 2  # all that was not spent is there


async def test_a_stream_that_is_given_up_frees_its_place_and_its_money(tmp_path: Path) -> None:
    limits = Limits(concurrent_streams=1, daily_budget_nano_usd=1000)
    async with house(Script(100, 100, 100), tmp_path, limits) as one:
        events = one.walk.stream(ASKED, Call("one", Caller("me")))
        async for event in events:
            if event.HasField("text"):
                break
        with pytest.raises(RateLimited) as refused:
            await one.texts()
        assert refused.value.metadata == {"limit": "concurrent_streams", "limit_count": "1"}
        async with within(60):
            await events.aclose()
        assert len(await one.texts()) == 3
        assert one.rows() == [("cancelled", 100), ("answered", 300)]


async def test_rates_are_told_and_what_was_not_used_comes_back(tmp_path: Path) -> None:
    limits = Limits(requests_per_minute=3, tokens_per_minute=25)
    async with house(Script(1, 1), tmp_path, limits) as one:
        told.set([])
        await one.texts()  # held 3 + 7, used 3 + 2
        headers = dict(told.get())
        assert headers.pop("x-ratelimit-reset-requests").endswith("s")
        assert headers.pop("x-ratelimit-reset-tokens").endswith("s")
        assert headers == {
            "x-ratelimit-limit-requests": "3",
            "x-ratelimit-remaining-requests": "2",
            "x-ratelimit-limit-tokens": "25",
            "x-ratelimit-remaining-tokens": "15",
        }
        told.set([])
        await one.texts()
        assert dict(told.get())["x-ratelimit-remaining-tokens"] == "10"


async def test_asking_where_to_go_counts_as_a_request_and_no_more(tmp_path: Path) -> None:
    limits = Limits(requests_per_minute=2, tokens_per_minute=1, daily_budget_nano_usd=0)
    async with house(Script(1), tmp_path, limits) as one:
        route = routing_pb2.RouteRequest(prompt="Where?")
        for _ in range(2):
            answer = await one.walk.route(route, Call("one", Caller("me")))
            assert answer.decision.model == "base"
        with pytest.raises(RateLimited):
            await one.walk.route(route, Call("one", Caller("me")))


async def test_a_keys_own_limits_win_and_others_are_the_names(tmp_path: Path) -> None:
    limits = Limits(requests_per_minute=1, tokens_per_minute=50)
    async with house(Script(1), tmp_path, limits) as one:
        key = Caller("me", limits=Limits(requests_per_minute=2))
        assert await one.texts(key)
        assert await one.texts(key)
        with pytest.raises(RateLimited) as refused:
            await one.texts(key)
        assert refused.value.metadata == {"limit": "requests_per_minute", "limit_count": "2"}
        small = Caller("me", limits=Limits(requests_per_minute=9, tokens_per_minute=4))
        with pytest.raises(RateLimited) as refused:
            await one.texts(small)
        assert refused.value.metadata["limit"] == "tokens_per_minute"
        assert refused.value.retry_after_s is None  # it is larger than the limit
        for _ in range(20):
            assert await one.texts(Caller("other"))


class Sealing:
    """Has a look at the ledger when a name is sealed."""

    def __init__(self) -> None:
        self.rows: Callable[[], list[tuple[str, int]]] = list
        self.seen: list[list[tuple[str, int]]] = []

    def stream(
        self, key: tuple[str, str], digest: bytes, begin: Begin
    ) -> AsyncGenerator[Event, None]:
        return begin(self._seal)

    async def _seal(self) -> None:
        self.seen.append(self.rows())


@pytest.mark.parametrize("limits", [Limits(), BUDGET])
async def test_a_name_is_sealed_before_its_row_is_written(tmp_path: Path, limits: Limits) -> None:
    store, sealing = LedgerStore(tmp_path / "ledger.sqlite3"), Sealing()
    await store.open()
    one = House(Script(5, 5), store, limits, sealing)
    sealing.rows = one.rows
    async with (
        within(60),
        contextlib.aclosing(one.walk.stream(ASKED, Call("order-1", ME, has_own_id=True))) as events,
    ):
        async for event in events:
            if event.HasField("summary"):
                assert one.rows() == [("answered", 10)]
    assert sealing.seen == [[]]
    await store.close()
