"""Which settings change live: the table, and what it refuses."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from gateway.configuration.live_settings import FIXED, LIVE, restart_needed
from gateway.settings import Settings
from model_pool import catalog_reloader
from model_pool.settings import WorkerGroup


@pytest.mark.parametrize("place", [*LIVE, *FIXED, *catalog_reloader.LIVE])
def test_every_place_of_the_table_is_a_setting(place: str) -> None:
    section: type[BaseModel] = Settings
    for step in place.split("."):
        if step == "*":  # of the groups: the only names within a place of the table
            section = WorkerGroup
            continue
        field = section.model_fields[step]
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        section = next(
            (one for one in kinds if isinstance(one, type) and issubclass(one, BaseModel)), section
        )


@pytest.mark.parametrize(
    "place",
    [
        *("specialists.sql.delta", "base.quality", "routing.feedback.exploration"),
        *("routing.escalation.to", "pool.discovery.small.models", "pool.workers.a.address"),
        *("server.default_deadline_s", "closed_apis.mini.daily_budget_usd"),
    ],
)
def test_what_is_live(place: str) -> None:
    assert not restart_needed([place])


@pytest.mark.parametrize(
    ("place", "who"),
    [
        ("server.listen", "the gateway"),
        ("ledger.path", "the gateway"),
        ("routing.feedback.path", "the gateway"),
        ("base.path", "the gateway and its workers"),
        ("pool.hardware.usd_per_hour", "the gateway and its workers"),
        ("pool.discovery.small.dns", "the gateway and its workers"),
        ("a_section_that_somebody_adds.key", "the gateway"),
    ],
)
def test_what_needs_a_restart_and_of_whom(place: str, who: str) -> None:
    told = restart_needed(["routing.min_quality", place])
    assert told == f"{place}: changed only by a restart of {who}"
