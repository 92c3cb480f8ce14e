"""Opinions in SQLite: durable when `write` returns. Never a prompt, but its embedding."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

import numpy as np
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from gateway.routing.feedback import Answered, Opinion

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")
_metadata = sa.MetaData()

OPINIONS = sa.Table(
    "opinions",
    _metadata,
    sa.Column("row", sa.Integer, primary_key=True),  # grows with age
    sa.Column("request_id", sa.Text, nullable=False, unique=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("task", sa.Text, nullable=False),
    sa.Column("score", sa.Float, nullable=False),
    sa.Column("embedding", sa.LargeBinary, nullable=True),  # float16, little-endian
    sa.Column("caller", sa.Text, nullable=False, server_default=""),
)


ADD_CALLER = "ALTER TABLE opinions ADD COLUMN caller TEXT NOT NULL DEFAULT ''"


class FeedbackStore:
    """The file of opinions, of which it keeps the newest. `open` it first, `close` it last."""

    def __init__(self, path: Path, capacity: int) -> None:
        self._path = path
        self._capacity = capacity
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="feedback")

    async def open(self) -> None:
        """Create what is missing. Raises OSError or sqlalchemy.exc.SQLAlchemyError."""
        await self._in_thread(self._open)

    async def close(self) -> None:
        """After what was asked of it before."""
        await self._in_thread(self._engine.dispose)
        self._thread.shutdown()

    async def write(self, opinion: Opinion) -> None:
        """Durable when this returns. Replaces an earlier opinion on the same request."""
        await asyncio.shield(self._in_thread(self._write, opinion))

    async def read(self) -> list[Opinion]:
        """All that it keeps, the oldest first."""
        return await self._in_thread(self._read)

    async def _in_thread(
        self, work: Callable[[*Arguments], Result], *arguments: *Arguments
    ) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._engine = sa.create_engine(f"sqlite:///{self._path}")
        sa.event.listen(self._engine, "connect", _set_pragmas)
        _metadata.create_all(self._engine)
        with self._engine.begin() as connection:
            columns = sa.inspect(connection).get_columns("opinions")
            if "caller" not in [one["name"] for one in columns]:
                connection.execute(sa.text(ADD_CALLER))  # the file is from before there were any

    def _write(self, opinion: Opinion) -> None:
        answered = opinion.answered
        values = {
            "model": answered.model,
            "task": answered.task,
            "score": opinion.score,
            "caller": answered.caller,
            "embedding": None if answered.row is None else answered.row.astype("<f2").tobytes(),
        }
        statement = insert(OPINIONS).values(request_id=opinion.request_id, **values)
        statement = statement.on_conflict_do_update(index_elements=["request_id"], set_=values)
        newest = sa.select(OPINIONS.c.row).order_by(OPINIONS.c.row.desc())
        first_to_leave = newest.limit(1).offset(self._capacity).scalar_subquery()
        with self._engine.begin() as connection:
            connection.execute(statement)
            connection.execute(sa.delete(OPINIONS).where(OPINIONS.c.row <= first_to_leave))

    def _read(self) -> list[Opinion]:
        statement = sa.select(OPINIONS).order_by(OPINIONS.c.row.desc()).limit(self._capacity)
        with self._engine.begin() as connection:
            found = connection.execute(statement).all()
        return [
            Opinion(
                one.request_id,
                Answered(one.model, one.task, _row(one.embedding), one.caller),
                one.score,
            )
            for one in reversed(found)
        ]


def _row(embedding: bytes | None) -> np.ndarray[Any, np.dtype[np.float16]] | None:
    return None if embedding is None else np.frombuffer(embedding, "<f2").astype(np.float16)


def _set_pragmas(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
