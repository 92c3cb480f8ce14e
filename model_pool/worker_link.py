"""A worker of ours as a member of the pool: its channel, and what it says it holds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextvars import Context

import grpc

from deltafleet.v1 import worker_pb2, worker_pb2_grpc
from deltafleet.v1.error_reason_pb2 import ErrorReason
from model_pool.errors import DeadlineExceeded, FleetError, WorkerLost
from model_pool.member import RETRY_AFTER_S, Status
from model_pool.rpc import HARD_LIMIT_BYTES, responses_of, to_failure
from model_pool.run_stream import LARGEST_REQUEST_BYTES, NotOffered, RunStream
from model_pool.tls import Connector, PlainConnector
from model_pool.tracing import trace_metadata, traceparent

RECONNECT_PAUSE_S = 0.1
SILENCE_LIMIT_S = 6.0  # a worker tells its status every two: a stopped one leaves its stream open
CERTIFICATE_LOOK_S = 5.0  # between two looks while there is no connection
SETTLE_LIMIT_S = 5.0  # a step that computes is not interrupted
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
PLAIN = PlainConnector()
log = logging.getLogger(__name__)


class WorkerLink:
    """See Member.

    address: host:port or unix:PATH. allowed: of what it says that it serves; None for all of it.
    silence_limit_s: who says nothing for so long is out of reach.
    """

    def __init__(
        self,
        name: str,
        address: str,
        allowed: frozenset[str] | None = None,
        connector: Connector = PLAIN,
        *,
        silence_limit_s: float = SILENCE_LIMIT_S,
    ) -> None:
        self.name = name
        self.allowed = allowed
        self.status: Status | None = None
        self.last_word: Status | None = None
        self.descriptions: Mapping[str, worker_pb2.ModelDescription] = {}
        # Asked several times for each request: what it was made of, and the result.
        self._served: tuple[object, object, frozenset[str]] = self.descriptions, None, frozenset()
        self.in_flight_count = 0
        self.is_silent = False
        self._silence_limit_s = silence_limit_s
        self._address = address
        self._connector = connector
        self._stream: RunStream | None = None
        self._has_run_many = True  # until it says otherwise: an older one has not
        self._connect()
        self._task: asyncio.Task[None] | None = None

    @property
    def incarnation(self) -> str:
        """See Member."""
        return self.last_word.incarnation if self.last_word else ""

    @property
    def is_ready(self) -> bool:
        """See Member."""
        return self.status is not None and self.status.state == worker_pb2.WORKER_STATE_READY

    @property
    def serves(self) -> frozenset[str]:
        """See Member: what its own fleet.yaml has, which may be read sooner or later than ours."""
        descriptions, allowed, served = self._served
        if descriptions is not self.descriptions or allowed is not self.allowed:
            served = frozenset(self.descriptions)
            if self.allowed is not None:
                served &= self.allowed
            self._served = self.descriptions, self.allowed, served
        return served

    def may_come_to_serve(self, model: str) -> bool:
        """See Member."""
        return model not in self.descriptions and (self.allowed is None or model in self.allowed)

    def start(self, on_change: Callable[[], None]) -> None:
        """See Member."""
        self._task = asyncio.create_task(self._watch(on_change), name=f"watch {self.name}")

    async def stop(self) -> None:
        """See Member."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._disconnect()

    async def _disconnect(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.close()
        await self._channel.close()

    def _connect(self) -> None:
        self._version = self._connector.version
        self._channel = self._connector.open(self._address, CHANNEL_OPTIONS)
        self._stub = worker_pb2_grpc.WorkerServiceStub(self._channel)

    async def _until_connected(self) -> None:
        """Where the certificates are other ones by now, over a new channel: one has the same for
        its whole life.
        """
        while self._version is not None:
            if self._connector.version != self._version:
                await self._disconnect()
                self._connect()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CERTIFICATE_LOOK_S):
                    await self._channel.channel_ready()
                    return

    def suspect(self) -> None:
        """See Member."""
        self.status = None

    async def run(
        self, request: worker_pb2.RunRequest, timeout_s: float | None
    ) -> AsyncGenerator[worker_pb2.RunResponse, None]:
        """See Member."""
        if self._has_run_many and request.ByteSize() <= LARGEST_REQUEST_BYTES:
            with self._open_stream().run(request, timeout_s, traceparent()) as run:
                try:
                    while (response := await run.next()) is not None:
                        yield response
                    return
                except NotOffered:
                    self._has_run_many, timeout_s = False, run.left_s
        async with contextlib.aclosing(self._run_alone(request, timeout_s)) as responses:
            async for response in responses:
                yield response

    def _open_stream(self) -> RunStream:
        if self._stream is None or self._stream.is_over:
            # Not in the context of the request that happens to be the first.
            self._stream = Context().run(lambda: RunStream(self._stub.RunMany(), self._blame))
        return self._stream

    async def _run_alone(
        self, request: worker_pb2.RunRequest, timeout_s: float | None
    ) -> AsyncGenerator[worker_pb2.RunResponse, None]:
        call = self._stub.Run(request, timeout=timeout_s, metadata=trace_metadata())
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise self._failure(error) from error
        finally:
            call.cancel()

    async def reload_catalog(self, *, validate_only: bool = False, timeout_s: float) -> None:
        """Let the worker read its specialists again. Raises its ConfigRefused, WorkerLost where it
        cannot be asked.
        """
        asked = worker_pb2.ReloadCatalogRequest(validate_only=validate_only)
        try:
            await self._stub.ReloadCatalog(asked, timeout=timeout_s, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            raise self._failure(error) from error

    async def settle(self, request: worker_pb2.RunRequest) -> worker_pb2.SettleRunResponse | None:
        """See Member."""
        name = request.request_id
        asked = worker_pb2.SettleRunRequest(request_id=name, model=request.model)
        try:
            return await self._stub.SettleRun(asked, timeout=SETTLE_LIMIT_S)
        except grpc.aio.AioRpcError as error:
            known = {"worker": self.name, "request_id": name, "status": error.code().name}
            log.info("run_not_settled", extra=known)
            return None

    def _failure(self, error: grpc.aio.AioRpcError) -> FleetError:
        failure = to_failure(error)
        if failure is None and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded("the deadline has passed")
        return self._blame(failure)

    def _blame(self, failure: FleetError | None) -> FleetError:
        """failure: what the worker named; None where it went away without a word."""
        if failure is not None and failure.reason != ErrorReason.ERROR_REASON_INTERNAL:
            return failure
        if failure is not None:  # its own fault, such as no memory: another one may do better
            return WorkerLost(
                f"worker {self.name} failed, and its log says why",
                retry_after_s=RETRY_AFTER_S,
                worker=self.name,
            )
        return WorkerLost(
            f"worker {self.name} went away while it was answering",
            retry_after_s=RETRY_AFTER_S,
            worker=self.name,
        )

    async def _watch(self, on_change: Callable[[], None]) -> None:
        while True:
            try:
                await self._until_connected()
                await self._listen(on_change)
            except grpc.aio.AioRpcError as error:
                self._tell_lost(error.code().name)
            except TimeoutError:
                self.is_silent = self.last_word is not None
                self._tell_lost("SILENT")
            self.status = None
            on_change()
            await asyncio.sleep(RECONNECT_PAUSE_S)

    async def _listen(self, on_change: Callable[[], None]) -> None:
        described = ("", "")
        call = self._stub.WatchStatus(worker_pb2.WatchStatusRequest(), wait_for_ready=True)
        async with contextlib.aclosing(responses_of(call)) as statuses:
            while status := await self._next(statuses):
                is_ready = status.state == worker_pb2.WORKER_STATE_READY
                catalog = status.incarnation, status.catalog_digest
                self._has_run_many |= status.incarnation != self.incarnation
                if is_ready and catalog != described:
                    await self._describe()
                    described = catalog
                self.status = self.last_word = status
                self.is_silent = False
                on_change()

    async def _next(self, statuses: AsyncGenerator[Status, None]) -> Status | None:
        """None at the end. Raises TimeoutError where none comes."""
        async with asyncio.timeout(self._silence_limit_s):
            return await anext(statuses, None)

    def _tell_lost(self, status: str) -> None:
        if self.status is not None:
            log.warning("worker_lost", extra={"worker": self.name, "status": status})

    async def _describe(self) -> None:
        answer = await self._stub.DescribeModels(worker_pb2.DescribeModelsRequest(), timeout=30)
        self.descriptions = {one.model: one for one in answer.models}
