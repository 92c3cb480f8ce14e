"""A request that is asked again of another gateway, over a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field

import pytest

from deltafleet.v1 import inference_pb2
from gateway.caller import Call, Caller
from gateway.errors import AnswerNotKept, RequestIdReused
from gateway.limits.failover import FailoverCounters
from gateway.limits.memory import MemoryCounters
from gateway.limits.redis import RedisCounters
from gateway.redis_names import RedisNames
from gateway.repeats import Repeats, digest_of
from gateway.shared_repeats import Claim, Event, Found, Seal, SharedRepeats, State
from model_pool.call import within
from model_pool.errors import DeadlineExceeded, WorkerLost
from support.fleet import until
from support.redis_server import RedisServer

ASKED = inference_pb2.GenerateRequest(prompt="What is 2 + 3?")
OTHER = inference_pb2.GenerateRequest(prompt="What is 2 + 4?")
CALL = Call("order-1", Caller("shop"), has_own_id=True)
LIMIT_S = 120
SHORT_S = 0.05


class Run:
    """One answer after another. texts: of the pieces of each. begun: where each ran."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.texts = ["five", " or so"]
        self.error: Exception | None = None
        self.may_end = asyncio.Event()
        self.may_unwind = asyncio.Event()
        self.may_unwind.set()

    async def begin(self, place: str, seal: Seal) -> AsyncGenerator[Event, None]:
        self.begun.append(place)
        try:
            async for event in self._events(place, seal):
                yield event
        except asyncio.CancelledError:
            await self.may_unwind.wait()
            raise

    async def _events(self, place: str, seal: Seal) -> AsyncGenerator[Event, None]:
        yield Event(decision={"model": place})
        for text in self.texts:
            yield Event(text=text)
        await self.may_end.wait()
        if error := self.error:
            self.error = None
            raise error
        await seal()
        yield Event(summary=inference_pb2.Summary(request_id="order-1", cost_nano_usd=7))


@dataclass
class Gateway:
    """As much of one as knows repeated requests."""

    name: str
    counters: FailoverCounters
    names: RedisNames
    shared: SharedRepeats
    repeats: Repeats
    states: list[str] = field(default_factory=list)
    alone: list[str] = field(default_factory=list)

    async def hear(
        self, run: Run, request: inference_pb2.GenerateRequest = ASKED, call: Call = CALL
    ) -> list[Event]:
        """All events of a request."""
        events = self.repeats.stream(request, call, lambda seal: run.begin(self.name, seal))
        async with within(LIMIT_S), contextlib.aclosing(events):
            return [event async for event in events]


def make(name: str, server: RedisServer, prefix: str, *, lease_s: float, patience_s: float):
    """lease_s: never renewed but on a return, so that no test depends on when."""
    redis = RedisCounters(
        server.url,
        prefix=prefix,
        connect_timeout_s=patience_s,
        operation_timeout_s=patience_s,
        lease_s=lease_s,
    )
    counters = FailoverCounters(
        redis, MemoryCounters(), renewal_s=10**6, on_change=lambda is_up: None
    )
    names = RedisNames(redis.link, prefix=prefix, lease_s=lease_s, keep_s=600)
    states: list[str] = []
    alone: list[str] = []
    shared = SharedRepeats(
        names,
        counters,
        on_repeat=states.append,
        on_alone=lambda: alone.append(name),
        largest_answer_bytes=1000,
    )
    counters.also_renew(shared.renew)
    repeats = Repeats(600, 10**6, first=shared, on_repeat=states.append)
    return Gateway(name, counters, names, shared, repeats, states, alone)


@contextlib.asynccontextmanager
async def gateways(
    server: RedisServer, *, lease_s: float = 600, patience_s: float = 30
) -> AsyncIterator[tuple[Gateway, Gateway]]:
    prefix = uuid.uuid4().hex
    pair = [
        make(name, server, prefix, lease_s=lease_s, patience_s=patience_s)
        for name in ("one", "two")
    ]
    for one in pair:
        await one.counters.start()
    try:
        yield pair[0], pair[1]
    finally:
        for one in pair:
            await one.counters.stop()


async def waits(gateway: Gateway) -> None:
    """Return when it has met a name that runs elsewhere."""

    async def has_met() -> bool:
        return "running_elsewhere" in gateway.states

    await until(has_met)


async def begins(run: Run, *places: str) -> None:
    async def has_begun() -> bool:
        return run.begun == list(places)

    await until(has_begun)


