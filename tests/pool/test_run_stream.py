"""All runs of a gateway on a worker over one stream, by real sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import pytest
from engine.watching import ForwardWatch
from pool.in_process_worker import free_port, running_worker
from pool.streaming_worker import (
    LIMIT_BYTES,
    StreamingWorker,
    after,
    forever,
    piece,
    served,
    words,
)

from deltafleet.v1 import worker_pb2, worker_pb2_grpc
from deltafleet.v1.error_reason_pb2 import ErrorReason
from model_pool import many_runs, run_stream, worker_door
from model_pool.call import current_trace, time_left_s
from model_pool.errors import (
    DeadlineExceeded,
    Draining,
    FleetError,
    MalformedMessage,
    MessageTooLarge,
    PoolSaturated,
    UnknownField,
    WorkerLost,
)
from model_pool.many_runs import ManyRuns
from model_pool.receiving import Receiver
from model_pool.rpc import from_status, to_failure
from model_pool.worker_link import WorkerLink
from support.fleet import until

STEP_COUNT = 4
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
async def worker() -> StreamingWorker:
    return StreamingWorker()


@pytest.fixture
async def address(worker: StreamingWorker) -> AsyncIterator[str]:
    async with served(worker) as (_, address):
        yield address


@pytest.fixture
async def link(address: str) -> AsyncIterator[WorkerLink]:
    link = WorkerLink("w", address)
    yield link
    await link.stop()


@pytest.fixture
async def call(address: str) -> AsyncIterator[grpc.aio.StreamStreamCall]:
    """A stream by hand."""
    async with grpc.aio.insecure_channel(address) as channel:
        call = worker_pb2_grpc.WorkerServiceStub(channel).RunMany()
        yield call
        call.cancel()


def asked(name: str, prompt: str = "The sea", count: int = 200) -> worker_pb2.RunRequest:
    """seed: a long answer to "The sea" by the demo's base."""
    request = worker_pb2.RunRequest(
        request_id=name, model="base", max_output_token_count=count, temperature=2, top_p=1
    )
    request.messages.add(role=2, content=prompt)
    request.seed = 1583
    return request


def start(number: int, name: str, **more: object) -> worker_pb2.RunOrder:
    begun = worker_pb2.StartRun(request=asked(name).SerializeToString(), **more)
    return worker_pb2.RunOrder(run_id=number, start=begun)


async def answer_of(link: WorkerLink, name: str, timeout_s: float | None = None) -> str:
    return "".join([one.text async for one in link.run(asked(name), timeout_s)])


async def failure_of(link: WorkerLink, name: str, timeout_s: float | None = None) -> FleetError:
    with pytest.raises(FleetError) as failure:
        await answer_of(link, name, timeout_s)
    return failure.value


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


async def test_requests_that_come_together_are_sent_together(
    worker: StreamingWorker, link: WorkerLink
) -> None:
    worker.scripts = {str(number): lambda: words("a", "b") for number in range(50)}
    answers = await asyncio.gather(*(answer_of(link, str(number)) for number in range(50)))

    assert answers == ["ab"] * 50
    assert worker.calls == {"RunMany": 1} and sum(worker.sizes) == 50
    assert len(worker.sizes) <= 2


async def test_each_run_fails_alone_and_says_of_what(
    worker: StreamingWorker, link: WorkerLink, caplog: pytest.LogCaptureFixture
) -> None:
    async def full() -> AsyncIterator[worker_pb2.RunResponse]:
        raise PoolSaturated("full", retry_after_s=2.5, model="sql")
        yield

    async def broken() -> AsyncIterator[worker_pb2.RunResponse]:
        yield piece("a")
        raise RuntimeError("a secret")

    gate = asyncio.Event()
    worker.scripts = {"full": full, "broken": broken, "good": lambda: after(gate.wait, "a")}
    good = asyncio.create_task(answer_of(link, "good"))
    refused, lost = await failure_of(link, "full"), await failure_of(link, "broken")
    gate.set()

    assert type(refused) is PoolSaturated and refused.message == "full"
    assert refused.retry_after_s == 2.5 and refused.metadata == {"model": "sql"}
    assert type(lost) is WorkerLost and "secret" not in lost.message
    assert "a secret" in caplog.text
    assert await good == "aend"
    assert worker.calls["RunMany"] == 1


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


