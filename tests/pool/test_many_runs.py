"""The worker's side of a stream of runs, orders and events by hand."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import pytest
from pool.streaming_worker import (
    LIMIT_BYTES,
    StreamingWorker,
    after,
    asked,
    forever,
    piece,
    served,
    words,
)

from deltafleet.v1 import worker_pb2, worker_pb2_grpc
from deltafleet.v1.error_reason_pb2 import ErrorReason
from model_pool import many_runs
from model_pool.call import current_trace, time_left_s
from model_pool.errors import (
    DeadlineExceeded,
    FleetError,
    MalformedMessage,
    MessageTooLarge,
    UnknownField,
)
from model_pool.many_runs import ManyRuns
from model_pool.receiving import Receiver
from model_pool.rpc import from_status, to_failure
from model_pool.worker_link import WorkerLink

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
async def worker() -> StreamingWorker:
    return StreamingWorker()


@pytest.fixture
async def address(worker: StreamingWorker) -> AsyncIterator[str]:
    async with served(worker) as (_, address):
        yield address


@pytest.fixture
async def call(address: str) -> AsyncIterator[grpc.aio.StreamStreamCall]:
    """A stream by hand."""
    async with grpc.aio.insecure_channel(address) as channel:
        call = worker_pb2_grpc.WorkerServiceStub(channel).RunMany()
        yield call
        call.cancel()


def start(number: int, name: str, **more: object) -> worker_pb2.RunOrder:
    begun = worker_pb2.StartRun(request=asked(name).SerializeToString(), **more)
    return worker_pb2.RunOrder(run_id=number, start=begun)


async def send(call: grpc.aio.StreamStreamCall, *orders: worker_pb2.RunOrder) -> None:
    await call.write(worker_pb2.RunManyRequest(orders=orders))


async def ends_of(call: grpc.aio.StreamStreamCall, count: int) -> dict[int, FleetError | None]:
    """The next ends, by run: what each failed of."""
    ends: dict[int, FleetError | None] = {}
    while len(ends) < count:
        for event in (await call.read()).events:
            if event.HasField("end"):
                ends[event.run_id] = from_status(event.end)
    return ends


async def test_what_is_ready_together_travels_together_and_the_first_is_not_delayed(
    worker: StreamingWorker, call: grpc.aio.StreamStreamCall
) -> None:
    gate = asyncio.Event()
    worker.scripts = {"first": forever, "other": lambda: after(gate.wait)}
    await send(call, start(1, "first"), *(start(number, "other") for number in range(2, 22)))
    first = await call.read()
    gate.set()
    together = await call.read()

    assert [event.run_id for event in first.events] == [1]
    heard = [event.run_id for event in together.events if event.HasField("response")]
    assert sorted(heard) == list(range(2, 22))


async def test_a_run_knows_its_time_and_its_trace(
    worker: StreamingWorker, call: grpc.aio.StreamStreamCall
) -> None:
    known: dict[str, object] = {}

    async def look() -> AsyncIterator[worker_pb2.RunResponse]:
        known["left_s"], known["trace"] = time_left_s(), current_trace.get()
        yield piece("a", is_last=True)

    worker.scripts = {"look": look}
    await send(call, start(1, "look", time_left_s=30.0, traceparent=TRACEPARENT))
    await ends_of(call, 1)
    assert 0 < float(str(known["left_s"])) <= 30
    assert known["trace"] == "0af7651916cd43dd8448eb211c80319c"
    assert worker.parents == [TRACEPARENT]

    await send(call, start(2, "look"))
    await ends_of(call, 1)
    assert known == {"left_s": None, "trace": ""}


async def test_a_cancelled_run_frees_its_place_and_is_heard_no_more(
    worker: StreamingWorker, call: grpc.aio.StreamStreamCall
) -> None:
    worker.scripts = {"left": forever, "next": lambda: words("a")}
    await send(call, start(1, "left"))
    await call.read()
    cancel = worker_pb2.RunOrder(run_id=1, cancel=worker_pb2.CancelRun())
    await send(call, cancel, cancel, start(2, "next"))
    ends = await ends_of(call, 1)

    assert ends == {2: None}
    assert sorted(worker.closed) == ["left", "next"]


async def test_a_deadline_ends_a_run_at_the_worker_and_no_other(
    worker: StreamingWorker, call: grpc.aio.StreamStreamCall
) -> None:
    gate = asyncio.Event()
    worker.scripts = {"late": forever, "patient": lambda: after(gate.wait)}
    await send(call, start(1, "late", time_left_s=0.05), start(2, "patient", time_left_s=60.0))
    late = await ends_of(call, 1)
    assert list(late) == [1] and isinstance(late[1], DeadlineExceeded)
    assert worker.closed == ["late"]
    gate.set()
    assert await ends_of(call, 1) == {2: None}


async def test_what_is_wrong_with_one_order_refuses_its_run_alone(
    worker: StreamingWorker, call: grpc.aio.StreamStreamCall
) -> None:
    worker.scripts = {"good": lambda: words("a")}
    unknown = b"\xa2\x06\x01a"  # field 100
    good = asked("good").SerializeToString()
    odd = worker_pb2.RunOrder.FromString(start(5, "good").SerializeToString() + unknown)
    large = asked("good", "x" * LIMIT_BYTES).SerializeToString()
    requests = {1: b"\xff\xff", 2: good + unknown, 3: large}
    orders = [
        worker_pb2.RunOrder(run_id=number, start=worker_pb2.StartRun(request=data))
        for number, data in requests.items()
    ]
    endless = start(7, "good", time_left_s=float("nan"))
    await call.write(
        worker_pb2.RunManyRequest(
            orders=[*orders, odd, worker_pb2.RunOrder(run_id=6), endless, start(8, "good")]
        )
    )
    ends = await ends_of(call, 7)

    assert {number: type(end) for number, end in ends.items()} == {
        1: MalformedMessage,
        2: UnknownField,
        3: MessageTooLarge,
        5: UnknownField,
        6: MalformedMessage,
        7: MalformedMessage,
        8: type(None),
    }


async def test_a_gateway_that_does_not_read_is_owed_little_and_stalls_nobody(
    worker: StreamingWorker, address: str, call: grpc.aio.StreamStreamCall
) -> None:
    made: list[int] = []

    async def chatter() -> AsyncIterator[worker_pb2.RunResponse]:
        for number in range(4000):
            made.append(number)
            yield piece("x" * 2**14)
            await asyncio.sleep(0)

    worker.scripts = {"unread": chatter, "read": chatter}
    await send(call, start(1, "unread"))
    link = WorkerLink("w", address)
    async with contextlib.aclosing(link.run(asked("read"), None)) as responses:
        async for _ in responses:
            pass
    await link.stop()

    assert made.count(3999) == 1, "the one who reads has all"
    assert len(made) - 4000 < 2000


@pytest.mark.parametrize("fault", ["bytes", "field", "number"])
async def test_a_message_that_is_wrong_itself_ends_the_stream(
    worker: StreamingWorker, address: str, fault: str
) -> None:
    worker.scripts = {"r": forever}
    begin = worker_pb2.RunManyRequest(orders=[start(1, "r")]).SerializeToString()
    wrong = {"bytes": b"\xff\xff", "field": b"\xa2\x06\x01a", "number": begin}[fault]
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.stream_stream("/deltafleet.v1.WorkerService/RunMany")()
        await call.write(begin)
        await call.read()
        await call.write(wrong)
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            while await call.read() is not grpc.aio.EOF:
                pass
    failure = to_failure(ended.value)
    assert failure is not None
    reason = ErrorReason.Name(failure.reason)
    assert reason == f"ERROR_REASON_{'UNKNOWN_FIELD' if fault == 'field' else 'MALFORMED_MESSAGE'}"
    assert worker.closed == ["r"]


async def test_no_orders_are_taken_from_a_gateway_that_is_owed_many_refusals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a socket, whose buffers would hold thousands."""
    monkeypatch.setattr(many_runs, "MOST_ENDS_COUNT", 10)
    taken: list[int] = []

    async def requests() -> AsyncIterator[worker_pb2.RunManyRequest]:
        for number in range(100):
            taken.append(number)
            yield worker_pb2.RunManyRequest(orders=[worker_pb2.RunOrder(run_id=number)])
            await asyncio.sleep(0)

    stream = ManyRuns(StreamingWorker()._run, Receiver(max_message_bytes=1).reader(bytes))
    responses = stream.serve(requests())
    heard = list((await anext(responses)).events)
    for _ in range(1000):
        await asyncio.sleep(0)
    assert len(taken) < 20
    async for response in responses:
        heard += response.events
    assert sorted(event.run_id for event in heard) == list(range(100))
