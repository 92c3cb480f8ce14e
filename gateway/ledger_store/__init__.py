"""The ledger's database: finished requests, workers' lives, daily sums; SQLite or PostgreSQL."""

from gateway.ledger_store.database import BadLedger
from gateway.ledger_store.rows import RequestRow, Sums, WorkerLife
from gateway.ledger_store.store import LedgerStore

__all__ = ["BadLedger", "LedgerStore", "RequestRow", "Sums", "WorkerLife"]
