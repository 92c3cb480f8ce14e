"""One call after the other with bytes that are no request, and whether its end was a proper one."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.rpc import error_details_pb2, status_pb2

from benchmarks.fuzz.messages import wild
from benchmarks.fuzz.wire import mutated
from deltafleet.v1 import cost_pb2, fleet_pb2, inference_pb2, routing_pb2
from deltafleet.v1.error_reason_pb2 import ErrorReason
from model_pool.rpc import REASON_NAMES, STATUS_OF

SERVICES: tuple[ServiceDescriptor, ...] = tuple(
    module.DESCRIPTOR.services_by_name[name]
    for module, name in (
        (inference_pb2, "InferenceService"),
        (routing_pb2, "RoutingService"),
        (fleet_pb2, "FleetService"),
        (cost_pb2, "CostService"),
    )
)
METHODS: tuple[MethodDescriptor, ...] = tuple(
    method for service in SERVICES for method in service.methods
)
HANG_S = 120.0  # as long as the server lets any call live
Code = grpc.StatusCode
# What gRPC itself says of a call, without a reason of ours: too large; encoded in an unknown way.
PLAIN = {Code.RESOURCE_EXHAUSTED, Code.UNIMPLEMENTED}
# With a reason, but a fault all the same: input that broke something.
BROKEN = {"ERROR_REASON_INTERNAL", "ERROR_REASON_WORKER_LOST", "ERROR_REASON_NO_WORKER_READY"}
METADATA = (
    *(("x-request-id", "a" * 500), ("x-request-id", "a b;,"), ("x-request-id", "")),
    *(("traceparent", "00-" + "0" * 49), ("traceparent", "ff" * 200)),
    *(("deltafleet-caller", "x" * 2000), ("deltafleet-caller", "~!@#$%")),
    *(("x-bytes-bin", b"\x00\xff\xfe"), ("x-many", "1"), ("user-agent", "nobody")),
)


@dataclass(frozen=True, slots=True)
class Case:
    """One call. timeout_s: its deadline; None: so long that only a hang meets it."""

    method: MethodDescriptor
    data: bytes
    metadata: tuple[tuple[str, str | bytes], ...] = ()
    compression: grpc.Compression = grpc.Compression.NoCompression
    timeout_s: float | None = None

    @property
    def path(self) -> str:
        """As HTTP/2 has it."""
        return f"/{self.method.containing_service.full_name}/{self.method.name}"


@dataclass(frozen=True, slots=True)
class End:
    """How a call ended. reason: of our ErrorInfo; empty where there is none."""

    code: grpc.StatusCode
    reason: str
    details: str
    took_s: float


@dataclass
class Tally:
    """What became of all calls. faults: texts, each with how often it was seen."""

    ends: Counter[tuple[str, str]] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    samples: dict[str, str] = field(default_factory=dict)  # fault -> one case that made it
    slowest_s: float = 0.0

    @property
    def count(self) -> int:
        """Calls that ended."""
        return self.ends.total()

    def add(self, case: Case, end: End) -> None:
        """Take one call into account."""
        self.ends[(end.code.name, end.reason.removeprefix("ERROR_REASON_"))] += 1
        self.slowest_s = max(self.slowest_s, end.took_s)
        fault = fault_of(case, end)
        if fault:
            self.faults[fault] += 1
            self.samples.setdefault(fault, f"{case.path} {case.data[:200]!r} {case.metadata!r}")


def fault_of(case: Case, end: End) -> str:
    """What is wrong with such an end, "" where nothing is."""
    told = f"{case.method.name}: {end.code.name} {end.reason} {end.details[:120]}".strip()
    if end.code is Code.OK:
        return ""
    if end.reason:
        if (
            end.reason not in REASON_NAMES
            or STATUS_OF[ErrorReason.Value(end.reason)] is not end.code
        ):
            return f"reason and code disagree: {told}"
        return f"broke something: {told}" if end.reason in BROKEN else ""
    if end.code is Code.DEADLINE_EXCEEDED and case.timeout_s is not None:
        return ""
    return "" if end.code in PLAIN else f"no reason: {told}"


def cases(chance: random.Random) -> Iterator[Case]:
    """Cases without end: two thirds are mutated bytes, the others valid messages of wild values."""
    while True:
        method = chance.choice(METHODS)
        data = _bounded(wild(method.input_type, chance).SerializeToString(), chance)
        if chance.random() < 0.67:
            data = mutated(data, chance)
        yield Case(
            method,
            data,
            tuple(chance.sample(METADATA, chance.choice((0, 0, 0, 1, 3)))),
            chance.choice((grpc.Compression.NoCompression,) * 9 + (grpc.Compression.Gzip,)),
            chance.choice((None,) * 30 + (0.0001, 0.003)),
        )


def _bounded(data: bytes, chance: random.Random) -> bytes:
    """Two in three long messages are cut: their number, not their length, is what takes time."""
    return data[:2000] if len(data) > 20_000 and chance.random() < 0.67 else data


async def send(channel: grpc.aio.Channel, case: Case) -> End:
    """Call, and wait for the end."""
    untyped: Any = channel  # messages are bytes
    started_s = time.perf_counter()
    options: dict[str, Any] = {
        "metadata": case.metadata,
        "compression": case.compression,
        "timeout": HANG_S if case.timeout_s is None else case.timeout_s,
    }
    try:
        if case.method.server_streaming:
            async for _ in untyped.unary_stream(case.path)(case.data, **options):
                pass
        else:
            await untyped.unary_unary(case.path)(case.data, **options)
    except grpc.aio.AioRpcError as error:
        took_s = time.perf_counter() - started_s
        return End(error.code(), reason_of(error), error.details() or "", took_s)
    return End(Code.OK, "", "", time.perf_counter() - started_s)


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """Of the ErrorInfo that came with it; empty: none did."""
    info = error_details_pb2.ErrorInfo()
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Unpack(info):
                    return str(info.reason)
    return ""


async def send_all(
    channels: Sequence[grpc.aio.Channel], chosen: Iterator[Case], concurrency: int
) -> Tally:
    """Every case, so many at a time."""
    tally = Tally()

    async def work(channel: grpc.aio.Channel) -> None:
        for case in chosen:
            tally.add(case, await send(channel, case))

    await asyncio.gather(*(work(channels[one % len(channels)]) for one in range(concurrency)))
    return tally
