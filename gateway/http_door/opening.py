"""The HTTP door of one gateway, from its settings and parts."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from gateway.configuration.current import Current
from gateway.http_door.application import make_app
from gateway.http_door.completions import Completions
from gateway.http_door.frame import AdmitHttp, OnHttpEnd, Rules
from gateway.http_door.models import Embeddings, Models
from gateway.http_door.server import HttpDoor
from gateway.http_door.tls import server_context
from gateway.settings import Server
from gateway.walk import Walker
from model_pool.tls import CertificateFiles

log = logging.getLogger("gateway")


async def open_http_door(
    listen: str,
    settings: Server,
    walk: Walker,
    current: Current,
    *,
    admit: AdmitHttp,
    on_end: OnHttpEnd,
    is_ready: Callable[[], bool],
) -> HttpDoor:
    """Serve until the door is stopped. Raises SettingsError where the address cannot be.

    is_ready: whether a worker is.
    """
    tls = settings.tls
    files = CertificateFiles(tls.certificate, tls.key, tls.client_ca) if tls else None
    door = HttpDoor(listen, settings.drain_limit_s, server_context(files) if files else None)
    app = make_app(
        Rules(settings.max_message_bytes, settings.default_deadline_s, admit, on_end),
        Completions(walk),
        Models(lambda: current.now.descriptions, int(time.time())),
        Embeddings(current.encoder),
        lambda: door.is_open and is_ready(),
    )
    await door.start(app)
    log.info("http_listening", extra={"address": door.address})
    return door
