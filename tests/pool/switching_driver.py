"""A driver of the switching policy as small as can be, in simulated time."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field

from model_pool.switching import (
    Action,
    Policy,
    Priority,
    Queue,
    Running,
    Slice,
    Waiting,
    decide,
    queue_of,
    slice_of,
)

TICK_S = 1e-9
COST_S = 0.1


@dataclass(eq=False)
class Ask:
    """One request. left_s: the seconds of being live that it still needs."""

    model: str
    arrival_s: float
    left_s: float
    priority: Priority = Priority.STANDARD
    loss_s: float = 0.0
    since_s: float = math.nan


@dataclass
class Engine:
    """A driver as small as can be: everything that runs gets on at the same speed.

    It checks at each step what must always hold, and remembers every turn.
    """

    policy: Policy
    cost_s: float = COST_S
    now_s: float = 0.0
    live: str | None = None
    live_since_s: float = -math.inf
    peak: float = 0.0
    draining_since_s: float | None = None
    drains: bool = False
    running: list[Ask] = field(default_factory=list)
    waiting: dict[str, list[Ask]] = field(default_factory=lambda: defaultdict(list))
    left_s: dict[str, float] = field(default_factory=dict)
    turns: list[tuple[str, float, float]] = field(default_factory=list)  # model, from, waited
    most_waiting: int = 0

    def queues(self) -> list[Queue]:
        return [
            queue_of(
                model,
                [Waiting(one.since_s, one.priority, one.left_s) for one in asks],
                self.policy,
                switch_cost_s=self.cost_s,
                left_s=self.left_s.get(model, -math.inf),
            )
            for model, asks in self.waiting.items()
            if asks
        ]

    def slice(self) -> Slice:
        now = slice_of(
            self.live,
            [Running(one.loss_s, one.priority) for one in self.running],
            self.policy,
            since_s=self.live_since_s,
            switch_cost_s=self.cost_s if self.live else 0.0,
            peak_weight=self.peak,
            draining_since_s=self.draining_since_s,
        )
        self.peak = now.peak_weight
        return now

    def serve(self, asks: list[Ask], until_s: float = math.inf) -> None:
        coming = sorted(asks, key=lambda one: one.arrival_s, reverse=True)
        while (coming or self.running or any(self.waiting.values())) and self.now_s < until_s:
            while coming and coming[-1].arrival_s <= self.now_s:
                self.put(coming.pop())
            decide_at_s = self.act()
            next_s = min(coming[-1].arrival_s if coming else math.inf, decide_at_s, until_s)
            self.advance(next_s)

    def put(self, ask: Ask) -> None:
        ask.since_s = max(ask.arrival_s, ask.since_s) if ask.since_s == ask.since_s else self.now_s
        self.waiting[ask.model].append(ask)

    def act(self) -> float:
        queues = self.queues()
        rivals = [one.model for one in queues if one.model != self.live]
        self.most_waiting = max(self.most_waiting, len(rivals))
        decision = decide(self.now_s, self.slice(), queues, self.policy)
        if rivals and not self.running:
            assert decision.action is not Action.DRAIN
        if decision.action is Action.SWITCH:
            assert decision.model in rivals, "switches only to a model with work"
            self.switch(decision.model)
            return self.now_s
        if decision.action is Action.STAY:
            self.submit()
        elif self.draining_since_s is None:
            self.draining_since_s = self.now_s
        assert self.running or not queues, "never idle while anything waits"
        assert decision.decide_at_s > self.now_s
        return decision.decide_at_s

    def submit(self) -> None:
        asks = self.waiting[self.live] if self.live else []
        while asks and len(self.running) < self.policy.batch_limit_count:
            self.running.append(asks.pop(0))

    def switch(self, model: str) -> None:
        since_s = next(one.since_s for one in self.queues() if one.model == model)
        for one in self.running:
            one.since_s = self.now_s
            self.waiting[one.model].append(one)
        self.running.clear()
        if self.live:
            self.left_s[self.live] = self.now_s
        self.now_s += self.cost_s
        self.live, self.live_since_s, self.peak = model, self.now_s, 0.0
        self.draining_since_s = None
        self.turns.append((model, self.now_s, self.now_s - since_s))

    def advance(self, next_s: float) -> None:
        ends_s = self.now_s + min([one.left_s for one in self.running], default=math.inf)
        step_s = max(TICK_S, min(next_s, ends_s) - self.now_s)
        assert step_s < math.inf
        self.now_s += step_s
        for one in self.running:
            one.left_s -= step_s
        self.running = [one for one in self.running if one.left_s > TICK_S]


def backlog(models: int, seconds: float) -> list[Ask]:
    return [Ask(f"m{index}", 0.0, seconds) for index in range(models)]
