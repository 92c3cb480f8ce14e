"""A database of any earlier shape → today's, by Alembic's revisions in `migrations/`."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from gateway.ledger_store.database import BadLedger, Database

FIRST_REVISION = "0001"
_LOCK_KEY = 0x64656C74  # any number, the same in every gateway
_ALEMBIC = threading.Lock()  # its context is one for the whole process


def migrate(database: Database) -> None:
    """Bring it to today's shape, in one transaction, or leave it as it was.

    Gateways that start together take turns: by an advisory lock in PostgreSQL, by the file's own
    write lock in SQLite. Raises BadLedger where a newer program has been there.
    """
    with database.begin() as connection:
        if not database.is_sqlite:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK_KEY)))
        found = _revision(database, connection)
        config = _config(connection)
        with _ALEMBIC:
            if found is None and sa.inspect(connection).has_table("requests"):
                command.stamp(config, FIRST_REVISION)  # made before there were revisions
            if found != _newest(config):
                command.upgrade(config, "head")


def check_current(database: Database) -> None:
    """Raises BadLedger where the shape is not today's; changes nothing."""
    with database.begin_read() as connection:
        found, newest = _revision(database, connection), _newest(_config(connection))
    if found != newest:
        raise BadLedger(
            f"{database.name}: its tables are of revision {found or 'none'}, not {newest}; "
            "a gateway of this version brings them there when it starts"
        )


def _revision(database: Database, connection: sa.Connection) -> str | None:
    found = MigrationContext.configure(connection).get_current_revision()
    known = {
        one.revision for one in ScriptDirectory.from_config(_config(connection)).walk_revisions()
    }
    if found is not None and found not in known:
        raise BadLedger(f"{database.name}: made by a newer version of deltafleet ({found})")
    return found


def _newest(config: Config) -> str:
    head = ScriptDirectory.from_config(config).get_current_head()
    assert head is not None, "there are revisions"
    return head


def _config(connection: sa.Connection) -> Config:
    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
