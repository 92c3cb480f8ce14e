"""Databases for the ledger: a new SQLite file, and a new database of one real PostgreSQL."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from benchmarks.postgres_server import PostgresServer


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server for all tests, which each take a database of their own."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> sa.URL:
    """A new, empty database of each kind."""
    if request.param == "sqlite":
        return sa.URL.create("sqlite", database=str(tmp_path / "ledger.sqlite3"))
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.create(f"ledger-{uuid.uuid4().hex[:12]}")


@pytest.fixture
def ask(place: sa.URL) -> Iterator[Callable[[str], list[tuple[object, ...]]]]:
    """Runs a statement there, past the ledger, and gives what it found."""
    engine = sa.create_engine(place)

    def run(statement: str) -> list[tuple[object, ...]]:
        with engine.begin() as connection:
            found = connection.exec_driver_sql(statement)
            return [tuple(row) for row in found] if found.returns_rows else []

    yield run
    engine.dispose()
