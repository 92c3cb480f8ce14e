"""Who comes in: thresholds that move with what is free, and who would be late."""

from __future__ import annotations

import contextlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pool.in_process_worker import free_port

from model_pool.admission import Admission, Room, Stay, Thresholds, refusal
from model_pool.errors import CallerSaturated, FleetError, PoolSaturated
from model_pool.fair_line import Ask
from model_pool.pool import Pool
from model_pool.switching import Priority
from model_pool.worker_link import WorkerLink

INTERACTIVE, STANDARD, BATCH = Priority
LIMIT_COUNT = 288
counts = st.integers(0, 300)
alphas = st.floats(0.01, 100)
thresholds = st.builds(Thresholds, st.tuples(alphas, alphas, alphas), alphas)
asks = st.builds(
    Ask,
    lane=st.sampled_from(["sql", "triage"]),
    caller=st.sampled_from("abc"),
    priority=st.sampled_from(Priority),
)


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class House:
    """One worker of LIMIT_COUNT places, and who is in."""

    def __init__(self, limit_count: int = LIMIT_COUNT) -> None:
        self.clock = Clock()
        self.admission = Admission(clock=self.clock)
        self.limit_count = limit_count
        self.stack = contextlib.ExitStack()

    def enter(self, caller: str = "", priority: Priority = STANDARD, lane: str = "sql") -> Stay:
        free_count = self.limit_count - self.admission.count
        ask = Ask(lane=lane, caller=caller, priority=priority)
        return self.stack.enter_context(
            self.admission.enter(ask, free_count=free_count, free_for_model_count=free_count)
        )

    def fill(self, caller: str, priority: Priority = STANDARD) -> tuple[int, FleetError]:
        """As many as come in, and what the next one is told."""
        count = 0
        while True:
            try:
                self.enter(caller, priority)
            except FleetError as failure:
                return count, failure
            count += 1


@given(asks, st.builds(Room, counts, counts, counts), thresholds)
def test_only_who_has_much_is_refused_while_places_are_free(
    ask: Ask, room: Room, chosen: Thresholds
) -> None:
    """Whoever has nothing yet comes in wherever one place is free."""
    failure = refusal(ask, [room], chosen)

    assert failure is None or (failure.retry_after_s or 0) > 0
    if not room.free_count:
        assert isinstance(failure, PoolSaturated)
    elif not room.caller_count:
        assert failure is None
    if isinstance(failure, CallerSaturated):
        assert room.other_count > 0 < room.free_count


@given(asks, st.builds(Room, counts, counts, counts))
def test_the_urgent_come_in_wherever_others_do(ask: Ask, room: Room) -> None:
    def is_in(priority: Priority) -> bool:
        one = Ask(lane=ask.lane, caller=ask.caller, priority=priority)
        return refusal(one, [room], Thresholds()) is None

    assert is_in(INTERACTIVE) >= is_in(STANDARD) >= is_in(BATCH)


@given(st.lists(st.tuples(asks, st.booleans()), max_size=120), st.integers(0, 40))
def test_no_more_come_in_than_there_are_places(
    events: list[tuple[Ask, bool]], limit_count: int
) -> None:
    """And whoever is counted is counted out again."""
    house = House(limit_count)
    inside: list[contextlib.ExitStack] = []
    for ask, comes in events:
        if not comes and inside:
            inside.pop(0).close()
            continue
        with contextlib.suppress(FleetError), contextlib.ExitStack() as stack:
            free_count = limit_count - house.admission.count
            stack.enter_context(house.admission.enter(ask, free_count=free_count))
            inside.append(stack.pop_all())
        assert house.admission.count == len(inside) <= limit_count
    for stack in inside:
        stack.close()
    fresh = House(limit_count)
    assert house.fill("a")[0] == fresh.fill("a")[0]


@pytest.mark.parametrize(("priority", "count"), [(INTERACTIVE, 272), (STANDARD, 256), (BATCH, 192)])
def test_who_is_alone_gets_nearly_everything(priority: Priority, count: int) -> None:
    """288 places: alpha of alpha and one of them, rounded up."""
    got, failure = House().fill("alone", priority)

    assert got == count
    assert isinstance(failure, PoolSaturated)


@pytest.mark.parametrize("limit_count", [1, 2, 3, 8])
def test_a_small_fleet_is_filled_to_the_last_place(limit_count: int) -> None:
    assert House(limit_count).fill("alone")[0] == limit_count


