"""A worker whose runs do what a test wants, behind the real door and the real streams."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from deltafleet.v1 import worker_pb2, worker_pb2_grpc
from model_pool.grpc_server import make_server
from model_pool.many_runs import ManyRuns
from model_pool.receiving import Receiver
from model_pool.rpc import Door

Answer = AsyncGenerator[worker_pb2.RunResponse, None]
LIMIT_BYTES = 2**20


def piece(text: str, *, is_last: bool = False) -> worker_pb2.RunResponse:
    """A word of an answer."""
    return worker_pb2.RunResponse(text=text, finish_reason=1 if is_last else 0)


class StreamingWorker(worker_pb2_grpc.WorkerServiceServicer):
    """scripts: by request id, what its run does. calls: by method. sizes: of the messages that
    came, in orders. closed: the ids of the runs that were over.
    """

    def __init__(self, incarnation: str = "first") -> None:
        self.scripts: dict[str, Callable[[], Answer]] = {}
        self.calls = Counter[str]()
        self.sizes: list[int] = []
        self.closed: list[str] = []
        self.streams: list[ManyRuns] = []
        self.parents: list[str] = []
        self._incarnation = incarnation

    async def _run(self, request: worker_pb2.RunRequest, parent: str) -> Answer:
        self.parents.append(parent)
        try:
            async with contextlib.aclosing(self.scripts[request.request_id]()) as pieces:
                async for one in pieces:
                    yield one
        finally:
            self.closed.append(request.request_id)

    def Run(self, request: worker_pb2.RunRequest, context: Any) -> Answer:
        self.calls["Run"] += 1
        return self._run(request, "")

    async def RunMany(
        self, requests: AsyncIterator[worker_pb2.RunManyRequest], context: Any
    ) -> AsyncIterator[worker_pb2.RunManyResponse]:
        self.calls["RunMany"] += 1

        async def counted() -> AsyncIterator[worker_pb2.RunManyRequest]:
            async for request in requests:
                self.sizes.append(len(request.orders))
                yield request

        read = Receiver(max_message_bytes=LIMIT_BYTES).reader(worker_pb2.RunRequest.FromString)
        stream = ManyRuns(self._run, read)
        self.streams.append(stream)
        async with contextlib.aclosing(stream.serve(counted())) as responses:
            async for response in responses:
                yield response

    async def WatchStatus(
        self, request: worker_pb2.WatchStatusRequest, context: Any
    ) -> AsyncIterator[worker_pb2.WatchStatusResponse]:
        while True:
            yield worker_pb2.WatchStatusResponse(
                incarnation=self._incarnation, state=worker_pb2.WORKER_STATE_READY
            )
            await asyncio.sleep(1)

    async def DescribeModels(
        self, request: worker_pb2.DescribeModelsRequest, context: Any
    ) -> worker_pb2.DescribeModelsResponse:
        return worker_pb2.DescribeModelsResponse()


@contextlib.asynccontextmanager
async def served(
    worker: worker_pb2_grpc.WorkerServiceServicer,
    address: str = "127.0.0.1:0",
    *,
    without: frozenset[str] = frozenset(),
    **frame: Any,
) -> AsyncIterator[tuple[grpc.aio.Server, str]]:
    """The server and its address. without: methods that it does not have, as an older one. frame:
    of its door.
    """
    limits: dict[str, Any] = {"max_message_bytes": 2 * LIMIT_BYTES, "default_deadline_s": None}
    server = make_server([Door(**limits | frame)], ())
    everything = _Noting()
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(worker, everything)
    handlers = {name: one for name, one in everything.handlers.items() if name not in without}
    server.add_registered_method_handlers(everything.service, handlers)
    generic = grpc.method_handlers_generic_handler(everything.service, handlers)
    server.add_generic_rpc_handlers((generic,))
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield server, f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


class _Noting:
    """Takes what generated code registers."""

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        pass

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        self.service, self.handlers = service, handlers


def asked(name: str, prompt: str = "The sea", count: int = 200) -> worker_pb2.RunRequest:
    """seed: a long answer to "The sea" by the demo's base."""
    request = worker_pb2.RunRequest(
        request_id=name, model="base", max_output_token_count=count, temperature=2, top_p=1
    )
    request.messages.add(role=2, content=prompt)
    request.seed = 1583
    return request


def forever() -> Answer:
    """Says one word, and no more."""
    return after(asyncio.Event().wait, "begun")


async def after(wait: Callable[[], Awaitable[object]], *words: str) -> Answer:
    """Says words, the last of them after the wait."""
    for word in words:
        yield piece(word)
    await wait()
    yield piece("end", is_last=True)


async def words(*texts: str) -> Answer:
    """Says them at once."""
    for text in texts:
        yield piece(text)
    yield piece("", is_last=True)
