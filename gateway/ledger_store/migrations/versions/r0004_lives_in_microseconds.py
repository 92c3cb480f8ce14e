"""Workers' seconds as whole microseconds, and those of switching apart from those of loading."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
_SECONDS = ("uptime_s", "busy_s", "load_s")
_TIMES = ("uptime_us", "busy_us", "load_us", "switch_us")


def upgrade() -> None:
    """Make the table anew: SQLite cannot change the type of a column.

    Loading beside computing used to count twice; what is more than the uptime leaves is dropped
    from loading, for it was paid by the requests. Switching was told as loading, and stays there.
    """
    op.execute("CREATE TEMPORARY TABLE former_lives AS SELECT * FROM worker_lives")
    op.drop_table("worker_lives")
    op.create_table(
        "worker_lives",
        sa.Column("incarnation", sa.Text, primary_key=True),
        sa.Column("worker", sa.Text, nullable=False),
        sa.Column("started_at_us", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in _TIMES),
        sa.Column("price_nano_usd_per_hour", sa.BigInteger, nullable=False),
    )
    up, busy, load = (f"CAST(round({name} * 1000000) AS BIGINT)" for name in _SECONDS)
    busy = f"CASE WHEN {busy} < {up} THEN {busy} ELSE {up} END"
    left = f"{up} - {busy}"
    load = f"CASE WHEN {load} < {left} THEN {load} ELSE {left} END"
    op.execute(
        "INSERT INTO worker_lives "
        f"SELECT incarnation, worker, started_at_us, {up}, {busy}, {load}, 0, "
        "price_nano_usd_per_hour FROM former_lives"
    )
    op.execute("DROP TABLE former_lives")
