"""Requests, or daily sums → a CSV or Parquet file: in pages, from one moment of the database.

A request's baselines are one column: JSON in CSV, a map in Parquet.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from gateway.ledger_store.database import Database
from gateway.ledger_store.rows import DIMENSIONS
from gateway.ledger_store.summing import read_sums, within
from gateway.ledger_store.tables import BASELINE_COSTS, COUNTS, REQUESTS

PAGE_ROW_COUNT = 2_000
Record = dict[str, Any]
Page = list[Record]
BASELINES = "baselines_nano_usd"
REQUEST_COLUMNS = (*(one.name for one in REQUESTS.columns if one.name != "row"), BASELINES)
DAILY_COLUMNS = ("day", "model", "task", "caller", *COUNTS, BASELINES)
_TEXTS = {"day"} | {one.name for one in REQUESTS.columns if isinstance(one.type, sa.Text)}


class NoParquet(Exception):
    """pyarrow, which writes Parquet, is not installed."""


def export(
    database: Database, out: Path, start: datetime | None, end: datetime | None, *, daily: bool
) -> int:
    """Write what finished in [start, end); how many records. Raises NoParquet, ValueError, OSError.

    out: .csv or .parquet; it is whole or not there. daily: sums by day, model, task and caller, of
    folded requests too; otherwise one record for each request that is not folded.
    """
    columns = DAILY_COLUMNS if daily else REQUEST_COLUMNS
    writer_of = _writer_of(out)
    count = 0
    aside = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        with writer_of(aside, columns) as write:
            pages = _daily(database, start, end) if daily else _requests(database, start, end)
            for page in pages:
                write(page)
                count += len(page)
        aside.replace(out)
    finally:
        aside.unlink(missing_ok=True)
    return count


Writer = Callable[[Page], object]


def _writer_of(out: Path) -> Callable[[Path, Sequence[str]], AbstractContextManager[Writer]]:
    if out.suffix == ".csv":
        return _csv
    if out.suffix != ".parquet":
        raise ValueError(f"{out.name}: a name that ends with .csv or .parquet")
    try:
        import pyarrow.parquet  # noqa: F401 - is it there?
    except ImportError:
        raise NoParquet(
            "Parquet needs pyarrow: pip install 'deltafleet[parquet]', or export to .csv"
        ) from None
    return _parquet


def _requests(database: Database, start: datetime | None, end: datetime | None) -> Iterator[Page]:
    last = -1
    rows = sa.select(REQUESTS).where(within(start, end)).order_by(REQUESTS.c.row)
    with database.begin_read() as connection:
        while (
            found := connection.execute(rows.where(REQUESTS.c.row > last).limit(PAGE_ROW_COUNT))
            .mappings()
            .all()
        ):
            first, last = found[0]["row"], found[-1]["row"]
            costs = _baselines(connection, first, last)
            yield [{**row, BASELINES: costs.get(row["row"], {})} for row in found]


def _baselines(connection: sa.Connection, first: int, last: int) -> dict[int, dict[str, int]]:
    costs: dict[int, dict[str, int]] = {}
    table = BASELINE_COSTS
    for row in connection.execute(
        sa.select(table).where(table.c.row.between(first, last)).order_by(table.c.baseline)
    ):
        costs.setdefault(row.row, {})[row.baseline] = row.cost_nano_usd
    return costs


def _daily(database: Database, start: datetime | None, end: datetime | None) -> Iterator[Page]:
    by = ("day", *(name for name in DIMENSIONS if name != "day"))
    yield [
        {**sums.key, **{name: getattr(sums, name) for name in COUNTS}, BASELINES: sums.baselines}
        for sums in read_sums(database, start, end, by)
    ]


@contextmanager
def _csv(path: Path, columns: Sequence[str]) -> Iterator[Writer]:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()

        def write(page: Page) -> None:
            writer.writerows(
                {**record, BASELINES: json.dumps(record[BASELINES], ensure_ascii=False)}
                for record in page
            )

        yield write


@contextmanager
def _parquet(path: Path, columns: Sequence[str]) -> Iterator[Writer]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    costs = pa.map_(pa.string(), pa.int64())
    schema = pa.schema(
        [
            (name, costs if name == BASELINES else pa.string() if name in _TEXTS else pa.int64())
            for name in columns
        ]
    )
    with pq.ParquetWriter(path, schema) as writer:

        def write(page: Page) -> None:
            records = [{**one, BASELINES: list(one[BASELINES].items())} for one in page]
            writer.write_table(pa.Table.from_pylist(records, schema))

        yield write