async def test_a_caller_who_leaves_ends_the_computing_and_no_other_run() -> None:
    async with running_worker("w", f"127.0.0.1:{free_port()}") as worker:
        link = WorkerLink("w", worker.address)
        await answer_of(link, "build the weights")
        with ForwardWatch() as watch:
            watch.close_gate(after=STEP_COUNT)
            async with contextlib.aclosing(link.run(asked("leaves"), None)) as responses:
                await anext(responses)
                await asyncio.to_thread(watch.is_waiting.wait)
            while (report := worker.engine.report()).running_count + report.queued_count:
                await asyncio.sleep(0.001)
            watch.open_gate()
            settled = await link.settle(asked("leaves"))
            await worker.engine.drain()
            assert len(watch.shapes) == STEP_COUNT + 1
        assert settled is not None and settled.output_token_count >= STEP_COUNT
        assert await answer_of(link, "another")
        await link.stop()


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


async def test_a_gateway_does_not_wait_longer_than_the_deadline_for_a_worker_that_is_silent() -> (
    None
):
    class Silent(StreamingWorker):
        async def RunMany(self, requests: object, context: object) -> AsyncIterator[object]:
            await asyncio.Event().wait()
            yield

    async with served(Silent()) as (_, address):
        link = WorkerLink("w", address)
        assert type(await failure_of(link, "r", 0.05)) is DeadlineExceeded
        await link.stop()


async def test_a_lost_stream_is_a_lost_worker_for_all_and_the_next_run_opens_another(
    worker: StreamingWorker,
) -> None:
    address = f"127.0.0.1:{free_port()}"
    link = WorkerLink("w", address)
    worker.scripts = {str(number): forever for number in range(5)}
    async with served(worker, address) as (server, _):
        streams = [link.run(asked(str(number)), None) for number in range(5)]
        for stream in streams:
            assert (await anext(stream)).text == "begun"
        await server.stop(None)
        for stream in streams:
            with pytest.raises(WorkerLost) as lost:
                await anext(stream)
            assert lost.value.metadata == {"worker": "w"}
    assert type(await failure_of(link, "0")) is WorkerLost

    again = StreamingWorker()
    again.scripts = {"again": lambda: words("a")}

    async def answers() -> bool:
        with contextlib.suppress(WorkerLost):
            return await answer_of(link, "again") == "a"
        return False

    async with served(again, address):
        await until(answers)
        await link.stop()


async def test_runs_go_on_where_a_link_is_stopped_for_another_worker(
    worker: StreamingWorker, address: str
) -> None:
    """Two links to one worker: closing one's stream ends its own runs alone."""
    one, other, gate = WorkerLink("a", address), WorkerLink("b", address), asyncio.Event()
    worker.scripts = {"one": forever, "other": lambda: after(gate.wait, "a")}
    lost = one.run(asked("one"), None)
    await anext(lost)
    kept = asyncio.create_task(answer_of(other, "other"))
    await one.stop()
    with pytest.raises(WorkerLost):
        await anext(lost)
    gate.set()
    assert await kept == "aend"
    await other.stop()


async def test_an_older_worker_is_asked_by_calls_until_another_takes_its_place() -> None:
    address = f"127.0.0.1:{free_port()}"
    link = WorkerLink("w", address)
    older, newer = StreamingWorker("older"), StreamingWorker("newer")
    older.scripts = newer.scripts = {"r": lambda: words("a", "b")}

    async def is_newer() -> bool:
        return link.is_ready and link.incarnation == "newer"

    async with served(older, address, without=frozenset({"RunMany"})):
        answers = await asyncio.gather(*(answer_of(link, "r", 60.0) for _ in range(3)))
        assert [*answers, await answer_of(link, "r")] == ["ab"] * 4
        assert older.calls == {"Run": 4}
    link.start(lambda: None)
    async with served(newer, address):
        await until(is_newer)
        assert await answer_of(link, "r") == "ab"
        assert newer.calls == {"RunMany": 1}
        await link.stop()


async def test_a_large_request_goes_by_a_call_of_its_own(
    worker: StreamingWorker, link: WorkerLink
) -> None:
    worker.scripts = {"r": lambda: words("a")}
    large = asked("r", "x" * run_stream.LARGEST_REQUEST_BYTES)
    assert [one.text async for one in link.run(large, None)] == ["a", ""]
    assert worker.calls == {"Run": 1}


