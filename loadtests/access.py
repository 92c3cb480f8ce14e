"""How a load test reaches gateways: in plain text or by TLS, and with which key."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc

from gateway.identity.settings import own_api_key
from model_pool.settings import Section

Metadata = tuple[tuple[str, str], ...]
CALLER_KEY = "deltafleet-caller"
# What gRPC itself recommends for replicas behind one name: take turns, leave out whoever says that
# it does not serve, wait where none can be reached, and send again what none has begun to answer.
BALANCED: dict[str, Any] = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": "deltafleet.v1.InferenceService"},
}
RETRYING: dict[str, Any] = {
    "methodConfig": [
        {
            "name": [{"service": "deltafleet.v1.InferenceService"}],
            "waitForReady": True,
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


class Access(Section):
    """What a run's processes are told of it. The key is not among it: each has it from
    DELTAFLEET_API_KEY, so that no file of the run holds it.

    ca: PEM of the authority that signed the gateways' certificates; None: plain text. server_name:
    in the certificates, where it is not the address that is asked, as with several gateways.
    """

    ca: Path | None = None
    server_name: str | None = None

    def open_channel(self, addresses: Sequence[str], *, retries: bool = False) -> grpc.aio.Channel:
        """To one gateway, or to all of them in turn. Raises OSError where ca cannot be read."""
        config = (BALANCED if len(addresses) > 1 else {}) | (RETRYING if retries else {})
        target = addresses[0] if len(addresses) == 1 else f"ipv4:{','.join(addresses)}"
        options: list[tuple[str, Any]] = [
            ("grpc.service_config", json.dumps(config)),
            ("grpc.enable_retries", int(retries)),
            # A replica that is back is found within a second; gRPC's default is two minutes.
            ("grpc.max_reconnect_backoff_ms", 1000),
        ]
        if self.ca is None:
            return grpc.aio.insecure_channel(target, options=options)
        if self.server_name:
            options.append(("grpc.ssl_target_name_override", self.server_name))
        credentials = grpc.ssl_channel_credentials(self.ca.read_bytes())
        return grpc.aio.secure_channel(target, credentials, options=options)


def frame_of(caller: str = "") -> Metadata:
    """Metadata of a call. With a key it is the key's caller, and `caller` is not said: a gateway
    refuses another name than the key's, so that a scenario of several callers is one of one.
    """
    key = own_api_key()
    if key is not None:
        return (("authorization", f"Bearer {key.get_secret_value()}"),)
    return ((CALLER_KEY, caller),) if caller else ()
