"""The gRPC door: one server, its services, health and reflection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from deltafleet.v1 import admin_pb2, cost_pb2, fleet_pb2, inference_pb2, routing_pb2
from gateway.caller import Admission
from gateway.settings import Server
from model_pool.grpc_server import Option, make_server
from model_pool.health_door import HealthDoor
from model_pool.pool import Pool
from model_pool.rpc import Door
from model_pool.settings import SettingsError
from model_pool.tls import CertificateFiles, server_credentials

SERVICES = (
    inference_pb2.DESCRIPTOR.services_by_name["InferenceService"],
    routing_pb2.DESCRIPTOR.services_by_name["RoutingService"],
    fleet_pb2.DESCRIPTOR.services_by_name["FleetService"],
    cost_pb2.DESCRIPTOR.services_by_name["CostService"],
    admin_pb2.DESCRIPTOR.services_by_name["AdminService"],
    health_pb2.DESCRIPTOR.services_by_name["Health"],
)

# Larger requests than so many times the limit are ended by gRPC, without a reason of ours: what is
# refused is in memory by then.
HARD_LIMIT_FACTOR = 4
LARGEST_METADATA_BYTES = 16 * 1024  # of a request: a key or token, and what traces carry along
HANDSHAKE_LIMIT_S = 10
# Whoever went away without a word is found by asking.
KEEPALIVE_S, KEEPALIVE_LIMIT_S = 60, 20
SHORTEST_PING_INTERVAL_S = 10  # clients that keep connections alive may; a flood is cut off
# Calls of all connections that came and were not looked at yet. gRPC's own 1,000 are not a second's
# burst, and what is beyond them has no reason of ours; at random from the first on, all from the
# second.
WAITING_COUNT, MOST_WAITING_COUNT = 4096, 8192
GRACE_S = 10  # beyond the longest deadline, when a connection has reached its age


def to_options(settings: Server) -> list[Option]:
    """What gRPC itself holds callers to (pure); its names are in grpc/impl/channel_arg_names.h."""
    return [
        ("grpc.so_reuseport", 0),  # a second gateway on the same port is a mistake
        ("grpc.max_receive_message_length", HARD_LIMIT_FACTOR * settings.max_message_bytes),
        # Both the same: between them, gRPC would refuse at random.
        ("grpc.max_metadata_size", LARGEST_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", LARGEST_METADATA_BYTES),
        ("grpc.max_concurrent_streams", settings.stream_limit),
        # Counts calls that have ended and are not yet freed, too: a caller with as many as it may
        # have would be refused its next ones without a reason of ours. What it is against, calls
        # begun and reset as fast as one can, is bounded by those that wait.
        ("grpc.http.overload_protection", 0),
        ("grpc.server.max_pending_requests", WAITING_COUNT),
        ("grpc.server.max_pending_requests_hard_limit", MOST_WAITING_COUNT),
        ("grpc.max_allowed_incoming_connections", settings.connection_limit),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_LIMIT_S * 1000),
        ("grpc.max_connection_idle_ms", round(settings.idle_limit_s * 1000)),
        # gRPC spreads it by a tenth either way, so that not all connections end at once.
        ("grpc.max_connection_age_ms", round(settings.connection_age_s * 1000)),
        (
            "grpc.max_connection_age_grace_ms",
            round((settings.default_deadline_s + GRACE_S) * 1000),
        ),
        ("grpc.keepalive_time_ms", KEEPALIVE_S * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_LIMIT_S * 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", SHORTEST_PING_INTERVAL_S * 1000),
    ]


class GrpcDoor:
    """What callers reach. Services are added to `server`, then `start` opens it."""

    def __init__(
        self, settings: Server, admit: Admission, on_call_end: Callable[..., None]
    ) -> None:
        """admit: finds out who calls. It and on_call_end: see model_pool.rpc.Door."""
        self._settings = settings
        self._health = health.aio.HealthServicer()
        self._probes: HealthDoor | None = None
        self._frame = Door(
            max_message_bytes=settings.max_message_bytes,
            default_deadline_s=settings.default_deadline_s,
            receive_limit_s=settings.receive_limit_s,
            on_begin=admit,
            on_end=on_call_end,
        )
        self.server = make_server(
            interceptors=[self._frame],
            options=to_options(settings),
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
            port = self._add_port(listen)
        except RuntimeError as error:
            raise SettingsError(f"server.listen: cannot listen on {listen}: {error}") from None
        self._probes = self._open_probes()
        await self._say(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self.server.start()
        if self._probes:
            await self._probes.start()
        if listen.startswith("unix:"):
            return listen
        return f"{listen.rpartition(':')[0]}:{port}"

    def _add_port(self, listen: str) -> int:
        tls = self._settings.tls
        if tls is None:
            return self.server.add_insecure_port(listen)
        files = CertificateFiles(tls.certificate, tls.key, tls.client_ca)
        return self.server.add_secure_port(listen, server_credentials(files))

    def _open_probes(self) -> HealthDoor | None:
        listen = self._settings.health_listen
        try:
            return HealthDoor(self._health, listen) if listen else None
        except RuntimeError as error:
            text = f"server.health_listen: cannot listen on {listen}: {error}"
            raise SettingsError(text) from None

    def change(self, settings: Server) -> None:
        """Other limits from now on; the addresses stay."""
        self._settings = settings
        self._frame.limit(settings.max_message_bytes, settings.default_deadline_s)

    async def stop(self) -> None:
        """Not serving at once; calls that run have drain_limit_s to end."""
        await self._health.enter_graceful_shutdown()
        await self.server.stop(self._settings.drain_limit_s)
        if self._probes:
            await self._probes.stop()

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
