"""The same x-request-id from the same caller runs, and costs, once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import grpc
import pytest

from deltafleet.v1 import inference_pb2
from gateway.caller import Call, Caller
from gateway.errors import RequestIdReused
from gateway.repeats import Event, Repeats
from gateway.shared_repeats import Begin, Seal
from model_pool.call import to_its_end, within
from model_pool.errors import DeadlineExceeded, WorkerLost
from support.fleet import Fleet, first_text, refusal, rest, rows, until

ASKED = inference_pb2.GenerateRequest(prompt="What is 2 + 3?")
OTHER = inference_pb2.GenerateRequest(prompt="What is 2 + 4?")
CALL = Call("order-1", Caller("shop"), has_own_id=True)


class Runs:
    """Answers that go on when they are told to. cancelled_count: those that were given up."""

    def __init__(self, error: Exception | None = None) -> None:
        self.begun_count = 0
        self.cancelled_count = 0
        self.may_end = asyncio.Event()
        self.may_unwind = asyncio.Event()
        self.may_unwind.set()
        self._error = error

    async def begin(self, seal: Seal) -> AsyncGenerator[Event, None]:
        self.begun_count += 1
        text = f"run {self.begun_count}"
        try:
            yield Event(text=text)
            await self.may_end.wait()
            if self._error:
                raise self._error
            await seal()
            yield Event(summary=inference_pb2.Summary(request_id="order-1"))
        except asyncio.CancelledError:
            self.cancelled_count += 1
            await self.may_unwind.wait()
            raise


async def hear(repeats: Repeats, begin: Begin, call: Call = CALL) -> list[Event]:
    async with within(60), contextlib.aclosing(repeats.stream(ASKED, call, begin)) as events:
        return [event async for event in events]


async def turn() -> None:
    """Let every task go as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


def make(keep_s: float = 60, most_bytes: int = 10_000, **fields: object) -> Repeats:
    return Repeats(keep_s, most_bytes, **fields)


async def test_a_second_one_joins_the_first_from_its_beginning() -> None:
    states: list[str] = []
    repeats, runs = make(on_repeat=states.append), Runs()
    both = [asyncio.create_task(hear(repeats, runs.begin)) for _ in range(2)]
    await turn()
    runs.may_end.set()
    first, second = await asyncio.gather(*both)
    assert [event.text for event in first] == [event.text for event in second] == ["run 1", ""]
    assert [event.summary.is_repeat for event in (first[-1], second[-1])] == [False, True]
    assert runs.begun_count == 1
    assert states == ["running"]

    third = await hear(repeats, runs.begin)
    assert third == second
    assert runs.begun_count == 1
    assert states == ["running", "answered"]


async def test_another_caller_of_the_same_id_is_another_request() -> None:
    repeats, runs = make(), Runs()
    runs.may_end.set()
    await hear(repeats, runs.begin)
    other = Call("order-1", Caller("other"), has_own_id=True)
    assert (await hear(repeats, runs.begin, other))[0].text == "run 2"


async def test_another_request_with_the_id_is_refused() -> None:
    repeats, runs = make(), Runs()
    runs.may_end.set()
    await hear(repeats, runs.begin)
    with pytest.raises(RequestIdReused, match="order-1"):
        async with within(60):
            await anext(repeats.stream(OTHER, CALL, runs.begin))
    assert runs.begun_count == 1


async def test_what_failed_is_told_to_all_that_joined_and_then_tried_again() -> None:
    repeats, runs = make(), Runs(WorkerLost("gone"))
    both = [asyncio.create_task(hear(repeats, runs.begin)) for _ in range(2)]
    await turn()
    runs.may_end.set()
    failures = await asyncio.gather(*both, return_exceptions=True)
    assert [type(one) for one in failures] == [WorkerLost, WorkerLost]
    assert runs.begun_count == 1
    with pytest.raises(WorkerLost):
        await hear(repeats, runs.begin)
    assert runs.begun_count == 2


async def test_it_goes_on_while_anybody_listens_and_no_longer() -> None:
    repeats, runs = make(), Runs()
    first, second = (asyncio.create_task(hear(repeats, runs.begin)) for _ in range(2))
    await turn()
    first.cancel()
    await turn()
    assert (first.cancelled(), runs.cancelled_count) == (True, 0)
    second.cancel()
    await turn()
    assert (second.cancelled(), runs.cancelled_count) == (True, 1)


async def test_one_that_is_being_given_up_is_not_joined_nor_run_beside() -> None:
    repeats, runs = make(), Runs()
    first = asyncio.create_task(hear(repeats, runs.begin))
    await turn()
    runs.may_unwind.clear()
    first.cancel()
    await turn()
    second = asyncio.create_task(hear(repeats, runs.begin))
    await turn()
    assert runs.begun_count == 1
    runs.may_unwind.set()
    runs.may_end.set()
    assert (await second)[0].text == "run 2"
    assert runs.cancelled_count == 1


