"""Requests, what closed APIs would have charged for them, and workers' lives."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make the tables as they were before there were revisions."""
    texts = ("model", "task", "reason", "outcome", "worker", "weights_digest")
    op.create_table(
        "requests",
        sa.Column("row", _KEY, primary_key=True),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("finished_at_us", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in texts),
        sa.Column("prompt_token_count", sa.BigInteger, nullable=False),
        sa.Column("output_token_count", sa.BigInteger, nullable=False),
        sa.Column("busy_us", sa.BigInteger, nullable=False),
        sa.Column("first_token_us", sa.BigInteger, nullable=True),
        sa.Column("total_us", sa.BigInteger, nullable=False),
        sa.Column("cost_nano_usd", sa.BigInteger, nullable=False),
    )
    for column in ("request_id", "finished_at_us"):
        op.create_index(f"ix_requests_{column}", "requests", [column])
    op.create_table(
        "baseline_costs",
        sa.Column("row", _KEY, sa.ForeignKey("requests.row"), primary_key=True),
        sa.Column("baseline", sa.Text, primary_key=True),
        sa.Column("cost_nano_usd", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "worker_lives",
        sa.Column("incarnation", sa.Text, primary_key=True),
        sa.Column("worker", sa.Text, nullable=False),
        sa.Column("started_at_us", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.Float, nullable=False) for name in ("uptime_s", "busy_s", "load_s")),
        sa.Column("price_nano_usd_per_hour", sa.BigInteger, nullable=False),
    )
