"""Kill what keeps the ledger, many times, and look for what was lost or doubled.

    python -m benchmarks.ledger_kills [--kills 100] [--server-kills 20]

A child process appends rows as the gateway does and says which are acknowledged. It is killed with
SIGKILL at random moments, also while it opens the database, and started again on the same database;
then it appends again what it was not told the end of, as a retry would. Writes gateway/LEDGER.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path

import click
import sqlalchemy as sa

from benchmarks.figures import table
from benchmarks.machine import facts
from benchmarks.postgres_server import REPO, PostgresServer
from gateway.ledger_store import LedgerStore, RequestRow
from gateway.ledger_store.checking import check
from gateway.ledger_store.database import Database
from gateway.ledger_store.migrating import migrate

PAGE = REPO / "gateway" / "LEDGER.md"
WRITER_COUNT = 8
LONGEST_LIFE_S = 0.5  # of a child after its ledger is open
EARLY_SHARE = 0.2  # of children that are killed while they open it
START_S = 1.0  # about how long a child takes until its ledger is open
START_LIMIT_S = 60.0
BASELINES = ("cheap", "dear")

TEMPLATE = """# The ledger under kill -9

Written whole by

```
make kill-ledger
```

A child process appends rows as the gateway does, {writers} at a time, and is killed with SIGKILL at
random moments, also while it opens the database. The next one, on the same database, first appends
again what nobody was told the end of. A server that is killed is PostgreSQL's first process: it is
started again, and the child goes on by itself, until it is killed too. In the end every row that
was tried must be there once, with the content that was written. Processes are killed, not
machines: what a disk loses with its power is not tried here.

{results}

## Machine

{machine}
"""


@dataclass
class Campaign:
    """What was done and seen on one database."""

    name: str
    url: sa.URL
    server: PostgresServer | None = None
    kill_count: int = 0
    server_kill_count: int = 0
    again_count: int = 0  # rows that were appended a second time
    tried: set[int] = field(default_factory=set)
    acknowledged: set[int] = field(default_factory=set)
    is_open: threading.Event = field(default_factory=threading.Event)

    def hear(self, line: str) -> None:
        """Take one line of a child into account; half a line says nothing."""
        if not line.endswith("\n"):
            return
        word, _, number = line.strip().partition(" ")
        if word == "open":
            self.is_open.set()
        elif word == "try":
            self.again_count += int(number) in self.tried
            self.tried.add(int(number))
        elif word == "kept":
            self.acknowledged.add(int(number))


@dataclass(frozen=True)
class Outcome:
    """What is in the database in the end. strange: rows whose content is not what was written."""

    row_count: int
    lost_count: int
    doubled_count: int
    strange_count: int
    problems: tuple[str, ...]

    @property
    def is_clean(self) -> bool:
        """Nothing is wrong."""
        return not (self.lost_count or self.doubled_count or self.strange_count or self.problems)


def row_of(number: int) -> RequestRow:
    """The row of this number: the same whoever makes it."""
    return RequestRow(
        request_id=str(number),
        finished_at_us=1_700_000_000_000_000 + number,
        model=f"model-{number % 3}",
        task="task",
        reason="task",
        outcome="answered",
        worker="worker",
        weights_digest="digest",
        prompt_token_count=number,
        output_token_count=2 * number,
        busy_us=number,
        first_token_us=None,
        total_us=number,
        cost_nano_usd=3 * number,
        baselines=dict.fromkeys(BASELINES, 5 * number),
        row_id=str(uuid.uuid5(uuid.NAMESPACE_OID, str(number))),
    )


async def child(url: sa.URL, again: list[int], first: int, *, ends: bool) -> None:
    """Append `again`, then rows from `first` on: for ever, or, where it ends, no others."""
    store = LedgerStore(url, retry_s=60)
    await store.open()
    click.echo("open")
    numbers: Iterator[int] = iter(again) if ends else chain(again, count(first))

    async def write() -> None:
        for number in numbers:
            click.echo(f"try {number}")
            await store.append(row_of(number))
            click.echo(f"kept {number}")

    await asyncio.gather(*(write() for _ in range(WRITER_COUNT)))
    await store.close()


def run(campaign: Campaign, kill_count: int, server_kill_count: int, chance: random.Random) -> None:
    """Kill children, some of them after their database's server; let a last one finish."""
    rounds = ["child"] * (kill_count - server_kill_count) + ["server"] * server_kill_count
    chance.shuffle(rounds)
    for what in rounds:
        _round(campaign, lambda process, what=what: _kill(campaign, process, what, chance))  # type: ignore[misc]
    _round(campaign, lambda process: None, ends=True)