def test_a_burst_leaves_room_for_others_and_is_told_that_it_is_its_own() -> None:
    house = House()
    noisy_count, _ = house.fill("noisy")
    for _ in range(20):
        house.enter("quiet")
    with pytest.raises(CallerSaturated) as failure:
        house.enter("noisy")

    assert failure.value.metadata == {"caller_count": str(noisy_count), "free_count": "12"}
    assert (failure.value.retry_after_s or 0) > 0


def test_interactive_requests_find_room_where_batch_work_fills_the_rest() -> None:
    house = House()
    batch_counts = Counter({caller: house.fill(caller, BATCH)[0] for caller in "abcd"})

    assert house.admission.count == batch_counts.total() < LIMIT_COUNT
    house.enter("a", INTERACTIVE)
    house.enter("somebody else", INTERACTIVE)


def test_one_specialist_does_not_take_the_places_of_all() -> None:
    house = House()
    callers = (f"caller-{number}" for number in range(LIMIT_COUNT))
    with pytest.raises(PoolSaturated, match="for sql"):
        for caller in callers:
            house.enter(caller)

    house.enter("another", lane="triage")


def test_who_serves_a_model_bounds_it_where_others_are_free() -> None:
    admission = Admission()
    with (
        pytest.raises(PoolSaturated),
        admission.enter(Ask(lane="sql"), free_count=200, free_for_model_count=0),
    ):
        pass
    assert admission.count == 0


def test_a_queue_that_leaves_too_little_time_is_told_at_once() -> None:
    clock = Clock()
    admission = Admission(clock=clock)
    ask, more = Ask(lane="sql"), {"free_count": 100, "queued_count": 9}
    with contextlib.ExitStack() as stack:
        stays = [stack.enter_context(admission.enter(ask, **more)) for _ in range(5)]
        for stay in stays:
            clock.now_s += 1.0
            admission.begin(stay)
            admission.begin(stay)  # told again
        waiting = [stack.enter_context(admission.enter(ask, **more)) for _ in range(4)]
        assert [stay.ahead_count for stay in waiting] == [0, 1, 2, 3]
        with pytest.raises(PoolSaturated, match="too late"):
            stack.enter_context(admission.enter(ask, time_left_s=3.0, **more))
        # Nobody waits at the workers, or goes before it: nothing is foretold.
        stack.enter_context(admission.enter(ask, free_count=100, time_left_s=3.0))
        urgent = Ask(lane="sql", priority=INTERACTIVE)
        stack.enter_context(admission.enter(urgent, time_left_s=3.0, **more))
        stack.enter_context(admission.enter(ask, time_left_s=60.0, **more))


def test_a_line_that_reaches_nobody_is_learnt_too() -> None:
    clock = Clock()
    admission = Admission(clock=clock)
    ask, more = Ask(lane="sql"), {"free_count": 100, "queued_count": 9}
    with admission.enter(ask, **more):
        for _ in range(9):
            with contextlib.suppress(TimeoutError), admission.enter(ask, **more):
                clock.now_s += 60.0
                raise TimeoutError
        with (
            pytest.raises(PoolSaturated, match="too late"),
            admission.enter(ask, time_left_s=5.0, **more),
        ):
            pass


async def test_those_who_wait_for_a_worker_to_be_up_are_bounded_too() -> None:
    links = [WorkerLink(name, f"127.0.0.1:{free_port()}") for name in ("one", "two")]
    pool = Pool(links, limit_count=2, wait_s=60, on_change=lambda: None)
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(4):
                stack.enter_context(pool.admitted(Ask(lane="sql")))
            with pytest.raises(PoolSaturated):
                stack.enter_context(pool.admitted(Ask(lane="sql")))
        with pool.admitted(Ask(lane="sql")):
            pass
    finally:
        await pool.stop()


@given(st.lists(asks, max_size=40), asks, st.integers(0, 60))
def test_who_is_refused_whatever_the_model_is_refused_each(
    inside: list[Ask], ask: Ask, free_count: int
) -> None:
    """And who has nothing yet is refused only where no place is free."""
    admission = Admission()
    with contextlib.ExitStack() as stack:
        for one in inside:
            with contextlib.suppress(FleetError):
                stack.enter_context(admission.enter(one, free_count=60))
        early = None
        try:
            admission.check(Ask(lane="", caller=ask.caller, priority=ask.priority), free_count)
        except FleetError as failure:
            early = type(failure)
        if early:
            with pytest.raises(early), admission.enter(ask, free_count=free_count):
                pass
        if not any(one.caller == ask.caller for one in inside):
            assert bool(early) == (free_count == 0)
