"""One simulated engine that holds one model's weights at a time and batches continuously."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from model_pool.switching import Action, Decision, Policy, Queue, Slice, Waiting, queue_of
from simulations.accelerator import Accelerator
from simulations.traffic import Request

# A request that comes back computes its last block of the prefix cache again, at least.
BLOCK_TOKEN_COUNT = 16

Decide = Callable[[float, Slice, Sequence[Queue], Policy], Decision]


@dataclass(frozen=True, slots=True)
class Switching:
    """How an engine changes models. cost_s: for the weights alone.

    keeps_cache: keys and values of other models survive a switch, as far as there is room.
    """

    cost_s: float
    decide: Decide
    policy: Policy
    keeps_cache: bool = True


@dataclass(slots=True)
class Record:
    """What happened. Seconds and tokens after the warm-up, except waits and requests.

    waits: per switch, how long the model had waited and how many models were waiting.
    """

    requests: list[Request]
    duration_s: float
    warmup_s: float
    output_token_count: int = 0
    switch_count: int = 0
    switch_s: float = 0.0
    recompute_s: float = 0.0
    idle_s: float = 0.0
    waits: list[tuple[float, int]] = field(default_factory=list)
    worst_switch_cost_s: float = 0.0


@dataclass(slots=True)
class _Cache:
    """Keys and values of preempted requests, the oldest given up first."""

    room_token_count: int
    held: OrderedDict[int, tuple[Request, int]] = field(default_factory=OrderedDict)

    def keep(self, request: Request, token_count: int) -> None:
        self.held[id(request)] = (request, token_count)
        self.room_token_count -= token_count

    def take(self, request: Request) -> int:
        """Tokens that need not be computed again."""
        _, token_count = self.held.pop(id(request), (request, 0))
        self.room_token_count += token_count
        return token_count

    def give_up(self) -> list[tuple[Request, int]]:
        """Drop until nothing is beyond the room; what was dropped."""
        dropped = []
        while self.room_token_count < 0 and self.held:
            _, entry = self.held.popitem(last=False)
            self.room_token_count += entry[1]
            dropped.append(entry)
        return dropped


class SimulatedEngine:
    """Serves open-loop traffic, deciding whenever a request arrives or ends."""

    def __init__(self, accelerator: Accelerator, switching: Switching) -> None:
        self._speed = accelerator
        self._switching = switching
        self._now_s = 0.0
        self._step_count = 0
        self._live = Slice()
        self._peak = 0.0
        self._peak_reserved_count = 0
        self._decide_at_s = math.inf
        self._is_draining = False
        self._ties = itertools.count()
        self._decoding: list[tuple[int, int, Request]] = []  # a heap by the step of the last token
        self._prefilling: list[tuple[Request, int]] = []  # and prompt tokens to go
        self._queues: dict[str, list[tuple[float, int, Request]]] = defaultdict(list)
        self._sums: dict[str, Queue] = {}
        self._changed: set[str] = set()
        self._left_s: dict[str, float] = {}
        self._lost: dict[str, int] = defaultdict(int)  # tokens to compute again, per model
        self._cache = _Cache(accelerator.cache_token_count)

    def run(self, requests: Sequence[Request], duration_s: float, warmup_s: float) -> Record:
        """Serve what arrives until the end; what is unfinished then stays unfinished."""
        self._record = Record(list(requests), duration_s, warmup_s)
        self._coming = iter(requests)
        self._arriving = next(self._coming, None)
        while self._now_s < duration_s:
            if self._take_arrivals() or self._now_s >= self._decide_at_s:
                self._act()
            self._admit()
            if self._decoding or self._prefilling:
                self._step()
            else:
                self._rest()
        return self._record

    # What happens between steps

    def _take_arrivals(self) -> bool:
        before = self._arriving
        while self._arriving is not None and self._arriving.arrival_s <= self._now_s:
            self._put_back(self._arriving)
            self._arriving = next(self._coming, None)
        return self._arriving is not before

    def _put_back(self, request: Request) -> None:
        entry = (request.arrival_s, next(self._ties), request)
        heapq.heappush(self._queues[request.model], entry)
        self._changed.add(request.model)

    def _rest(self) -> None:
        arrival_s = self._arriving.arrival_s if self._arriving else math.inf
        until_s = min(arrival_s, self._decide_at_s, self._record.duration_s)
        self._record.idle_s += self._counted_s(until_s - self._now_s)
        self._now_s = until_s

    def _counted_s(self, seconds: float) -> float:
        return seconds if self._now_s >= self._record.warmup_s else 0.0

    def _act(self) -> None:
        decision = self._switching.decide(
            self._now_s, self._slice(), self._waiting(), self._switching.policy
        )
        self._decide_at_s = decision.decide_at_s
        self._is_draining = decision.action is Action.DRAIN
        if self._is_draining and self._live.draining_since_s is None:
            self._live = _with(self._live, draining_since_s=self._now_s)
        if decision.action is Action.SWITCH and decision.model is not None:
            self._switch(decision.model)

    def _slice(self) -> Slice:
        """What runs, and what preempting it would push out of the cache."""
        running = [one for _, _, one in self._decoding] + [one for one, _ in self._prefilling]
        weights = self._switching.policy.weights
        weight = sum([weights[one.priority] for one in running])
        self._peak = max(self._peak, weight)
        return _with(
            self._live,
            running_count=len(running),
            weight=weight,
            peak_weight=self._peak,
            loss_s=self._loss_s(running),
        )

    def _loss_s(self, running: Sequence[Request]) -> float:
        """What the next batch, as large as this one was, would push out of the cache."""
        computed_count = sum([one.prompt_count for one in running])
        computed_count += sum([one.output_count for one in running]) // 2
        reserved_count = sum([one.prompt_count + one.output_count for one in running])
        self._peak_reserved_count = max(self._peak_reserved_count, reserved_count)
        room_count = 0
        if self._switching.keeps_cache:
            free_count = self._cache.room_token_count + reserved_count
            room_count = max(0, free_count - self._peak_reserved_count)
        lost_count = max(0, computed_count - room_count) + BLOCK_TOKEN_COUNT * len(running)
        return lost_count / self._speed.prefill_token_rate

    def _waiting(self) -> list[Queue]:
        for model in self._changed:
            requests = self._queues[model]
            if not requests:
                self._sums.pop(model, None)
                continue
            self._sums[model] = queue_of(
                model,
                [Waiting(one.waiting_since_s, one.priority) for _, _, one in requests],
                self._switching.policy,
                switch_cost_s=self._switch_cost_s(model),
                left_s=self._left_s.get(model, -math.inf),
            )
        self._changed.clear()
        return list(self._sums.values())

    def _switch_cost_s(self, model: str) -> float:
        return self._switching.cost_s

    # What a switch does

    def _switch(self, model: str) -> None:
        self._note_switch(model)
        self._preempt()
        if self._live.model is not None:
            self._left_s[self._live.model] = self._now_s
            self._changed.add(self._live.model)
        self._now_s += self._switching.cost_s
        self._peak = 0.0
        self._peak_reserved_count = 0
        self._live = Slice(model, self._now_s, self._switch_cost_s(model))
        self._take_arrivals()
        self._decide_at_s = self._now_s  # what happened meanwhile may matter

    def _note_switch(self, model: str) -> None:
        waited_s = self._now_s + self._switching.cost_s - self._sums[model].since_s
        self._record.waits.append((waited_s, len(self._sums)))
        cost_s = self._switch_cost_s(model)
        self._record.worst_switch_cost_s = max(self._record.worst_switch_cost_s, cost_s)
        if self._now_s >= self._record.warmup_s:
            self._record.switch_count += 1
            self._record.switch_s += self._switching.cost_s

    def _preempt(self) -> None:
        for end_step, _, request in self._decoding:
            request.done_count = request.output_count - (end_step - self._step_count)
            self._return(request, request.token_count)
        for request, left_count in self._prefilling:
            if request.waiting_since_s > request.arrival_s:  # was charged and did not come to it
                self._record.recompute_s -= self._counted_s(
                    left_count / self._speed.prefill_token_rate
                )
            self._return(request, request.token_count - left_count)
        self._decoding.clear()
        self._prefilling.clear()
        self._give_up()

    def _return(self, request: Request, computed_count: int) -> None:
        self._cache.room_token_count += request.prompt_count + request.output_count
        request.waiting_since_s = self._now_s
        self._lost[request.model] += BLOCK_TOKEN_COUNT
        if self._switching.keeps_cache:
            self._cache.keep(request, computed_count)
        else:
            self._lost[request.model] += computed_count
        self._put_back(request)

    def _give_up(self) -> None:
        for request, token_count in self._cache.give_up():
            self._lost[request.model] += token_count
            self._changed.add(request.model)

    # What a step does

    def _admit(self) -> None:
        """Give the engine what waits for the live model, as far as there are places and room."""
        if self._is_draining or self._live.model is None:
            return
        queue = self._queues[self._live.model]
        while queue and self._has_place(queue[0][2]):
            request = heapq.heappop(queue)[2]
            self._changed.add(request.model)
            self._submit(request)

    def _has_place(self, request: Request) -> bool:
        running = len(self._decoding) + len(self._prefilling)
        reserved = sum([one[1] for one in self._cache.held.values()])
        room = self._cache.room_token_count + reserved
        is_free = request.prompt_count + request.output_count <= room
        return running < self._speed.batch_limit_count and is_free

    def _submit(self, request: Request) -> None:
        kept_count = self._cache.take(request)
        self._cache.room_token_count -= request.prompt_count + request.output_count
        self._give_up()
        again_count = max(BLOCK_TOKEN_COUNT, request.token_count - kept_count)
        if math.isnan(request.admitted_s):
            request.admitted_s = self._now_s
            again_count = request.prompt_count
        else:
            self._lost[request.model] -= again_count
            seconds = again_count / self._speed.prefill_token_rate
            self._record.recompute_s += self._counted_s(seconds)
        self._prefilling.append((request, again_count))

    def _step(self) -> None:
        """One step with prefill, or as many without as nothing happens in."""
        step_s = self._speed.decode_s(len(self._decoding))
        count = 1
        if self._prefilling:
            step_s += self._prefill() / self._speed.prefill_token_rate
        else:
            count = self._quiet_step_count(step_s)
        if self._now_s >= self._record.warmup_s:
            self._record.output_token_count += count * len(self._decoding)
        self._now_s += count * step_s
        self._step_count += count
        self._begin_decoding()
        self._finish()

    def _quiet_step_count(self, step_s: float) -> int:
        arrival_s = self._arriving.arrival_s if self._arriving else math.inf
        until_s = min(arrival_s, self._decide_at_s, self._record.duration_s)
        steps = math.ceil((until_s - self._now_s) / step_s)
        return max(1, min(steps, self._decoding[0][0] - self._step_count))

    def _prefill(self) -> int:
        """Prompt tokens of this step, the oldest request's first."""
        budget = self._speed.prefill_limit_count
        for index, (request, left_count) in enumerate(self._prefilling):
            taken_count = min(budget, left_count)
            self._prefilling[index] = (request, left_count - taken_count)
            budget -= taken_count
            if not budget:
                break
        return self._speed.prefill_limit_count - budget

    def _begin_decoding(self) -> None:
        """Whose prompt is computed has its next token."""
        while self._prefilling and not self._prefilling[0][1]:
            request, _ = self._prefilling.pop(0)
            if math.isnan(request.first_token_s):
                request.first_token_s = self._now_s
            if self._now_s >= self._record.warmup_s:
                self._record.output_token_count += 1
            end_step = self._step_count + request.output_count - request.done_count - 1
            heapq.heappush(self._decoding, (end_step, next(self._ties), request))

    def _finish(self) -> None:
        ended = False
        while self._decoding and self._decoding[0][0] <= self._step_count:
            request = heapq.heappop(self._decoding)[2]
            request.done_count = request.output_count
            request.finished_s = self._now_s
            self._cache.room_token_count += request.prompt_count + request.output_count
            ended = True
        if ended:
            self._decide_at_s = min(self._decide_at_s, self._now_s)


def _with(
    live: Slice,
    *,
    running_count: int = 0,
    weight: float = 0.0,
    peak_weight: float = 0.0,
    loss_s: float = 0.0,
    draining_since_s: float | None = None,
) -> Slice:
    return Slice(
        live.model,
        live.since_s,
        live.switch_cost_s,
        running_count,
        weight,
        peak_weight,
        loss_s,
        0,
        live.draining_since_s if draining_since_s is None else draining_since_s,
    )
