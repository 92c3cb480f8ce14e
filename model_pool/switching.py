"""Whose weights are live next on an engine that holds one set of them. Pure.

The policy:

1. A live model without work gives way at once: the engine never idles while anything waits.
2. With work, it keeps its slice for at least k times what the switch to it cost.
3. Then it gives way to a model that is *due*; or, once its batch has thinned, to a fuller one.
4. A waiting request is due after its patience: max_wait_s less one rotation of all that wait,
   divided by its priority's weight; earlier if its deadline asks for it.
5. Due models go first, the earliest due time first. None due: the fullest batch goes first.
6. Waiting counts from the arrival, the preemption or the end of the model's last slice, and nobody
   is due before that: so no model goes twice ahead of one that is due.
7. Fullness is requests times priority weight, up to the batch's limit: more gains nothing.
8. To leave is to preempt: abort, and submit prompt and tokens so far again in the next slice. Where
   the cache would lose them, a slice first lasts k times as long as computing them again would. For
   a due model it drains meanwhile, that is, takes no new requests, and for drain_s at most.
9. A request that cannot be preempted is always drained; nor can one that has not yet got on in
   this slice, whose prompt is being read: so every slice brings every request forward.

No answer ever sees two models: a switch happens only when nothing runs. The order within one model
is the engine's (vLLM: by priority, then arrival).

What follows, and is tested. *Wait*: a model with work is live within `wait_bound_s`. Proof: at
max_wait_s at the latest it is due, and stays so; the slice in progress ends after its minimum and a
drain; each model that is waiting at that moment may go first once, with a minimum slice and a
drain, for afterwards its wait counts from a time later than the first one's due time; whoever
begins to wait later is due later. *Cost*: while every slice has work, switches take at most
1 / (1 + k) of the time. A rotation is counted without drains, so that max_wait_s itself holds only
where there are few of them.

Where it comes from: turns of a minimum length are deficit round robin (Shreedhar and Varghese 1995)
with time for bytes; serving the fullest queue is max-weight scheduling (Tassiulas and Ephremides
1992); sharing an accelerator between models in turns shorter than a request is Aegaeon's (SOSP
2025), batching requests by delta, and preempting those that passed others in the queue, DeltaZip's
(arXiv:2312.05215); why sharing pays for bursty traffic is in AlpaServe (arXiv:2302.11665). Virtual
token counters (arXiv:2401.00588) keep clients of one batch fair; here a turn is one model's alone,
so equal turns are equal shares and nothing has to be counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum


class Priority(IntEnum):
    """How long a request may be made to wait, and how much it counts."""

    INTERACTIVE = 0
    STANDARD = 1
    BATCH = 2


@dataclass(frozen=True, slots=True)
class Policy:
    """The bounds within which models take turns. Seconds.

    max_wait_s: a request's specialist is to be live within this time; `wait_bound_s` says what
    holds always. amortisation: k, above 0: a slice lasts at least k times its switch. thin: the
    share of its largest batch at which a slice's batch has thinned. drain_s: what runs may go on
    for so long when a model is due, rather than be computed again. batch_limit_count: requests that
    the engine runs at once. weights: per priority; a weight of w counts as w requests, and one
    above 1 is due w times sooner.
    """

    max_wait_s: float = 10.0
    amortisation: float = 10.0
    thin: float = 0.5
    drain_s: float = 5.0
    batch_limit_count: int = 256
    weights: tuple[float, float, float] = (8.0, 1.0, 0.25)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request that the engine does not have.

    since_s: arrival, or its preemption. work_s: estimate of the seconds that it still takes.
    """

    since_s: float
    priority: Priority = Priority.STANDARD
    work_s: float = 0.0
    deadline_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Running:
    """A request that the engine computes now.

    loss_s: seconds of computing again if it is preempted now: little while the prefix cache has
    room for what it and the others have so far. preemptible: it may be aborted and submitted again
    as prompt and tokens so far, and has got on in this slice.
    """

    loss_s: float = 0.0
    priority: Priority = Priority.STANDARD
    preemptible: bool = True


