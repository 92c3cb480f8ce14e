"""The files that fleet.yaml names, read together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.confidence import Curve
from gateway.fleet_files import load_curve, load_examples, load_quality, load_router
from gateway.price_list import PricedBaseline, PriceList, load_prices, priced_baselines
from gateway.routing.fitted import Fitted
from gateway.routing.quality.model import QualityModel
from gateway.settings import Settings


@dataclass(frozen=True, slots=True)
class NamedFiles:
    """What they say. examples: by task, none where there is a fitted router."""

    prices: PriceList
    baselines: Mapping[str, PricedBaseline]
    examples: Mapping[str, tuple[str, ...]]
    fitted: Fitted | None
    quality: QualityModel | None
    curve: Curve


def read_named_files(settings: Settings) -> NamedFiles:
    """Read all of them. Blocking. Raises SettingsError."""
    prices = load_prices(settings)
    return NamedFiles(
        prices=prices,
        baselines=priced_baselines(settings, prices),
        examples=load_examples(settings),
        fitted=load_router(settings),
        quality=load_quality(settings),
        curve=load_curve(settings),
    )