async def cancelled(task: asyncio.Task[object]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def names_in(server: RedisServer) -> list[bytes]:
    with server.client() as client:
        return client.keys("*:repeats:*")


async def test_a_second_one_waits_for_another_gateways_answer(redis: RedisServer) -> None:
    async with gateways(redis) as (one, two):
        run = Run()
        first = asyncio.create_task(one.hear(run))
        await begins(run, "one")
        seconds = [asyncio.create_task(two.hear(run)) for _ in range(3)]
        await waits(two)
        run.may_end.set()
        events = await first
        assert [event.text for event in events] == ["", "five", " or so", ""]
        assert not events[-1].summary.is_repeat
        for heard in await asyncio.gather(*seconds):
            decision, text, end = heard
            assert (decision.decision.model, text.text) == ("one", "five or so")
            assert (end.summary.is_repeat, end.summary.cost_nano_usd) == (True, 7)
        assert run.begun == ["one"]
        assert sorted(two.states) == ["running", "running", "running_elsewhere"]


async def test_an_answer_of_late_is_heard_from_another_gateway(redis: RedisServer) -> None:
    async with gateways(redis) as (one, two):
        run = Run()
        run.may_end.set()
        await one.hear(run)
        heard = await two.hear(run)
        assert heard[-1].summary.is_repeat
        assert (run.begun, two.states) == (["one"], ["answered_elsewhere"])
        other = Call("order-1", Caller("shop}:order-1"), has_own_id=True)
        await two.hear(run, call=other)
        assert run.begun == ["one", "two"]


async def test_another_request_with_the_id_is_refused_by_another_gateway(redis) -> None:
    async with gateways(redis) as (one, two):
        run = Run()
        first = asyncio.create_task(one.hear(run))
        await begins(run, "one")
        with pytest.raises(RequestIdReused, match="order-1"):
            await two.hear(run, OTHER)
        run.may_end.set()
        await first
        with pytest.raises(RequestIdReused, match="order-1"):
            await two.hear(run, OTHER)
        assert run.begun == ["one"]


async def test_what_failed_runs_where_it_is_waited_for(redis: RedisServer) -> None:
    async with gateways(redis) as (one, two):
        run = Run()
        run.error = WorkerLost("gone")
        first = asyncio.create_task(one.hear(run))
        await begins(run, "one")
        second = asyncio.create_task(two.hear(run))
        await waits(two)
        run.may_end.set()
        with pytest.raises(WorkerLost):
            await first
        assert not (await second)[-1].summary.is_repeat
        assert run.begun == ["one", "two"]
        assert (await one.hear(run))[-1].summary.is_repeat
        assert run.begun == ["one", "two"]


async def test_what_was_given_up_runs_where_it_is_waited_for(redis: RedisServer) -> None:
    async with gateways(redis) as (one, two):
        run = Run()
        first = asyncio.create_task(one.hear(run))
        await begins(run, "one")
        second = asyncio.create_task(two.hear(run))
        await waits(two)
        await cancelled(first)
        await begins(run, "one", "two")
        run.may_end.set()
        assert not (await second)[-1].summary.is_repeat


async def test_nothing_runs_beside_one_that_is_being_given_up(redis: RedisServer) -> None:
    async with gateways(redis) as (one, two):
        run = Run()
        first = asyncio.create_task(one.hear(run))
        await begins(run, "one")
        run.may_unwind.clear()
        first.cancel()
        second = asyncio.create_task(two.hear(run))
        await waits(two)
        assert run.begun == ["one"]
        run.may_unwind.set()
        run.may_end.set()
        assert not (await second)[-1].summary.is_repeat
        assert run.begun == ["one", "two"]


async def test_an_answer_is_kept_before_its_end_is_told(redis: RedisServer) -> None:
    async with gateways(redis) as (one, two):
        run = Run()
        run.may_end.set()
        claim = Claim("shop", "order-1", digest_of(ASKED))
        events = one.shared.stream(
            ("shop", "order-1"), claim.digest, lambda seal: run.begin("one", seal)
        )
        states = []
        async with within(LIMIT_S), contextlib.aclosing(events):
            async for _ in events:
                states.append((await two.names.claim(claim)).state)
        assert states == [State.RUNNING] * 3 + [State.ANSWERED]


async def test_who_waits_keeps_its_own_deadline(redis: RedisServer) -> None:
    async with gateways(redis) as (one, two):
        run = Run()
        first = asyncio.create_task(one.hear(run))
        await begins(run, "one")
        events = two.repeats.stream(ASKED, CALL, lambda seal: run.begin("two", seal))
        with pytest.raises(DeadlineExceeded):
            async with within(0.3), contextlib.aclosing(events):
                async for _ in events:
                    pass
        run.may_end.set()
        await first
        assert run.begun == ["one"]


async def test_the_claim_of_a_gateway_that_died_ends(redis: RedisServer) -> None:
    async with gateways(redis, lease_s=SHORT_S) as (one, two):
        run = Run()
        run.may_end.set()
        # Nobody renews it.
        found = await one.names.claim(Claim("shop", "order-1", digest_of(ASKED)))
        assert found == Found(State.OURS)
        assert not (await two.hear(run))[-1].summary.is_repeat
        assert run.begun == ["two"]


async def test_what_died_with_its_row_half_written_is_not_run_again(redis: RedisServer) -> None:
    async with gateways(redis, lease_s=SHORT_S) as (one, two):
        run = Run()
        claim = Claim("shop", "order-1", digest_of(ASKED))
        await one.names.claim(claim)
        await one.names.seal(claim)
        with pytest.raises(AnswerNotKept, match="order-1"):
            await two.hear(run)
        assert run.begun == []


async def test_a_claim_is_renewed_and_made_again_where_it_was_lost(own_redis) -> None:
    async with gateways(own_redis) as (one, two):
        run = Run()
        first = asyncio.create_task(one.hear(run))
        await begins(run, "one")
        (name,) = names_in(own_redis)
        with own_redis.client() as client:
            client.pexpire(name, 300_000)
            await one.shared.renew()
            assert client.pttl(name) > 300_000
            client.delete(name)
            await one.shared.renew()
        second = asyncio.create_task(two.hear(run))
        await waits(two)
        run.may_end.set()
        await first
        assert (await second)[-1].summary.is_repeat
        await one.shared.renew()  # of what has ended: nothing
        assert run.begun == ["one"]
        with own_redis.client() as client:
            assert client.hget(name, "state") == b"answered"


async def test_an_answer_that_is_too_large_to_keep_is_not_run_again(redis: RedisServer) -> None:
    async with gateways(redis) as (one, two):
        run = Run()
        run.texts = ["x" * 2000]
        run.may_end.set()
        whole = await one.hear(run)
        with pytest.raises(AnswerNotKept) as refused:
            await two.hear(run)
        assert refused.value.metadata == {"request_id": "order-1"}
        assert (await one.hear(run))[1] == whole[1]  # it remembers it itself
        assert run.begun == ["one"]


@pytest.mark.parametrize(("fault", "patience_s"), [("killed", 30), ("paused", 4)])
async def test_without_redis_each_gateway_runs_it_until_it_is_back(
    own_redis: RedisServer, fault: str, patience_s: float
) -> None:
    async with gateways(own_redis, patience_s=patience_s) as (one, two):
        run = Run()
        first = asyncio.create_task(one.hear(run))
        await begins(run, "one")
        second = asyncio.create_task(two.hear(run))
        await waits(two)
        own_redis.kill() if fault == "killed" else own_redis.pause()
        await begins(run, "one", "two")
        assert two.alone == ["two"]

        # Now the first one does not know yet that it is away: its answer comes all the same.
        run.may_end.set()
        for events in await asyncio.gather(first, second):
            assert not events[-1].summary.is_repeat
        own_redis.start() if fault == "killed" else own_redis.go_on()
        await back(one, two)
        later = Call("order-2", Caller("shop"), has_own_id=True)
        await one.hear(run, call=later)
        assert (await two.hear(run, call=later))[-1].summary.is_repeat


async def test_a_redis_that_comes_back_empty_hears_of_what_runs(own_redis: RedisServer) -> None:
    async with gateways(own_redis) as (one, two):
        run = Run()
        own_redis.kill()
        first = asyncio.create_task(one.hear(run))
        await begins(run, "one")
        assert one.alone == ["one"]
        own_redis.start()
        await back(one, two)
        second = asyncio.create_task(two.hear(run))
        await waits(two)
        run.may_end.set()
        await first
        assert (await second)[-1].summary.is_repeat
        assert run.begun == ["one"]


async def test_who_leaves_at_any_moment_leaves_no_claim(own_redis: RedisServer) -> None:
    async with gateways(own_redis) as (one, two):
        run = Run()
        for turn in range(60):
            task = asyncio.create_task(one.hear(run))
            for _ in range(turn):
                await asyncio.sleep(0)
            await cancelled(task)
            assert names_in(own_redis) == []
        await begins(run, *["one"] * len(run.begun))
        count = len(run.begun)
        assert 0 < count < 60
        run.may_end.set()
        assert not (await two.hear(run))[-1].summary.is_repeat


async def back(*all_of_them: Gateway) -> None:
    async def are_back() -> bool:
        return all(one.counters.is_up for one in all_of_them)

    await until(are_back)
