"""What a ledger says was paid is what its workers cost, whatever became of them and of requests."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.cost_report import Window, make_report
from gateway.ledger_store import LedgerStore, WorkerLife
from gateway.life_costs import life_costs
from gateway.pricing import US_PER_HOUR, span_cost_nano_usd
from support.ledger_rows import row

TIMES_US = st.integers(0, 5 * 10**9)
WHICH = st.integers(0, 99)
MODELS = st.sampled_from(["sql", "chat", "base"])
# So that a microsecond is a whole number of nano-dollars, and every sum exact.
PRICES = st.integers(0, 30).map(lambda nano_usd_per_us: nano_usd_per_us * US_PER_HOUR)


class LedgerMachine(RuleBasedStateMachine):
    """Workers start, compute, load, switch, idle, are killed; requests end in any way."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.store = LedgerStore(Path(self.folder.name) / "ledger.sqlite3")
        self.runner.run(self.store.open())
        self.lives: list[WorkerLife] = []
        self.up: list[int] = []  # places in lives
        self.row_count = 0

    @rule(price=PRICES, started_at_us=st.integers(0, 10**12))
    def a_worker_starts(self, price: int, started_at_us: int) -> None:
        number = len(self.lives)
        self.up.append(number)
        self.lives.append(
            WorkerLife(f"i-{number}", f"w-{number % 3}", started_at_us, 0, 0, 0, 0, price)
        )

    @precondition(lambda self: self.up)
    @rule(
        which=WHICH,
        shares_us=st.lists(st.tuples(MODELS, TIMES_US), min_size=1, max_size=5),
        outcome=st.sampled_from(["answered", "cancelled", "failed", "expired"]),
    )
    def it_computes(self, which: int, shares_us: list[tuple[str, int]], outcome: str) -> None:
        self._spend(which, "busy_us", sum(share_us for _, share_us in shares_us))
        price = self.lives[self.up[which % len(self.up)]].price_nano_usd_per_hour
        for model, share_us in shares_us:
            cost = span_cost_nano_usd(share_us, price)
            made = row(self.row_count, model=model, outcome=outcome, cost_nano_usd=cost)
            self.row_count += 1
            self.runner.run(self.store.append(replace(made, busy_us=share_us)))

    @precondition(lambda self: self.up)
    @rule(which=WHICH, kind=st.sampled_from(["load_us", "switch_us", "idle"]), took_us=TIMES_US)
    def it_computes_nothing(self, which: int, kind: str, took_us: int) -> None:
        self._spend(which, kind, took_us)

    @precondition(lambda self: self.up)
    @rule(which=WHICH)
    def it_is_killed(self, which: int) -> None:
        self.up.pop(which % len(self.up))

    def _spend(self, which: int, kind: str, took_us: int) -> None:
        place = self.up[which % len(self.up)]
        life = self.lives[place]
        life = replace(life, uptime_us=life.uptime_us + took_us)
        if kind != "idle":
            life = replace(life, **{kind: getattr(life, kind) + took_us})
        self.lives[place] = life
        self.runner.run(self.store.record_life(life))

    @invariant()
    def what_was_paid_is_what_workers_cost(self) -> None:
        lives = self.runner.run(self.store.lives())
        sums = self.runner.run(self.store.sums(None, None, ("model",)))
        report = make_report(sums, lives, Window())
        uptime = sum(one.uptime_us * one.price_nano_usd_per_hour // US_PER_HOUR for one in lives)
        total, overhead = report.total, report.total.overhead

        assert total.effective_cost_nano_usd == uptime
        assert uptime == (
            total.cost_nano_usd
            + overhead.loading_nano_usd
            + overhead.switching_nano_usd
            + overhead.idle_nano_usd
        )
        borne = sum(one.effective_cost_nano_usd for one in report.groups)
        assert borne + report.unallotted_nano_usd == uptime
        assert total.cost_nano_usd == sum(life_costs(one).busy_nano_usd for one in lives)

    def teardown(self) -> None:
        """Close the ledger."""
        self.runner.run(self.store.close())
        self.runner.close()
        self.folder.cleanup()


LedgerMachine.TestCase.settings = settings(deadline=None, max_examples=20, stateful_step_count=25)
TestLedgerMachine = LedgerMachine.TestCase
