"""The worker's side: WorkerService over one engine."""

from __future__ import annotations

import asyncio
import contextlib
import math
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from google.protobuf.timestamp_pb2 import Timestamp
from opentelemetry.trace import SpanKind

from deltafleet.v1 import inference_pb2, routing_pb2, worker_pb2, worker_pb2_grpc
from model_pool.admission import PRIORITIES, Admission, Thresholds, ask_of
from model_pool.call import current_trace, request_id, time_left_s
from model_pool.catalog import Catalog
from model_pool.engine import Engine, FinishReason, Job, Message, Piece, Role, Sampling
from model_pool.errors import ConfigRefused, Draining
from model_pool.many_runs import ManyRuns
from model_pool.receiving import Receiver
from model_pool.residency import Residency
from model_pool.rpc import HARD_LIMIT_BYTES
from model_pool.run_ends import RunEnds, to_settled
from model_pool.served_models import ServedModels
from model_pool.switching import Priority
from model_pool.traceparent import header_of
from model_pool.tracing import Tracing, sampled_id

WATCH_INTERVAL_S = 2.0
# Changes closer together than this travel in one status.
WATCH_PAUSE_S = 0.02

ROLES = {
    routing_pb2.ROLE_SYSTEM: Role.SYSTEM,
    routing_pb2.ROLE_USER: Role.USER,
    routing_pb2.ROLE_ASSISTANT: Role.ASSISTANT,
}
FINISH_REASONS = {
    FinishReason.STOP: inference_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: inference_pb2.FINISH_REASON_LENGTH,
}


@dataclass(frozen=True, slots=True)
class WorkerIdentity:
    """What a worker is called and costs. limit_count: requests that it runs and queues."""

    name: str
    engine: str
    price_nano_usd_per_hour: int
    limit_count: int
    memory_budget_bytes: int


class Reload(Protocol):
    """See CatalogReloader."""

    async def __call__(self, *, validate_only: bool = False) -> None:
        """Raises ConfigRefused."""
        ...


