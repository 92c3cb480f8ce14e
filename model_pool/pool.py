"""The gateway's side of the workers: channels, what each says it holds, leases, saturation."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping

import grpc

from deltafleet.v1 import worker_pb2, worker_pb2_grpc
from model_pool.errors import (
    DeadlineExceeded,
    FleetError,
    NoWorkerReady,
    PoolSaturated,
    WorkerLost,
)
from model_pool.placement import Candidate, choose_worker
from model_pool.rpc import HARD_LIMIT_BYTES, responses_of, to_failure

RECONNECT_PAUSE_S = 0.1
RETRY_AFTER_S = 1.0
CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", HARD_LIMIT_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Two pools in one process do not share connections.
    ("grpc.use_local_subchannel_pool", 1),
]
log = logging.getLogger(__name__)
Status = worker_pb2.WatchStatusResponse


class WorkerLink:
    """One worker as the gateway sees it: its last word on itself, None while it is out of reach."""

    def __init__(self, name: str, address: str, on_change: Callable[[], None]) -> None:
        self.name = name
        self.status: Status | None = None
        self.descriptions: Mapping[str, worker_pb2.ModelDescription] = {}
        self.in_flight_count = 0
        self._on_change = on_change
        self._channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        self.stub = worker_pb2_grpc.WorkerServiceStub(self._channel)
        self._task: asyncio.Task[None] | None = None

    @property
    def is_ready(self) -> bool:
        """Whether it takes requests."""
        return self.status is not None and self.status.state == worker_pb2.WORKER_STATE_READY

    def start(self) -> None:
        """Begin to listen to what it says."""
        self._task = asyncio.create_task(self._watch(), name=f"watch {self.name}")

    async def stop(self) -> None:
        """Stop listening and close the channel."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._channel.close()

    async def _watch(self) -> None:
        while True:
            try:
                await self._listen()
            except grpc.aio.AioRpcError as error:
                if self.status is not None:
                    log.warning(
                        "worker_lost", extra={"worker": self.name, "status": error.code().name}
                    )
            self.status = None
            self._on_change()
            await asyncio.sleep(RECONNECT_PAUSE_S)

    async def _listen(self) -> None:
        incarnation = ""
        call = self.stub.WatchStatus(worker_pb2.WatchStatusRequest(), wait_for_ready=True)
        async with contextlib.aclosing(responses_of(call)) as statuses:
            async for status in statuses:
                is_ready = status.state == worker_pb2.WORKER_STATE_READY
                if is_ready and status.incarnation != incarnation:
                    await self._describe()
                    incarnation = status.incarnation
                self.status = status
                self._on_change()

    async def _describe(self) -> None:
        answer = await self.stub.DescribeModels(worker_pb2.DescribeModelsRequest(), timeout=30)
        self.descriptions = {one.model: one for one in answer.models}


class Lease:
    """The right to run one request on one worker.

    A worker that goes away before its first word is replaced once; after it, never silently.
    """

    def __init__(self, pool: Pool, model: str) -> None:
        self._pool = pool
        self._model = model
        self._take()

    def _take(self) -> None:
        self._link = self._pool.choose(self._model)
        self._link.in_flight_count += 1
        self.worker = self._link.name
        status = self._link.status
        self.price_nano_usd_per_hour = status.price_nano_usd_per_hour if status else 0

    def release(self) -> None:
        """Give the place back."""
        self._link.in_flight_count -= 1

    async def _move(self) -> None:
        self._link.status = None  # until it is heard again
        await self._pool.wait_until_ready()
        lost = self._link
        self._take()
        lost.in_flight_count -= 1

    async def generate(
        self, request: worker_pb2.RunRequest, timeout_s: float | None
    ) -> AsyncGenerator[worker_pb2.RunResponse, None]:
        """Stream the answer. Raises the worker's own failure, or WorkerLost where it went away."""
        may_move = True
        while True:
            try:
                async with contextlib.aclosing(self._run(request, timeout_s)) as responses:
                    async for response in responses:
                        may_move = False
                        yield response
                return
            except WorkerLost:
                if not may_move:
                    raise
                may_move = False
                await self._move()

    async def _run(
        self, request: worker_pb2.RunRequest, timeout_s: float | None
    ) -> AsyncGenerator[worker_pb2.RunResponse, None]:
        call = self._link.stub.Run(request, timeout=timeout_s)
        try:
            async with contextlib.aclosing(responses_of(call)) as responses:
                async for response in responses:
                    yield response
        except grpc.aio.AioRpcError as error:
            raise self._failure(error) from error

    def _failure(self, error: grpc.aio.AioRpcError) -> FleetError:
        failure = to_failure(error)
        if failure is not None:
            return failure
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded("the deadline has passed")
        return WorkerLost(
            f"worker {self.worker} went away while it was answering",
            retry_after_s=RETRY_AFTER_S,
            worker=self.worker,
        )


class Pool:
    """Every worker of the fleet.

    addresses: worker name → host:port or unix:PATH. limit_count: requests that one worker runs and
    queues. wait_s: how long a request waits for any worker to be up. on_change: called after every
    word of a worker, and when one goes out of reach.
    """

    def __init__(
        self,
        addresses: Mapping[str, str],
        *,
        limit_count: int,
        wait_s: float,
        on_change: Callable[[], None],
    ) -> None:
        self._limit_count = limit_count
        self._wait_s = wait_s
        self._on_change = on_change
        self._heard = asyncio.Event()
        self.links = {name: WorkerLink(name, at, self._hear) for name, at in addresses.items()}

    def start(self) -> None:
        """Begin to listen to the workers."""
        for link in self.links.values():
            link.start()

    async def stop(self) -> None:
        """Close every channel."""
        await asyncio.gather(*(link.stop() for link in self.links.values()))

    @property
    def is_ready(self) -> bool:
        """Whether any worker takes requests."""
        return any(link.is_ready for link in self.links.values())

    async def wait_until_ready(self) -> None:
        """Return when a worker takes requests. Raises NoWorkerReady after the pool's wait."""
        try:
            async with asyncio.timeout(self._wait_s):
                while not self.is_ready:
                    self._heard.clear()
                    await self._heard.wait()
        except TimeoutError:
            raise NoWorkerReady("no worker is ready", retry_after_s=RETRY_AFTER_S) from None

    @contextlib.asynccontextmanager
    async def lease(self, model: str) -> AsyncIterator[Lease]:
        """A place for one request on the worker that suits the model best.

        Raises PoolSaturated at once where every worker is at its limit, NoWorkerReady where none
        is up within the pool's wait.
        """
        await self.wait_until_ready()
        lease = Lease(self, model)
        try:
            yield lease
        finally:
            lease.release()

    def choose(self, model: str) -> WorkerLink:
        """The worker for one more request. Raises PoolSaturated."""
        candidates = [
            Candidate(
                worker=name,
                loaded=frozenset(one.model for one in link.status.loaded),
                busy_count=link.in_flight_count,
                limit_count=self._limit_count,
            )
            for name, link in self.links.items()
            if link.status is not None and link.is_ready
        ]
        name = choose_worker(candidates, model)
        if name is None:
            raise PoolSaturated(
                f"every worker has {self._limit_count} requests", retry_after_s=RETRY_AFTER_S
            )
        return self.links[name]

    def _hear(self) -> None:
        self._heard.set()
        self._on_change()
