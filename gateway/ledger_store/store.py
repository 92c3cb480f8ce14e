"""Finished requests and workers' lives in SQLite: durable when `append` returns.

One thread writes; rows that arrive while it commits go into the next transaction together, so that
the disk is synced once for many. Write-ahead log, synchronous=FULL: a committed row survives a
crash of the process and of the machine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")
_metadata = sa.MetaData()

REQUESTS = sa.Table(
    "requests",
    _metadata,
    sa.Column("row", sa.Integer, primary_key=True),
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
)
BASELINE_COSTS = sa.Table(
    "baseline_costs",
    _metadata,
    sa.Column("row", sa.Integer, sa.ForeignKey("requests.row"), primary_key=True),
    sa.Column("baseline", sa.Text, primary_key=True),
    sa.Column("cost_nano_usd", sa.BigInteger, nullable=False),
)
WORKER_LIVES = sa.Table(
    "worker_lives",
    _metadata,
    sa.Column("incarnation", sa.Text, primary_key=True),
    sa.Column("worker", sa.Text, nullable=False),
    sa.Column("started_at_us", sa.BigInteger, nullable=False),
    sa.Column("uptime_s", sa.Float, nullable=False),
    sa.Column("busy_s", sa.Float, nullable=False),
    sa.Column("load_s", sa.Float, nullable=False),
    sa.Column("price_nano_usd_per_hour", sa.BigInteger, nullable=False),
)


@dataclass(frozen=True, slots=True)
class RequestRow:
    """One finished request. Never its prompt. baselines: name → nano-dollars."""

    request_id: str
    finished_at_us: int
    model: str
    task: str
    reason: str
    outcome: str
    worker: str
    weights_digest: str
    prompt_token_count: int
    output_token_count: int
    busy_us: int
    first_token_us: int | None
    total_us: int
    cost_nano_usd: int
    baselines: dict[str, int]


@dataclass(frozen=True, slots=True)
class WorkerLife:
    """One worker process from its start to its last word."""

    incarnation: str
    worker: str
    started_at_us: int
    uptime_s: float
    busy_s: float
    load_s: float
    price_nano_usd_per_hour: int


@dataclass(frozen=True, slots=True)
class ModelSums:
    """Sums over one model's rows. baselines: over the answered ones."""

    model: str
    request_count: int
    answered_count: int
    prompt_token_count: int
    output_token_count: int
    cost_nano_usd: int
    baselines: dict[str, int]


class LedgerStore:
    """The ledger's file. `open` it first, `close` it last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._waiting: list[tuple[RequestRow, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Create what is missing. Raises OSError or sqlalchemy.exc.SQLAlchemyError."""
        await self._in_thread(self._open)

    async def close(self) -> None:
        """Write what waits, then close."""
        if self._task:
            await asyncio.gather(self._task, return_exceptions=True)
        await self._in_thread(self._engine.dispose)
        self._writer.shutdown()

    async def append(self, row: RequestRow) -> None:
        """Write one row; durable when this returns. Cancelling the caller does not undo it."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((row, written))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write_all(), name="write ledger")
        await asyncio.shield(written)

    async def record_life(self, life: WorkerLife) -> None:
        """Keep a worker's last word on itself."""
        await self._in_thread(self._upsert_life, life)

    async def sums(self, start: datetime | None, end: datetime | None) -> list[ModelSums]:
        """Sums per model over the rows that finished in [start, end), by name."""
        return await self._in_thread(self._sums, start, end)

    async def lives(self) -> list[WorkerLife]:
        """Every worker's lives, the latest first."""
        return await self._in_thread(self._lives)

    async def _in_thread(
        self, work: Callable[[*Arguments], Result], *arguments: *Arguments
    ) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._writer, work, *arguments)

    async def _write_all(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                await self._in_thread(self._insert, [row for row, _ in batch])
            except Exception as error:
                for _, written in batch:
                    written.set_exception(error)
                    written.exception()  # retrieved: its caller may have gone
            else:
                for _, written in batch:
                    written.set_result(None)

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._engine = sa.create_engine(f"sqlite:///{self._path}")
        sa.event.listen(self._engine, "connect", _set_pragmas)
        _metadata.create_all(self._engine)

    def _insert(self, rows: Sequence[RequestRow]) -> None:
        with self._engine.begin() as connection:
            for row in rows:
                values = asdict(row)
                baselines = values.pop("baselines")
                key = connection.execute(sa.insert(REQUESTS).values(**values)).lastrowid
                if baselines:
                    connection.execute(
                        sa.insert(BASELINE_COSTS),
                        [
                            {"row": key, "baseline": name, "cost_nano_usd": cost}
                            for name, cost in baselines.items()
                        ],
                    )

    def _upsert_life(self, life: WorkerLife) -> None:
        values = asdict(life)
        statement = insert(WORKER_LIVES).values(**values)
        statement = statement.on_conflict_do_update(index_elements=["incarnation"], set_=values)
        with self._engine.begin() as connection:
            connection.execute(statement)

    def _sums(self, start: datetime | None, end: datetime | None) -> list[ModelSums]:
        when: list[sa.ColumnElement[bool]] = [sa.true()]
        if start:
            when.append(REQUESTS.c.finished_at_us >= int(start.timestamp() * 1e6))
        if end:
            when.append(REQUESTS.c.finished_at_us < int(end.timestamp() * 1e6))
        is_answered = REQUESTS.c.outcome == "answered"
        columns = ("prompt_token_count", "output_token_count", "cost_nano_usd")
        per_model = (
            sa.select(
                REQUESTS.c.model,
                sa.func.count(),
                sa.func.sum(sa.case((is_answered, 1), else_=0)),
                *(sa.func.sum(REQUESTS.c[column]) for column in columns),
            )
            .where(*when)
            .group_by(REQUESTS.c.model)
            .order_by(REQUESTS.c.model)
        )
        per_baseline = (
            sa.select(
                REQUESTS.c.model,
                BASELINE_COSTS.c.baseline,
                sa.func.sum(BASELINE_COSTS.c.cost_nano_usd),
            )
            .join(BASELINE_COSTS, BASELINE_COSTS.c.row == REQUESTS.c.row)
            .where(*when, is_answered)
            .group_by(REQUESTS.c.model, BASELINE_COSTS.c.baseline)
        )
        with self._engine.begin() as connection:
            baselines: dict[str, dict[str, int]] = {}
            for model, baseline, cost in connection.execute(per_baseline):
                baselines.setdefault(model, {})[baseline] = cost
            rows = connection.execute(per_model).all()
        return [
            ModelSums(
                model=model,
                request_count=requests,
                answered_count=answered,
                prompt_token_count=prompt_tokens,
                output_token_count=output_tokens,
                cost_nano_usd=cost,
                baselines=baselines.get(model, {}),
            )
            for model, requests, answered, prompt_tokens, output_tokens, cost in rows
        ]

    def _lives(self) -> list[WorkerLife]:
        statement = sa.select(
            *(WORKER_LIVES.c[name] for name in WorkerLife.__dataclass_fields__)
        ).order_by(WORKER_LIVES.c.started_at_us.desc())
        with self._engine.begin() as connection:
            return [WorkerLife(*row) for row in connection.execute(statement)]


def _set_pragmas(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
