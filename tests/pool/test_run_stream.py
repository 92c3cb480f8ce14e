"""A link's runs over one stream, by real sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import pytest
from engine.watching import ForwardWatch
from pool.in_process_worker import free_port, running_worker
from pool.streaming_worker import StreamingWorker, after, asked, forever, piece, served, words

from deltafleet.v1 import worker_pb2
from model_pool import run_stream, worker_door
from model_pool.errors import DeadlineExceeded, Draining, FleetError, PoolSaturated, WorkerLost
from model_pool.worker_link import WorkerLink
from support.fleet import until

STEP_COUNT = 4


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


async def answer_of(link: WorkerLink, name: str, timeout_s: float | None = None) -> str:
    return "".join([one.text async for one in link.run(asked(name), timeout_s)])


async def failure_of(link: WorkerLink, name: str, timeout_s: float | None = None) -> FleetError:
    with pytest.raises(FleetError) as failure:
        await answer_of(link, name, timeout_s)
    return failure.value


async def failure_of_or_none(link: WorkerLink, name: str) -> FleetError | None:
    try:
        await answer_of(link, name)
    except FleetError as error:
        return error
    return None


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
