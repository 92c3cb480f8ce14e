"""A worker's gRPC door: WorkerService and health, for gateways and for whoever supervises it."""

from __future__ import annotations

import asyncio
import contextlib

from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from deltafleet.v1 import worker_pb2, worker_pb2_grpc
from model_pool.grpc_server import make_server
from model_pool.health_door import HealthDoor
from model_pool.rpc import HARD_LIMIT_BYTES, Door
from model_pool.settings import PoolTls
from model_pool.tls import pool_files, server_credentials
from model_pool.worker import WorkerServicer

SERVICE = worker_pb2.DESCRIPTOR.services_by_name["WorkerService"].full_name
LAST_WORD_S = 1.0  # for those who watch the status
Status = health_pb2.HealthCheckResponse


class WorkerDoor:
    """Open from the start; health says SERVING from `serve` to `drain`."""

    def __init__(
        self,
        servicer: WorkerServicer,
        listen: str,
        tls: PoolTls | None = None,
        health_listen: str | None = None,
    ) -> None:
        """listen: host:port or unix:PATH, this one always plain. health_listen: for health alone,
        plain, for probes that know no TLS. Raises RuntimeError where one is taken, SettingsError.
        """
        self._servicer = servicer
        self._health = health.aio.HealthServicer()
        self._server = make_server(
            interceptors=[Door(max_message_bytes=HARD_LIMIT_BYTES, default_deadline_s=None)],
            options=[
                ("grpc.max_receive_message_length", HARD_LIMIT_BYTES),
                ("grpc.so_reuseport", 0),
            ],
        )
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(servicer, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if tls is None or listen.startswith("unix:"):
            self._server.add_insecure_port(listen)
        else:
            self._server.add_secure_port(listen, server_credentials(pool_files(tls)))
        self._probes = HealthDoor(self._health, health_listen) if health_listen else None

    async def open(self) -> None:
        """Take calls; the status says STARTING, health NOT_SERVING."""
        await self._say(Status.NOT_SERVING)
        await self._server.start()
        if self._probes:
            await self._probes.start()

    async def serve(self) -> None:
        """Say that the worker takes requests."""
        await self._say(Status.SERVING)

    async def drain(self, limit_s: float) -> None:
        """Refuse new requests; return when those that run have ended, or limit_s is over."""
        await self._health.enter_graceful_shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._servicer.drain()

    async def close(self) -> None:
        """End every call, those that run requests after a moment."""
        self._servicer.leave()
        await self._server.stop(grace=LAST_WORD_S)
        if self._probes:
            await self._probes.stop()

    async def _say(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for service in ("", SERVICE):
            await self._health.set(service, status)