def _round(
    campaign: Campaign, end: Callable[[subprocess.Popen[str]], None], *, ends: bool = False
) -> None:
    again = sorted(campaign.tried - campaign.acknowledged)
    campaign.is_open.clear()
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.ledger_kills", "--child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPO,
    )
    assert process.stdin and process.stdout
    task = {
        "url": campaign.url.render_as_string(hide_password=False),
        "again": again,
        "first": max(campaign.tried, default=-1) + 1,
        "ends": ends,
    }
    process.stdin.write(json.dumps(task))
    process.stdin.close()
    killing = threading.Thread(target=end, args=(process,))
    killing.start()
    for line in process.stdout:
        campaign.hear(line)
    killing.join()
    process.stdout.close()
    if process.wait() != 0 and ends:
        raise RuntimeError("the last child failed; its error is above")


def _kill(
    campaign: Campaign, process: subprocess.Popen[str], what: str, chance: random.Random
) -> None:
    if chance.random() < EARLY_SHARE:
        time.sleep(chance.uniform(0, START_S))
    else:
        campaign.is_open.wait(START_LIMIT_S)
        time.sleep(chance.uniform(0, LONGEST_LIFE_S))
    if what == "server" and campaign.server:
        campaign.server.kill()
        campaign.server_kill_count += 1
        campaign.server.start()
        time.sleep(chance.uniform(0, 2 * LONGEST_LIFE_S))  # the child goes on, perhaps
    if process.poll() is not None:
        raise RuntimeError("a child ended by itself; its error is above")
    process.kill()
    campaign.kill_count += 1


def look(campaign: Campaign) -> Outcome:
    """Compare the database with what its writers were told."""
    database = Database(campaign.url)
    migrate(database)
    with database.begin_read() as connection:
        rows = connection.exec_driver_sql(
            "SELECT r.request_id, r.row_id, r.cost_nano_usd,"
            " (SELECT count(*) FROM baseline_costs b WHERE b.row = r.row"
            "  AND b.cost_nano_usd = 5 * r.prompt_token_count) FROM requests r"
        ).all()
    found = Counter(int(row[0]) for row in rows)
    problems = check(database).problems
    database.dispose()
    return Outcome(
        row_count=len(rows),
        lost_count=len((campaign.acknowledged | campaign.tried) - set(found)),
        doubled_count=sum(times - 1 for times in found.values()),
        strange_count=sum(not _is_as_written(*row) for row in rows),
        problems=problems,
    )


def _is_as_written(request_id: str, row_id: str, cost_nano_usd: int, baseline_count: int) -> bool:
    row = row_of(int(request_id))
    return (row_id, cost_nano_usd) == (row.row_id, row.cost_nano_usd) and baseline_count == len(
        BASELINES
    )


def page(results: list[tuple[Campaign, Outcome]]) -> str:
    """The page: a table for the campaigns, one for the machine."""
    head = (
        *("database", "children killed", "servers killed", "rows acknowledged", "appended again"),
        *("rows there", "lost", "doubled", "altered", "problems found by a check"),
    )
    rows = []
    for campaign, outcome in results:
        figures = (
            *(campaign.kill_count, campaign.server_kill_count, len(campaign.acknowledged)),
            *(campaign.again_count, outcome.row_count, outcome.lost_count),
            *(outcome.doubled_count, outcome.strange_count, len(outcome.problems)),
        )
        rows.append((campaign.name, *(f"{figure:,}" for figure in figures)))
    here = facts(["sqlalchemy", "psycopg"]) | {"SQLite": sqlite3.sqlite_version}
    return TEMPLATE.format(
        writers=WRITER_COUNT, results=table(head, rows), machine=table(("part", ""), here.items())
    )


def main() -> None:
    """Both databases, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--server-kills", type=int, default=20, help="of PostgreSQL, among them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        task = json.load(sys.stdin)
        url = sa.make_url(task["url"])
        asyncio.run(child(url, task["again"], task["first"], ends=task["ends"]))
        return
    chance = random.Random(options.seed)
    server = PostgresServer()
    with tempfile.TemporaryDirectory() as directory:
        sqlite = sa.URL.create("sqlite", database=str(Path(directory) / "ledger.sqlite3"))
        campaigns = [Campaign("SQLite", sqlite)]
        try:
            server.start()
            campaigns.append(Campaign("PostgreSQL", server.create("ledger"), server))
            results = []
            for campaign in campaigns:
                servers = options.server_kills if campaign.server else 0
                run(campaign, options.kills, servers, chance)
                results.append((campaign, look(campaign)))
        finally:
            server.remove()
    text = page(results)
    click.echo(text)
    PAGE.write_text(text, encoding="utf-8")
    if not all(outcome.is_clean for _, outcome in results):
        raise SystemExit("rows were lost, doubled or altered")


if __name__ == "__main__":
    main()
