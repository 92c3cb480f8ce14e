"""The newest shape of the tables. `migrations/` brings older databases to it."""

from __future__ import annotations

import sqlalchemy as sa

METADATA = sa.MetaData()
DAY_US = 86_400_000_000
# SQLite numbers rows by itself only where the key is an INTEGER.
ROW_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")

REQUESTS = sa.Table(
    "requests",
    METADATA,
    sa.Column("row", ROW_KEY, primary_key=True),
    sa.Column("request_id", sa.Text, nullable=False, index=True),
    sa.Column("finished_at_us", sa.BigInteger, nullable=False, index=True),  # since the epoch, UTC
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("task", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("worker", sa.Text, nullable=False),
    sa.Column("weights_digest", sa.Text, nullable=False),
    sa.Column("prompt_token_count", sa.BigInteger, nullable=False),
    sa.Column("output_token_count", sa.BigInteger, nullable=False),
    sa.Column("busy_us", sa.BigInteger, nullable=False),
    sa.Column("first_token_us", sa.BigInteger, nullable=True),
    sa.Column("total_us", sa.BigInteger, nullable=False),
    sa.Column("cost_nano_usd", sa.BigInteger, nullable=False),
    sa.Column("caller", sa.Text, nullable=False, server_default=""),
    sa.Column("trace_id", sa.Text, nullable=False, server_default=""),
    sa.Column("row_id", sa.Text, nullable=False, server_default="", index=True, unique=True),
)
BASELINE_COSTS = sa.Table(
    "baseline_costs",
    METADATA,
    sa.Column("row", ROW_KEY, sa.ForeignKey("requests.row"), primary_key=True),
    sa.Column("baseline", sa.Text, primary_key=True),
    sa.Column("cost_nano_usd", sa.BigInteger, nullable=False),
)
WORKER_LIVES = sa.Table(
    "worker_lives",
    METADATA,
    sa.Column("incarnation", sa.Text, primary_key=True),
    sa.Column("worker", sa.Text, nullable=False),
    sa.Column("started_at_us", sa.BigInteger, nullable=False),
    sa.Column("uptime_us", sa.BigInteger, nullable=False),
    sa.Column("busy_us", sa.BigInteger, nullable=False),
    sa.Column("load_us", sa.BigInteger, nullable=False),
    sa.Column("switch_us", sa.BigInteger, nullable=False),
    sa.Column("price_nano_usd_per_hour", sa.BigInteger, nullable=False),
)
# What is left of requests that were folded; day: since 1970-01-01.
DAILY_SUMS = sa.Table(
    "daily_sums",
    METADATA,
    sa.Column("day", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("task", sa.Text, primary_key=True),
    sa.Column("caller", sa.Text, primary_key=True),
    sa.Column("request_count", sa.BigInteger, nullable=False),
    sa.Column("answered_count", sa.BigInteger, nullable=False),
    sa.Column("prompt_token_count", sa.BigInteger, nullable=False),
    sa.Column("output_token_count", sa.BigInteger, nullable=False),
    sa.Column("busy_us", sa.BigInteger, nullable=False),
    sa.Column("cost_nano_usd", sa.BigInteger, nullable=False),
    sa.Column("answered_cost_nano_usd", sa.BigInteger, nullable=False),
)
DAILY_BASELINE_COSTS = sa.Table(
    "daily_baseline_costs",
    METADATA,
    sa.Column("day", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("task", sa.Text, primary_key=True),
    sa.Column("caller", sa.Text, primary_key=True),
    sa.Column("baseline", sa.Text, primary_key=True),
    sa.Column("cost_nano_usd", sa.BigInteger, nullable=False),
)
COUNTS = tuple(column.name for column in DAILY_SUMS.columns if not column.primary_key)
# A literal: PostgreSQL takes two parameters of one value for two expressions, and so refuses to
# group by what it selects.
FINISHED_DAY = REQUESTS.c.finished_at_us // sa.literal_column(str(DAY_US), sa.BigInteger)
IS_ANSWERED = REQUESTS.c.outcome == sa.literal_column("'answered'", sa.Text)


def count_columns() -> list[sa.ColumnElement[int]]:
    """The columns that COUNTS names, over REQUESTS."""
    cost = REQUESTS.c.cost_nano_usd
    return [
        sa.func.count().label("request_count"),
        sa.func.sum(sa.case((IS_ANSWERED, 1), else_=0)).label("answered_count"),
        sa.func.sum(REQUESTS.c.prompt_token_count).label("prompt_token_count"),
        sa.func.sum(REQUESTS.c.output_token_count).label("output_token_count"),
        sa.func.sum(REQUESTS.c.busy_us).label("busy_us"),
        sa.func.sum(cost).label("cost_nano_usd"),
        sa.func.sum(sa.case((IS_ANSWERED, cost), else_=0)).label("answered_cost_nano_usd"),
    ]
