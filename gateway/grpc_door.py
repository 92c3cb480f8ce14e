"""The gRPC door: one server, its services, health and reflection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from deltafleet.v1 import admin_pb2, cost_pb2, fleet_pb2, inference_pb2, routing_pb2
from gateway.caller import Admission
from gateway.settings import Server
from model_pool.pool import Pool
from model_pool.rpc import HARD_LIMIT_BYTES, Door
from model_pool.settings import SettingsError

SERVICES = (
    inference_pb2.DESCRIPTOR.services_by_name["InferenceService"],
    routing_pb2.DESCRIPTOR.services_by_name["RoutingService"],
    fleet_pb2.DESCRIPTOR.services_by_name["FleetService"],
    cost_pb2.DESCRIPTOR.services_by_name["CostService"],
    admin_pb2.DESCRIPTOR.services_by_name["AdminService"],
    health_pb2.DESCRIPTOR.services_by_name["Health"],
)


class GrpcDoor:
    """What callers reach. Services are added to `server`, then `start` opens it."""

    def __init__(
        self, settings: Server, admit: Admission, on_call_end: Callable[..., None]
    ) -> None:
        """admit: finds out who calls. It and on_call_end: see model_pool.rpc.Door."""
        self._settings = settings
        self._health = health.aio.HealthServicer()
        self._frame = Door(
            max_message_bytes=settings.max_message_bytes,
            default_deadline_s=settings.default_deadline_s,
            on_begin=admit,
            on_end=on_call_end,
        )
        self.server = grpc.aio.server(
            interceptors=[self._frame],
            options=[
                ("grpc.max_receive_message_length", HARD_LIMIT_BYTES),
                ("grpc.so_reuseport", 0),  # a second gateway on the same port is a mistake
            ],
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)
        names = [service.full_name for service in SERVICES]
        reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), self.server)

    async def start(self) -> str:
        """Take calls; health says NOT_SERVING. Returns the address, with the port that was found.

        Raises SettingsError where it is taken.
        """
        listen = self._settings.listen
        try:
            port = self.server.add_insecure_port(listen)
        except RuntimeError as error:
            raise SettingsError(f"server.listen: cannot listen on {listen}: {error}") from None
        await self._say(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self.server.start()
        if listen.startswith("unix:"):
            return listen
        return f"{listen.rpartition(':')[0]}:{port}"

    def change(self, settings: Server) -> None:
        """Other limits from now on; the addresses stay."""
        self._settings = settings
        self._frame.limit(settings.max_message_bytes, settings.default_deadline_s)

    async def stop(self) -> None:
        """Not serving at once; calls that run have drain_limit_s to end."""
        await self._health.enter_graceful_shutdown()
        await self.server.stop(self._settings.drain_limit_s)

    async def follow(self, pool: Pool, changed: asyncio.Event) -> None:
        """Let health say whether a worker is ready, again after each change. Never returns."""
        status = health_pb2.HealthCheckResponse
        while True:
            await self._say(status.SERVING if pool.is_ready else status.NOT_SERVING)
            await changed.wait()
            changed.clear()

    async def _say(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for service in ("", *(one.full_name for one in SERVICES)):
            await self._health.set(service, status)
