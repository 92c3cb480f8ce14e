"""What is kept of requests that are older than the ledger keeps."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
_TEXTS = ("model", "task", "caller")
_COUNTS = (
    "request_count",
    "answered_count",
    "prompt_token_count",
    "output_token_count",
    "busy_us",
    "cost_nano_usd",
    "answered_cost_nano_usd",
)


def upgrade() -> None:
    """Make the tables of sums."""
    op.create_table(
        "daily_sums",
        sa.Column("day", sa.BigInteger, primary_key=True, autoincrement=False),
        *(sa.Column(name, sa.Text, primary_key=True) for name in _TEXTS),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in _COUNTS),
    )
    op.create_table(
        "daily_baseline_costs",
        sa.Column("day", sa.BigInteger, primary_key=True, autoincrement=False),
        *(sa.Column(name, sa.Text, primary_key=True) for name in (*_TEXTS, "baseline")),
        sa.Column("cost_nano_usd", sa.BigInteger, nullable=False),
    )