async def test_a_draining_worker_ends_its_runs_then_its_streams(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_door, "LAST_WORD_S", 3600.0)
    async with running_worker("w", f"127.0.0.1:{free_port()}") as worker:
        link = WorkerLink("w", worker.address)
        await answer_of(link, "build the weights")
        with ForwardWatch() as watch:
            watch.close_gate(after=STEP_COUNT)
            whole = asyncio.create_task(answer_of(link, "whole"))
            await asyncio.to_thread(watch.is_waiting.wait)
            stopping = asyncio.create_task(worker.stop())
            while not isinstance(await failure_of_or_none(link, "late"), Draining):
                await asyncio.sleep(0.001)
            assert not stopping.done() and not whole.done()
            watch.open_gate()
            assert await whole
        async with asyncio.timeout(60):
            await stopping
        await link.stop()


async def failure_of_or_none(link: WorkerLink, name: str) -> FleetError | None:
    try:
        await answer_of(link, name)
    except FleetError as error:
        return error
    return None


async def test_what_a_leaving_worker_did_not_take_may_run_elsewhere(
    worker: StreamingWorker, link: WorkerLink
) -> None:
    worker.scripts = {"a": lambda: words("a"), "heard": forever}
    heard = link.run(asked("heard"), None)
    await anext(heard)
    [stream] = worker.streams
    stream.leave()
    await heard.aclose()  # its last run
    while link._stream is not None and not link._stream.is_over:
        await asyncio.sleep(0.001)
    assert await answer_of(link, "a") == "a"
    assert worker.calls["RunMany"] == 2


async def test_a_stream_that_ends_in_order_without_an_answer_is_a_refusal() -> None:
    class Leaving(StreamingWorker):
        async def RunMany(
            self, requests: AsyncIterator[worker_pb2.RunManyRequest], context: object
        ) -> AsyncIterator[worker_pb2.RunManyResponse]:
            request = await anext(requests)
            heard = worker_pb2.RunEvent(run_id=request.orders[0].run_id, response=piece("a"))
            yield worker_pb2.RunManyResponse(events=[heard])

    async with served(Leaving()) as (_, address):
        link = WorkerLink("w", address)
        begun, unheard = await asyncio.gather(failure_of(link, "a"), failure_of(link, "b"))
        await link.stop()
    assert type(begun) is WorkerLost and type(unheard) is Draining


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


async def test_a_stream_begins_once_and_lasts_as_long_as_its_caller_likes(
    worker: StreamingWorker,
) -> None:
    worker.scripts = {"late": forever, "good": lambda: words("a")}
    begun, endings = [], []

    async def note(method: str, context: object) -> None:
        begun.append(method)
        if len(begun) == 2:
            raise Draining("no more")

    frame = {"on_begin": note, "on_end": lambda *ending: endings.append(ending)}
    async with served(worker, default_deadline_s=0.05, **frame) as (_, address):
        link = WorkerLink("w", address)
        assert type(await failure_of(link, "late", 0.2)) is DeadlineExceeded
        assert await answer_of(link, "good") == "a"
        await link.stop()
        other = WorkerLink("w", address)
        assert type(await failure_of(other, "good")) is WorkerLost
        await other.stop()
    method = "/deltafleet.v1.WorkerService/RunMany"
    assert begun == [method] * 2
    assert set(endings) == {
        (method, grpc.StatusCode.CANCELLED, ""),
        (method, grpc.StatusCode.UNAVAILABLE, "draining"),
    }


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


async def test_a_gateway_that_does_not_read_is_owed_little_and_stalls_nobody(
    worker: StreamingWorker, link: WorkerLink, call: grpc.aio.StreamStreamCall
) -> None:
    made: list[int] = []

    async def chatter() -> AsyncIterator[worker_pb2.RunResponse]:
        for number in range(4000):
            made.append(number)
            yield piece("x" * 2**14)
            await asyncio.sleep(0)

    worker.scripts = {"unread": chatter, "read": chatter}
    await send(call, start(1, "unread"))
    await answer_of(link, "read")

    assert made.count(3999) == 1, "the one who reads has all"
    assert len(made) - 4000 < 2000


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


async def test_a_caller_who_reads_slowly_hears_all_in_fewer_pieces(
    worker: StreamingWorker, link: WorkerLink
) -> None:
    texts = [f"{number} " for number in range(200)]
    worker.scripts = {"slow": lambda: words(*texts), "other": lambda: words("a")}
    slow = link.run(asked("slow"), None)
    first = await anext(slow)
    while "slow" not in worker.closed:
        await asyncio.sleep(0.001)
    await answer_of(link, "other")  # behind it in the same stream
    rest = [one async for one in slow]

    assert first.text + "".join(one.text for one in rest) == "".join(texts)
    assert len(rest) <= run_stream.MOST_PIECES_COUNT
    assert rest[-1].finish_reason
