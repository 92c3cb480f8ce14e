"""Whose a request was, its trace, and a name for its row that makes a second write harmless."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
_NEW_ID = {"sqlite": "lower(hex(randomblob(16)))", "postgresql": "gen_random_uuid()::text"}


def upgrade() -> None:
    """Add the columns; rows that are there get names of their own."""
    for column in ("caller", "trace_id", "row_id"):
        op.add_column("requests", sa.Column(column, sa.Text, nullable=False, server_default=""))
    op.execute(f"UPDATE requests SET row_id = {_NEW_ID[op.get_bind().dialect.name]}")
    op.create_index("ix_requests_row_id", "requests", ["row_id"], unique=True)
