"""The metrics port of one gateway, from its settings and parts."""

from __future__ import annotations

import contextlib
import logging

from prometheus_client import CollectorRegistry, disable_created_metrics

from gateway.page.server import MetricsPort, make_app
from gateway.page.state import PageState, Sources
from gateway.settings import Settings
from model_pool.settings import SettingsError

log = logging.getLogger("gateway")


def open_metrics_port(
    stack: contextlib.AsyncExitStack,
    settings: Settings,
    registry: CollectorRegistry,
    sources: Sources,
) -> str:
    """Serve /metrics and the page until the stack unwinds; returns host:port.

    Raises SettingsError where that address is taken.
    """
    # A second series for each counter, which nobody reads.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    address = settings.server.metrics
    try:
        port = MetricsPort(address)
    except (OSError, ValueError, OverflowError) as error:
        raise SettingsError(f"server.metrics: cannot listen on {address}: {error}") from None
    stack.push_async_callback(port.stop)
    port.start(make_app(registry, PageState(sources)))
    log.info("metrics_listening", extra={"address": port.address})
    return port.address
