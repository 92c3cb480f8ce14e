"""All that is made of one reading of fleet.yaml."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from gateway.closed_apis.apis import ClosedApis
from gateway.configuration.named_files import NamedFiles
from gateway.encoder import BatchedEncoder
from gateway.in_use import InUse
from gateway.price_list import PricedBaseline
from gateway.router import Target
from gateway.routing.opening import Opened
from gateway.settings import Settings
from gateway.walk import Walk


@dataclass(frozen=True, slots=True)
class Configured:
    """A configuration and what goes by it. digest: SHA-256 in hex.

    targets, descriptions: of every model, by name. opened: the router; encoder: its full one.
    in_use: by requests that walk. close: ends what it opened.
    """

    settings: Settings
    files: NamedFiles
    digest: str
    targets: Mapping[str, Target]
    descriptions: Mapping[str, str]
    opened: Opened
    encoder: BatchedEncoder
    closed_apis: ClosedApis
    walk: Walk
    in_use: InUse
    close: Callable[[], Awaitable[None]]

    @property
    def baselines(self) -> Mapping[str, PricedBaseline]:
        """By name."""
        return self.files.baselines