async def test_an_answer_that_is_stopped_after_its_end_is_not_forgotten() -> None:
    repeats, may_end, begun = make(), asyncio.Event(), []

    async def begin(seal: Seal) -> AsyncGenerator[Event, None]:
        begun.append(1)
        yield Event(summary=inference_pb2.Summary(request_id="order-1"))
        await may_end.wait()

    events = repeats.stream(ASKED, CALL, begin)
    async with within(60):
        await anext(events)
        await events.aclose()
        assert (await hear(repeats, begin))[-1].summary.is_repeat
    assert begun == [1]


async def test_the_first_ones_deadline_holds_for_all() -> None:
    repeats, runs = make(), Runs()

    async def impatient() -> None:
        async with within(0.5), contextlib.aclosing(repeats.stream(ASKED, CALL, runs.begin)) as on:
            async for _ in on:
                pass

    first = asyncio.create_task(impatient())
    await turn()
    second = asyncio.create_task(hear(repeats, runs.begin))
    failures = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(one) for one in failures] == [DeadlineExceeded, DeadlineExceeded]
    assert runs.begun_count == 1


async def test_answers_are_forgotten_by_age_and_by_size() -> None:
    now_s = [0.0]
    repeats, runs = make(keep_s=10, most_bytes=40, clock=lambda: now_s[0]), Runs()
    runs.may_end.set()
    calls = [Call(f"order-{one}", Caller("shop"), has_own_id=True) for one in range(3)]
    for call in calls:  # 18 bytes each
        await hear(repeats, runs.begin, call)
    assert runs.begun_count == 3
    await hear(repeats, runs.begin, calls[2])
    assert runs.begun_count == 3
    await hear(repeats, runs.begin, calls[0])
    assert runs.begun_count == 4
    now_s[0] = 11.0
    await hear(repeats, runs.begin, calls[0])
    assert runs.begun_count == 5


async def test_what_must_not_be_half_done_is_done_and_waited_for() -> None:
    may_end, done = asyncio.Event(), []

    async def work() -> int:
        await may_end.wait()
        done.append(1)
        return 7

    waiting = asyncio.create_task(to_its_end(work()))
    for _ in range(2):
        await turn()
        waiting.cancel()
    await turn()
    assert not waiting.done()
    may_end.set()
    assert (await waiting, done) == (7, [1])


OWN = (("x-request-id", "order-77"),)


async def test_the_fleet_answers_and_charges_once(fleet: Fleet) -> None:
    first = await fleet.inference.Generate(ASKED, metadata=OWN)
    events = await rest(fleet.inference.StreamGenerate(ASKED, metadata=OWN))
    assert "".join(event.text for event in events) == first.text
    again = events[-1].summary
    assert (first.summary.is_repeat, again.is_repeat) == (False, True)
    assert again.cost_nano_usd == first.summary.cost_nano_usd
    assert [row for row in rows(fleet) if row[0] == "order-77"] == [("order-77", "answered")]

    failure = await refusal(fleet.inference.Generate(OTHER, metadata=OWN))
    assert failure.code is grpc.StatusCode.ALREADY_EXISTS
    assert failure.reason == "ERROR_REASON_REQUEST_ID_REUSED"
    assert failure.metadata == {"request_id": "order-77"}


async def test_who_joins_hears_the_rest_where_the_first_leaves(
    fleet: Fleet, long_request: inference_pb2.GenerateRequest
) -> None:
    own = (("x-request-id", "order-78"),)
    first = fleet.inference.StreamGenerate(long_request, metadata=own)
    text = await first_text(first)
    second = fleet.inference.StreamGenerate(long_request, metadata=own)
    assert await first_text(second) == text
    first.cancel()
    events = await rest(second)
    assert events[-1].summary.is_repeat
    assert [row for row in rows(fleet) if row[0] == "order-78"] == [("order-78", "answered")]


async def test_where_all_leave_the_run_ends_and_may_be_asked_again(
    fleet: Fleet, long_request: inference_pb2.GenerateRequest
) -> None:
    own = (("x-request-id", "order-79"),)
    for _ in range(2):
        call = fleet.inference.StreamGenerate(long_request, metadata=own)
        await first_text(call)
        call.cancel()
        with pytest.raises((asyncio.CancelledError, grpc.aio.AioRpcError)):
            await rest(call)

    async def both_are_written() -> bool:
        return len([row for row in rows(fleet) if row[0] == "order-79"]) == 2

    await until(both_are_written)
    assert {outcome for name, outcome in rows(fleet) if name == "order-79"} == {"cancelled"}


async def test_a_deadline_is_told_as_one_and_the_name_is_free_again(
    fleet: Fleet, long_request: inference_pb2.GenerateRequest
) -> None:
    own = (("x-request-id", "order-80"),)
    late = await refusal(fleet.inference.Generate(long_request, metadata=own, timeout=0.05))
    assert late.code is grpc.StatusCode.DEADLINE_EXCEEDED
    answer = await fleet.inference.Generate(long_request, metadata=own)
    assert answer.summary.finish_reason
    assert not answer.summary.is_repeat
