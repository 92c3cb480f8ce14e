"""Twice what the fleet's places take: what becomes of the urgent, and how fast the rest is told.

The gateway has as many places as its fleet.yaml gives the stub worker, which itself queues nothing;
its core is far from full. Calls arrive at fixed times, whatever became of those before.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.gateway.grpc_load import Call
from benchmarks.gateway.measuring import at
from benchmarks.gateway.pacing import Pacing
from benchmarks.gateway.subjects import Gateway
from deltafleet.v1 import inference_pb2

PLACE_COUNT = 32  # running and queued
TOKEN_COUNT, GAP_S = 8, 0.04
CAPACITY = PLACE_COUNT / (TOKEN_COUNT * GAP_S)  # requests per second
CLASSES = {
    "interactive": inference_pb2.PRIORITY_INTERACTIVE,
    "standard": inference_pb2.PRIORITY_STANDARD,
    "batch": inference_pb2.PRIORITY_BATCH,
}
ORDER = ("interactive", "standard", "batch", "standard", "batch")  # a fifth is urgent
LOADS = {"half": 0.5, "twice": 2.0}

Figures = dict[str, Any]


async def measure(gateway: Gateway, *, seconds: float) -> Figures:
    """Load → class → figures."""
    return {name: await _run(gateway, CAPACITY * share, seconds) for name, share in LOADS.items()}


async def _run(gateway: Gateway, rate: float, seconds: float) -> Figures:
    connection = await gateway.connect(True)
    messages = {name: _messages(gateway, name) for name in CLASSES}
    told = {name: _Told() for name in CLASSES}
    began_s = time.perf_counter()
    for number, name in zip(range(int(rate * seconds)), itertools.cycle(ORDER), strict=False):
        await asyncio.sleep(max(0.0, began_s + number / rate - time.perf_counter()))
        message = messages[name][number % len(messages[name])]
        connection.start(message, told[name].call(gateway))
    await asyncio.sleep(TOKEN_COUNT * GAP_S + 1)
    connection.close()
    return {name: one.figures() for name, one in told.items()}


def _messages(gateway: Gateway, name: str) -> Sequence[bytes]:
    found = []
    for message in gateway.messages(True, TOKEN_COUNT, Pacing(1, GAP_S)):
        request = inference_pb2.GenerateRequest.FromString(message)
        request.priority = CLASSES[name]
        found.append(request.SerializeToString())
    return found


class _Told:
    """What became of one class's calls."""

    def __init__(self) -> None:
        self.asked_count = 0
        self.answered_count = 0
        self.first_s: list[float] = []
        self.shed_s: list[float] = []

    def call(self, gateway: Gateway) -> Call:
        """One more."""
        self.asked_count += 1
        began_s, first = time.perf_counter(), True

        def heard(message: bytes) -> None:
            nonlocal first
            if first and gateway.is_text(True, message):
                first = False
                self.first_s.append(time.perf_counter() - began_s - GAP_S)

        def ended(in_order: bool) -> None:
            if in_order and not first:
                self.answered_count += 1
            else:
                self.shed_s.append(time.perf_counter() - began_s)

        return Call(heard, ended)

    def figures(self) -> Figures:
        """first_*: beyond the worker's own pause before the first token."""
        first_s, shed_s = sorted(self.first_s), sorted(self.shed_s)
        return {
            "asked_count": self.asked_count,
            "answered_count": self.answered_count,
            "shed_count": len(shed_s),
            "first_p50_s": at(first_s, 0.5),
            "first_p99_s": at(first_s, 0.99),
            "shed_p50_s": at(shed_s, 0.5),
            "shed_p99_s": at(shed_s, 0.99),
        }