class WorkerServicer(worker_pb2_grpc.WorkerServiceServicer):
    """Runs requests on an engine, holding their weights meanwhile.

    monotonic, wall: seconds; uptime counts, by the engine's own clock, from the construction,
    which is the process's start.
    """

    def __init__(
        self,
        identity: WorkerIdentity,
        engine: Engine,
        *,
        monotonic: Callable[[], float],
        wall: Callable[[], float],
        tracing: Tracing | None = None,
        thresholds: Thresholds | None = None,
        linger_s: float = 0.0,
    ) -> None:
        """linger_s: see ServedModels."""
        self._tracing = tracing or Tracing()
        self._identity = identity
        self._engine = engine
        self._monotonic = monotonic
        self._before = engine.report().spent
        self._start_time = _timestamp(wall())
        self._incarnation = str(uuid.uuid4())
        self.served = ServedModels(linger_s, self._retire)
        self._reload: Reload | None = None
        self._is_started = asyncio.Event()
        self._retiring: set[asyncio.Task[None]] = set()
        self._state = worker_pb2.WORKER_STATE_STARTING
        self._admission = Admission(thresholds)
        self._ends = RunEnds()
        receiver = Receiver(max_message_bytes=HARD_LIMIT_BYTES)
        self._read = receiver.reader(worker_pb2.RunRequest.FromString)
        self._streams: set[ManyRuns] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._changed = asyncio.Event()
        self._residency = Residency(
            engine,
            budget_bytes=identity.memory_budget_bytes,
            clock=wall,
            on_change=self.notify,
        )

    async def start(self, catalog: Catalog, preload: tuple[str, ...]) -> None:
        """Start the engine, build the weights named in preload, then take requests."""
        await self._engine.start()
        self.served.replace(catalog)
        for model in preload:
            async with self._residency.hold(catalog.weights(model)):
                pass
        self._state = worker_pb2.WORKER_STATE_READY
        self._is_started.set()
        self.notify()

    async def until_started(self) -> None:
        """Return when it takes requests."""
        await self._is_started.wait()

    def reload_by(self, reload: Reload) -> None:
        """What ReloadCatalog calls."""
        self._reload = reload

    def leave(self) -> None:
        """Take no more requests; streams of them end with the last one's end."""
        self._state = worker_pb2.WORKER_STATE_DRAINING
        self.notify()
        for stream in self._streams:
            stream.leave()

    async def drain(self) -> None:
        """Take no more requests; return when the last one has ended."""
        self.leave()
        await self._idle.wait()
        await self._engine.drain()

    def Run(
        self, request: worker_pb2.RunRequest, context: Any
    ) -> AsyncIterator[worker_pb2.RunResponse]:
        """Run one request on one model."""
        is_traced = self._tracing.is_on
        return self._run(request, header_of(context.invocation_metadata()) if is_traced else "")

    async def RunMany(
        self, requests: AsyncIterator[worker_pb2.RunManyRequest], context: Any
    ) -> AsyncIterator[worker_pb2.RunManyResponse]:
        """Run the requests of a gateway."""
        stream = ManyRuns(self._run, self._read)
        self._streams.add(stream)
        if self._state == worker_pb2.WORKER_STATE_DRAINING:
            stream.leave()
        try:
            async with contextlib.aclosing(stream.serve(requests)) as responses:
                async for response in responses:
                    yield response
        finally:
            self._streams.discard(stream)

    async def _run(
        self, request: worker_pb2.RunRequest, parent: str
    ) -> AsyncGenerator[worker_pb2.RunResponse, None]:
        """parent: the traceparent header of who asks, "" where there is none."""
        request_id.set(request.request_id)
        weights = self.served.weights(request.model)
        began_s = self._monotonic()
        with self._trace(request, parent), self._admitted(request):
            async with self._residency.hold(weights):
                held_s = self._monotonic() - began_s
                on_end = self._ends.begin(request.request_id, request.model)
                job = _to_job(request, time_left_s())
                first_s, piece = 0.0, None
                async with contextlib.aclosing(self._engine.generate(job, on_end)) as pieces:
                    async for piece in pieces:
                        first_s = first_s or self._monotonic() - began_s
                        yield _to_response(piece, held_s)
                if piece is not None and self._tracing.is_on:
                    total_s = self._monotonic() - began_s
                    self._trace_phases(piece, held_s, first_s, total_s)

    @contextlib.contextmanager
    def _trace(self, request: worker_pb2.RunRequest, parent: str) -> Iterator[None]:
        with self._tracing.span(
            f"chat {request.model}",
            {
                "gen_ai.operation.name": "chat",
                "gen_ai.request.model": request.model,
                "deltafleet.request.id": request.request_id,
                "deltafleet.worker": self._identity.name,
            },
            kind=SpanKind.SERVER,
            parent=parent,
        ) as span:
            if sampled := sampled_id(span):
                current_trace.set(sampled)
            yield

    def _trace_phases(self, last: Piece, held_s: float, first_s: float, total_s: float) -> None:
        """Spans of a whole answer's parts. first_s, total_s: since the request came."""
        queue_s = min(last.usage.queue_s or 0.0, first_s - held_s)
        self._tracing.phases(
            ("hold weights", held_s),
            ("queue", queue_s),
            ("prefill", first_s - held_s - queue_s),
            ("decode", total_s - first_s),
        )

    async def SettleRun(
        self, request: worker_pb2.SettleRunRequest, context: Any
    ) -> worker_pb2.SettleRunResponse:
        """All that a request used, once it has ended."""
        return to_settled(await self._ends.usage(request.request_id, request.model))

    async def LoadModel(
        self, request: worker_pb2.LoadModelRequest, context: Any
    ) -> worker_pb2.LoadModelResponse:
        """Build a model's weights ahead of its first request."""
        weights = self.served.weights(request.model)
        async with self._residency.hold(weights):
            return worker_pb2.LoadModelResponse(size_bytes=self._engine.size_bytes(weights))

    async def DescribeModels(
        self, request: worker_pb2.DescribeModelsRequest, context: Any
    ) -> worker_pb2.DescribeModelsResponse:
        """What the files say of each model."""
        return worker_pb2.DescribeModelsResponse(
            models=[
                worker_pb2.ModelDescription(
                    model=files.model,
                    codec=files.codec,
                    stored_size_bytes=files.stored_size_bytes,
                    full_size_bytes=files.full_size_bytes,
                    weights_digest=files.weights.digest,
                    lineage=files.lineage,
                    fault=files.fault,
                )
                for files in self.served.models()
            ]
        )

    async def ReloadCatalog(
        self, request: worker_pb2.ReloadCatalogRequest, context: Any
    ) -> worker_pb2.ReloadCatalogResponse:
        """Read the specialists again, once the worker has started."""
        if self._reload is None:
            raise ConfigRefused("this worker reads its catalog at its start alone")
        await self.until_started()
        await self._reload(validate_only=request.validate_only)
        return worker_pb2.ReloadCatalogResponse(catalog_digest=self.served.digest)

    async def WatchStatus(
        self, request: worker_pb2.WatchStatusRequest, context: Any
    ) -> AsyncIterator[worker_pb2.WatchStatusResponse]:
        """The status now, after each change, and every two seconds."""
        while True:
            changed = self._changed
            yield self._status()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WATCH_INTERVAL_S):
                    await changed.wait()
            await asyncio.sleep(WATCH_PAUSE_S)

    @contextlib.contextmanager
    def _admitted(self, request: worker_pb2.RunRequest) -> Iterator[None]:
        """The gateways refuse, too, but none of them knows what the others sent here.

        Raises Draining, PoolSaturated, CallerSaturated.
        """
        if self._state == worker_pb2.WORKER_STATE_DRAINING:
            raise Draining(f"worker {self._identity.name} is shutting down")
        free_count = self._identity.limit_count - self._admission.count
        with self._admission.enter(ask_of(request), free_count=free_count):
            self._idle.clear()
            try:
                yield
            finally:
                if self._admission.count == 1:  # this one, which leaves
                    self._idle.set()
                self.notify()

    def _retire(self, model: str) -> None:
        """It is served no more; its weights go with its last request."""
        task = asyncio.create_task(self._residency.retire(model), name=f"retire {model}")
        self._retiring.add(task)  # a task that nothing refers to may be collected
        task.add_done_callback(self._retiring.discard)
        self.notify()

    def notify(self) -> None:
        """Let those who watch the status hear it anew."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _status(self) -> worker_pb2.WatchStatusResponse:
        report = self._engine.report()
        spent = report.spent.since(self._before)
        return worker_pb2.WatchStatusResponse(
            worker=self._identity.name,
            incarnation=self._incarnation,
            state=self._state,
            loaded=[
                worker_pb2.LoadedModel(
                    model=resident.model,
                    weights_digest=weights.digest,
                    size_bytes=resident.size_bytes,
                    lease_count=resident.lease_count,
                    last_used_time=_timestamp(resident.last_used),
                )
                for weights, resident in self._residency.residents()
            ],
            running_count=report.running_count,
            queued_count=self._admission.count - report.running_count,
            memory_budget_bytes=self._identity.memory_budget_bytes,
            uptime_s=spent.elapsed_s,
            busy_s=spent.busy_s,
            load_s=spent.load_s,
            price_nano_usd_per_hour=self._identity.price_nano_usd_per_hour,
            start_time=self._start_time,
            engine=self._identity.engine,
            switch_count=report.switch_count,
            switches=report.changes.message(),
            switch_s=spent.switch_s,
            prefill_s=report.work.prefill_s,
            prefill_token_count=report.work.prefill_token_count,
            decode_s=report.work.decode_s,
            decode_token_count=report.work.decode_token_count,
            catalog_digest=self.served.digest if self._is_started.is_set() else "",
        )


def _to_job(request: worker_pb2.RunRequest, left_s: float | None) -> Job:
    return Job(
        request_id=request.request_id,
        model=request.model,
        messages=tuple(Message(ROLES[one.role], one.content) for one in request.messages),
        sampling=Sampling(
            max_output_token_count=request.max_output_token_count,
            temperature=request.temperature,
            top_p=request.top_p,
            stop=tuple(request.stop),
            seed=request.seed if request.HasField("seed") else None,
        ),
        priority=PRIORITIES.get(request.priority, Priority.STANDARD),
        time_left_s=math.inf if left_s is None else left_s,
        wants_log_probability=request.wants_logprob,
        caller=request.caller,
    )


def _to_response(piece: Piece, held_s: float) -> worker_pb2.RunResponse:
    """held_s: what the request waited for its weights, before the engine had it."""
    queue_s = piece.usage.queue_s
    return worker_pb2.RunResponse(
        text=piece.text,
        prompt_token_count=piece.usage.prompt_token_count,
        output_token_count=piece.usage.output_token_count,
        busy_s=piece.usage.busy_s,
        weights_digest=piece.weights_digest,
        finish_reason=(
            FINISH_REASONS[piece.finish_reason]
            if piece.finish_reason
            else inference_pb2.FINISH_REASON_UNSPECIFIED
        ),
        queue_s=None if queue_s is None else held_s + queue_s,
        mean_logprob=piece.mean_log_probability,
    )


def _timestamp(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromNanoseconds(int(seconds * 1e9))
    return stamp
