"""Alembic runs this, in the transaction that `gateway/ledger_store/migrating.py` has begun."""

from __future__ import annotations

from alembic import context

from gateway.ledger_store.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    transactional_ddl=True,  # in SQLite too
)
with context.begin_transaction():
    context.run_migrations()
