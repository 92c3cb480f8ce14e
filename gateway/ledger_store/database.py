"""One database, SQLite or PostgreSQL: how it is reached, and what makes it durable.

SQLite: write-ahead log, synchronous=FULL: a committed row survives a crash of the process and of
the machine. PostgreSQL: a server that would not promise the same is refused.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from gateway.errors import LedgerUnavailable

Result = TypeVar("Result")
BUSY_LIMIT_S = 30  # another process's transaction in SQLite; a fold's is the longest
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0


class BadLedger(Exception):
    """The database is not one that this program can keep its ledger in; the text says why."""


class Database:
    """Connections that write, and connections that only read. `dispose` it last.

    url: sqlite or postgresql. Connects to nothing before it is asked to.
    """

    def __init__(self, url: sa.URL) -> None:
        self.url = url
        self.is_sqlite = url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self._writing = _sqlite_engine(url, "writing")
            self._reading = _sqlite_engine(url, "reading")
        else:
            self._writing = _postgres_engine(url)
            self._reading = _postgres_engine(url, isolation_level="REPEATABLE READ")
            self._reading = self._reading.execution_options(postgresql_readonly=True)

    @property
    def name(self) -> str:
        """For people: without a password."""
        return str(self.url.database) if self.is_sqlite else self.url.render_as_string()

    @property
    def file(self) -> Path | None:
        """The file that it is, if it is one."""
        return Path(str(self.url.database)) if self.is_sqlite else None

    def begin(self) -> contextlib.AbstractContextManager[sa.Connection]:
        """One transaction that may write; committed where the block ends well."""
        return self._writing.begin()

    @contextlib.contextmanager
    def begin_fold(self) -> Iterator[sa.Connection]:
        """A transaction that sees one moment, alone among those that fold; appends go on."""
        with self._writing.connect() as connection:
            if not self.is_sqlite:
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                if not self.is_sqlite:
                    # Before the first query, which fixes the moment that is seen.
                    connection.exec_driver_sql("LOCK TABLE daily_sums IN SHARE ROW EXCLUSIVE MODE")
                yield connection

    def begin_read(self) -> contextlib.AbstractContextManager[sa.Connection]:
        """One transaction that sees one moment, and neither writes nor holds up who does."""
        return self._reading.begin()

    def check_durable(self) -> None:
        """Raises BadLedger where a commit of this server may be lost."""
        if self.is_sqlite:
            return
        with self.begin_read() as connection:
            if connection.exec_driver_sql("SHOW fsync").scalar() != "on":
                raise BadLedger(f"{self.name}: its fsync is off, so that a crash loses commits")

    def dispose(self) -> None:
        """Close every connection."""
        self._reading.dispose()
        self._writing.dispose()


def insert_into(connection: sa.Connection, table: sa.Table) -> Any:
    """An INSERT that takes ON CONFLICT; typed Any since the two dialects' classes share no base."""
    if connection.dialect.name == "sqlite":
        from sqlalchemy.dialects.sqlite import insert
    else:
        from sqlalchemy.dialects.postgresql import insert  # type: ignore[assignment]
    return insert(table)


def retried(work: Callable[[], Result], until_s: float) -> Result:
    """Do the work, again where the database was lost or busy, while time is left.

    work: safe to do twice. until_s: of time.monotonic(); one attempt is always made. Raises
    LedgerUnavailable, and at once whatever waiting does not help.
    """
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return work()
        except DBAPIError as error:
            lost = isinstance(error, OperationalError | InterfaceError)
            if not (lost or error.connection_invalidated):
                raise
            if time.monotonic() + pause_s > until_s:
                raise LedgerUnavailable(
                    "the ledger's database does not answer", retry_after_s=1
                ) from error
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _sqlite_engine(url: sa.URL, purpose: Literal["writing", "reading"]) -> sa.Engine:
    engine = sa.create_engine(url, hide_parameters=True)
    pragmas = [f"busy_timeout={BUSY_LIMIT_S * 1000}", "foreign_keys=ON", "synchronous=FULL"]
    pragmas.append("journal_mode=WAL" if purpose == "writing" else "query_only=ON")
    # Taken at once: a transaction that begins to write later cannot wait for its turn.
    begin = "BEGIN IMMEDIATE" if purpose == "writing" else "BEGIN"

    def prepare(connection: Any, _: object) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}").close()

    sa.event.listen(engine, "connect", prepare)
    sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    return engine


def _postgres_engine(url: sa.URL, **options: Any) -> sa.Engine:
    reaching = {
        "connect_timeout": 5,  # seconds
        "tcp_user_timeout": 10_000,  # milliseconds until a silent server is given up
        "keepalives_idle": 10,
        "application_name": "deltafleet",
    }
    engine = sa.create_engine(
        url,
        hide_parameters=True,
        pool_size=2,
        max_overflow=2,
        connect_args={key: one for key, one in reaching.items() if key not in url.query},
        **options,
    )

    def prepare(connection: Any, _: object) -> None:
        # A server, role or database may say "off"; "remote_apply" and the like may stay.
        connection.execute(
            "SELECT set_config('synchronous_commit', 'on', false)"
            " WHERE current_setting('synchronous_commit') = 'off'"
        )
        connection.commit()

    sa.event.listen(engine, "connect", prepare)
    return engine