@dataclass(frozen=True, slots=True)
class Queue:
    """What waits for one model, summed up; made by `queue_of`, or by `waiting_line` as it changes.

    turn_s: what one turn of minimum length takes. weight: of all requests; fullness: of those that
    would run at once. since_s: since when the model waits for its turn. waits_s: since when its
    oldest request of each priority does, inf without one. urgent_s: when it is due for the sake of
    a deadline, inf without one.
    """

    model: str
    turn_s: float
    request_count: int
    weight: float
    fullness: float
    since_s: float
    waits_s: tuple[float, float, float]
    urgent_s: float


@dataclass(frozen=True, slots=True)
class Slice:
    """The live model and what runs on it; made by `slice_of`.

    since_s: when its weights became live. switch_cost_s: what that cost. weight: of what runs;
    peak_weight: the largest in this slice. loss_s: of all that runs. pinned_count: running, not
    preemptible. draining_since_s: when `decide` first said DRAIN in this slice, None before.
    """

    model: str | None = None
    since_s: float = -math.inf
    switch_cost_s: float = 0.0
    running_count: int = 0
    weight: float = 0.0
    peak_weight: float = 0.0
    loss_s: float = 0.0
    pinned_count: int = 0
    draining_since_s: float | None = None


class Action(Enum):
    """What the engine's driver does.

    STAY: submit what waits for the live model. DRAIN: submit no more. SWITCH: abort what runs, put
    it back into its queue, make `Decision.model` live.
    """

    STAY = "stay"
    DRAIN = "drain"
    SWITCH = "switch"


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now.

    model: the next model under DRAIN and SWITCH, the live one under STAY. decide_at_s: decide again
    at this time at the latest, and whenever a request arrives, ends or is cancelled; inf: only
    then. is_due: the next model was due (otherwise the batch is fuller there, or nothing ran here).
    """

    action: Action
    model: str | None
    decide_at_s: float = math.inf
    is_due: bool = False


def queue_of(
    model: str,
    requests: Iterable[Waiting],
    policy: Policy,
    *,
    switch_cost_s: float,
    left_s: float = -math.inf,
) -> Queue:
    """Sum up what waits for a model: at least one request.

    switch_cost_s: seconds to make the model live, as measured. left_s: when its last slice ended,
    -inf without one.
    """
    waits_s = [math.inf, math.inf, math.inf]
    weight, count, latest_start_s = 0.0, 0, math.inf
    for one in requests:
        count += 1
        weight += policy.weights[one.priority]
        waits_s[one.priority] = min(waits_s[one.priority], max(one.since_s, left_s))
        latest_start_s = min(latest_start_s, one.deadline_s - one.work_s)
    interactive_s, standard_s, batch_s = waits_s
    return make_queue(
        model,
        policy,
        count=count,
        weight=weight,
        waits_s=(interactive_s, standard_s, batch_s),
        latest_start_s=latest_start_s,
        switch_cost_s=switch_cost_s,
    )


def make_queue(
    model: str,
    policy: Policy,
    *,
    count: int,
    weight: float,
    waits_s: tuple[float, float, float],
    latest_start_s: float,
    switch_cost_s: float,
) -> Queue:
    """The sum of what waits, from its parts. latest_start_s: for the sake of the first deadline."""
    turn = turn_s(switch_cost_s, policy)
    return Queue(
        model=model,
        turn_s=turn,
        request_count=count,
        weight=weight,
        fullness=_fullness(weight, count, policy),
        since_s=min(waits_s),
        waits_s=waits_s,
        urgent_s=max(min(waits_s), latest_start_s - turn),
    )


def slice_of(
    model: str | None,
    requests: Sequence[Running],
    policy: Policy,
    *,
    since_s: float,
    switch_cost_s: float,
    peak_weight: float = 0.0,
    draining_since_s: float | None = None,
) -> Slice:
    """Sum up what runs on the live model. peak_weight: that of the slice before this moment."""
    weight = sum([policy.weights[one.priority] for one in requests])
    return Slice(
        model,
        since_s,
        switch_cost_s,
        running_count=len(requests),
        weight=weight,
        peak_weight=max(peak_weight, weight),
        loss_s=sum([one.loss_s for one in requests]),
        pinned_count=sum([not one.preemptible for one in requests]),
        draining_since_s=draining_since_s,
    )


def decide(now_s: float, live: Slice, queues: Sequence[Queue], policy: Policy) -> Decision:
    """Stay, drain or switch. queues: one per model with waiting requests, the live one's too."""
    slice_end_s = live.since_s + policy.amortisation * live.switch_cost_s
    if live.running_count and now_s < slice_end_s:
        return Decision(Action.STAY, live.model, slice_end_s)
    rivals = [one for one in queues if one.model != live.model]
    if not rivals:
        return Decision(Action.STAY, live.model)
    own = next((one for one in queues if one.model == live.model), None)
    due_s, rival = _next(now_s, rivals, policy)
    if not live.running_count and own is None:
        return Decision(Action.SWITCH, rival.model, is_due=due_s <= now_s)
    if now_s < slice_end_s:
        return Decision(Action.STAY, live.model, slice_end_s)
    worth_s = slice_end_s + policy.amortisation * live.loss_s
    if due_s <= now_s:
        return _give_way(now_s, live, rival, worth_s, policy)
    if live.pinned_count or not _has_thinned(live, own, rival, policy):
        return Decision(Action.STAY, live.model, due_s)
    if now_s < worth_s:
        return Decision(Action.STAY, live.model, min(due_s, worth_s))
    return Decision(Action.SWITCH, rival.model)


