"""SIGKILL loses no acknowledged row and doubles none: a small campaign of `make kill-ledger`'s."""

from __future__ import annotations

import random
import uuid
from pathlib import Path

import sqlalchemy as sa

from benchmarks.ledger_kills import Campaign, look, run
from benchmarks.postgres_server import PostgresServer


def test_a_killed_gateway_loses_and_doubles_no_row_in_sqlite(tmp_path: Path) -> None:
    place = sa.URL.create("sqlite", database=str(tmp_path / "ledger.sqlite3"))
    campaign = Campaign("SQLite", place)
    run(campaign, 5, 0, random.Random(1))

    assert campaign.kill_count == 5
    assert len(campaign.acknowledged) > 20
    assert look(campaign).is_clean


def test_a_killed_gateway_or_server_loses_and_doubles_no_row_in_postgresql() -> None:
    server = PostgresServer()  # not the one of other tests, which would lose their connections
    try:
        server.start()
        campaign = Campaign("PostgreSQL", server.create(f"l-{uuid.uuid4().hex}"), server)
        run(campaign, 5, 2, random.Random(2))

        assert (campaign.kill_count, campaign.server_kill_count) == (5, 2)
        assert len(campaign.acknowledged) > 20
        assert look(campaign).is_clean
    finally:
        server.remove()


def test_the_campaign_sees_what_is_lost_doubled_or_altered(tmp_path: Path) -> None:
    place = sa.URL.create("sqlite", database=str(tmp_path / "ledger.sqlite3"))
    campaign = Campaign("SQLite", place)
    run(campaign, 1, 0, random.Random(3))
    engine = sa.create_engine(place)
    with engine.begin() as connection:
        for statement in (
            "DELETE FROM baseline_costs WHERE row = 2",
            "DELETE FROM requests WHERE row = 2",
            "UPDATE requests SET request_id = '0', row_id = 'other' WHERE row = 3",
            "UPDATE requests SET cost_nano_usd = -1 WHERE row = 4",
        ):
            connection.exec_driver_sql(statement)
    engine.dispose()

    found = look(campaign)
    assert (found.lost_count, found.doubled_count, found.strange_count) == (2, 1, 2)
    assert found.problems == ("rows with a number below 0: 1",)
