"""All that is made of one reading of fleet.yaml."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from gateway.closed_apis.apis import ClosedApis
from gateway.configuration.named_files import NamedFiles
from gateway.identity.models import AllowedModels
from gateway.in_use import InUse
from gateway.price_list import PricedBaseline
from gateway.router import Target
from gateway.routing.opening import Opened
from gateway.settings import Settings
from gateway.walk import Walk


@dataclass(frozen=True, slots=True)
class Configured:
    """A configuration and what goes by it. loaded: when, in UTC.

    content: names what the files hold that it names; digest: that and the settings; SHA-256 in hex.

    targets, descriptions: of every model, by name. allowed_models: says which may answer a caller.
    opened: the router. in_use: by requests that walk. close: ends what it opened.
    """

    settings: Settings
    files: NamedFiles
    content: str
    digest: str
    loaded: datetime
    targets: Mapping[str, Target]
    descriptions: Mapping[str, str]
    allowed_models: AllowedModels
    opened: Opened
    closed_apis: ClosedApis
    walk: Walk
    in_use: InUse
    close: Callable[[], Awaitable[None]]

    @property
    def baselines(self) -> Mapping[str, PricedBaseline]:
        """By name."""
        return self.files.baselines