def turn_s(switch_cost_s: float, policy: Policy) -> float:
    """The shortest turn of a model with work: its switch and its slice."""
    return (1 + policy.amortisation) * switch_cost_s


def rotation_s(queues: Iterable[Queue]) -> float:
    """Seconds in which each of these models gets one turn of minimum length."""
    return math.fsum(one.turn_s for one in queues)  # whatever their order


def wait_bound_s(policy: Policy, waiting_count: int, switch_cost_s: float) -> float:
    """Longest that a model with waiting requests waits to be live; see the proof above.

    waiting_count: models that wait at one time, this one among them, at most. switch_cost_s: of any
    of them and of the live one, at most. Where a request cannot be preempted, drain_s has to be as
    long as it runs.
    """
    hold_up_s = turn_s(switch_cost_s, policy) + policy.drain_s
    return policy.max_wait_s + waiting_count * hold_up_s + switch_cost_s


def _next(now_s: float, rivals: Sequence[Queue], policy: Policy) -> tuple[float, Queue]:
    """The earliest due time of all, and who goes next: that model if it is due, else the fullest.

    Equally due: who has waited longest, then by name. Equally full: the earliest due.
    """
    patience_s = max(0.0, policy.max_wait_s - rotation_s(rivals))
    patiences_s = [patience_s / max(1.0, weight) for weight in policy.weights]
    order = [(_due_s(one, patiences_s), one.since_s, one.model, one) for one in rivals]
    first = min(order)  # the names differ: queues themselves are never compared
    if first[0] <= now_s:
        return first[0], first[3]
    fullness = max([one.fullness for one in rivals])
    return first[0], min([entry for entry in order if entry[3].fullness == fullness])[3]


def _due_s(queue: Queue, patiences_s: Sequence[float]) -> float:
    """When the model has to be live, or be next; never before it began to wait."""
    waits_s = queue.waits_s
    return min(
        queue.urgent_s,
        waits_s[0] + patiences_s[0],
        waits_s[1] + patiences_s[1],
        waits_s[2] + patiences_s[2],
    )


def _fullness(weight: float, count: int, policy: Policy) -> float:
    return weight * min(1.0, policy.batch_limit_count / count)


def _has_thinned(live: Slice, own: Queue | None, rival: Queue, policy: Policy) -> bool:
    """Most of the slice's batch has ended, and the rival would fill more of it than the rest."""
    left = live.weight + (own.weight if own else 0.0)
    return left <= policy.thin * live.peak_weight and left <= rival.fullness


def _give_way(now_s: float, live: Slice, rival: Queue, worth_s: float, policy: Policy) -> Decision:
    """To a due model: at once where little is lost, else after what runs had its time to end."""
    started_s = now_s if live.draining_since_s is None else live.draining_since_s
    end_s = min(worth_s, started_s + policy.drain_s)
    if live.pinned_count:
        return Decision(Action.DRAIN, rival.model, is_due=True)
    if live.running_count and now_s < end_s:
        return Decision(Action.DRAIN, rival.model, end_s, is_due=True)
    return Decision(Action.SWITCH, rival.model, is_due=True)
