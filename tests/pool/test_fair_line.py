"""Whose request goes next: priorities, fair shares between callers, and what nobody can do."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from model_pool.fair_line import SHARES, Ask, FairLine, count_ahead
from model_pool.switching import Priority

INTERACTIVE, STANDARD, BATCH = Priority
CALLERS = "abcd"
asks = st.builds(
    Ask,
    lane=st.sampled_from("xyz"),
    caller=st.sampled_from(CALLERS),
    priority=st.sampled_from(Priority),
    prompt_token_count=st.integers(0, 300),
    output_limit_count=st.integers(1, 300),
)
# A request comes; or a number: 0 takes one, 1 ends a place, 2 cancels who waits, 3 uses a token.
changes = st.lists(asks | st.integers(0, 3), max_size=200)


@dataclass(eq=False)
class Request:
    """One in the line."""

    number: int
    ask: Ask


def fill(line: FairLine[Request], *given_asks: Ask) -> list[Request]:
    requests = [Request(number, ask) for number, ask in enumerate(given_asks)]
    for request in requests:
        line.add(request, request.ask)
    return requests


def drain(line: FairLine[Request]) -> list[Request]:
    """Everybody, in the order in which they would get one place after another."""
    taken = []
    while (request := line.take()) is not None:
        line.use(request, request.ask.output_limit_count)
        line.end(request)
        taken.append(request)
    return taken


@given(changes)
def test_nobody_is_lost_and_nobody_waits_beside_a_free_place(events: list[Ask | int]) -> None:
    line, waiting, placed, numbers = FairLine[Request](), [], [], count()
    for event in events:
        if isinstance(event, Ask):
            waiting.append(Request(next(numbers), event))
            line.add(waiting[-1], event)
        elif event == 0:
            request = line.take()
            assert (request is None) == (not waiting)
            if request is not None:
                waiting.remove(request)
                placed.append(request)
        elif event == 1 and placed:
            line.end(placed.pop(0))
        elif event == 2 and waiting:
            line.remove(waiting.pop())
        elif event == 3 and placed:
            line.use(placed[0], 1)
        assert len(line) == len(waiting)
        assert set(line) == set(waiting)


@given(st.lists(asks, max_size=60))
def test_a_caller_is_answered_in_its_own_order(wanted: list[Ask]) -> None:
    """Within a priority and a model."""
    line = FairLine[Request]()
    fill(line, *wanted)
    seen: dict[tuple[object, ...], int] = {}
    for request in drain(line):
        kind = (request.ask.caller, request.ask.priority, request.ask.lane)
        assert seen.get(kind, -1) < request.number
        seen[kind] = request.number


@given(
    st.lists(st.integers(1, 50), min_size=len(CALLERS), max_size=len(CALLERS)),
    st.lists(st.integers(1, 400), min_size=1, max_size=20),
    st.integers(0, 60),
)
def test_callers_that_wait_get_equal_work(
    counts: list[int], lengths: list[int], take_count: int
) -> None:
    """Of any two that still wait, neither is ahead by more than its largest request."""
    line = FairLine[Request]()
    line.add(first := Request(-1, Ask(output_limit_count=10_000)), first.ask)
    line.take()
    line.use(first, 1)
    line.end(first)  # one token is typical: all are charged ahead alike, the rest as it comes
    wanted = [
        Ask(caller=caller, output_limit_count=lengths[place % len(lengths)])
        for caller, number in zip(CALLERS, counts, strict=True)
        for place in range(number)
    ]
    fill(line, *wanted)
    left, work = Counter(one.caller for one in wanted), Counter[str]()
    for _ in range(min(take_count, len(wanted))):
        request = line.take()
        assert request is not None
        line.use(request, request.ask.output_limit_count)
        line.end(request)
        left[request.ask.caller] -= 1
        work[request.ask.caller] += request.ask.output_limit_count
        backlogged = [work[one] for one in CALLERS if left[one]]
        if backlogged:
            assert max(backlogged) - min(backlogged) <= max(lengths)


@given(st.lists(st.sampled_from("bcd"), max_size=60), st.integers(1, 300))
def test_who_comes_anew_goes_after_one_request_of_each_other_caller(
    others: list[str], length: int
) -> None:
    line = FairLine[Request]()
    fill(line, *(Ask(caller=one, output_limit_count=length) for one in others))
    for _ in range(len(others) // 3):
        line.take()
    (quiet,) = fill(line, Ask(caller="quiet", output_limit_count=length))
    before = Counter[str]()
    while (request := line.take()) is not quiet:
        assert request is not None
        before[request.ask.caller] += 1
    assert all(number <= 1 for number in before.values())


def test_a_burst_takes_turns_with_who_asks_little() -> None:
    line = FairLine[Request]()
    fill(line, *[Ask(caller="noisy")] * 50, *[Ask(caller="quiet")] * 3)

    order = [request.ask.caller for request in drain(line)]

    assert [place for place, caller in enumerate(order) if caller == "quiet"] == [1, 3, 5]


def test_places_that_become_free_at_once_are_divided_too() -> None:
    """Nothing was computed between them: what answers are typically long is charged ahead."""
    line = FairLine[Request]()
    fill(line, *[Ask(caller="noisy", output_limit_count=256)] * 9)
    fill(line, *[Ask(caller="quiet", output_limit_count=256)] * 9)

    taken = Counter(line.take().ask.caller for _ in range(8))  # type: ignore[union-attr]

    assert taken == {"noisy": 4, "quiet": 4}


def test_long_answers_are_paid_for_and_short_ones_refunded() -> None:
    line = FairLine[Request]()
    long, short = fill(line, *(Ask(caller=one, output_limit_count=100) for one in ("l", "s")))
    assert {line.take(), line.take()} == {long, short}
    assert line.work_of("l", STANDARD) == line.work_of("s", STANDARD) == 200
    line.use(long, 100)
    line.use(short, 3)
    line.add(again := Request(9, short.ask), short.ask)
    line.end(long)
    line.end(short)

    assert line.work_of("s", STANDARD) == 6
    line.remove(again)


def test_the_urgent_go_first_whoever_asks() -> None:
    line = FairLine[Request]()
    fill(line, *(Ask(caller="a", priority=one) for one in (BATCH, STANDARD, INTERACTIVE)))
    fill(line, *(Ask(caller="b", priority=one) for one in (BATCH, STANDARD, INTERACTIVE)))

    order = [request.ask.priority for request in drain(line)]

    assert order == sorted(order)


@given(
    st.sampled_from([STANDARD, BATCH]),
    st.integers(1, 200),
    st.lists(st.integers(1, 50), min_size=1, max_size=10),
)
def test_a_lower_priority_goes_after_a_bounded_work_of_the_higher(
    lower: Priority, length: int, lengths: list[int]
) -> None:
    """Though urgent requests never end."""
    line, work = FairLine[Request](), 0.0
    (waiting,) = fill(line, Ask(caller="low", priority=lower, prompt_token_count=length))
    bound = (length + 2) / SHARES[lower] + max(lengths) + 2
    for place in count():
        urgent_length = lengths[place % len(lengths)]
        fill(line, Ask(priority=INTERACTIVE, prompt_token_count=urgent_length))
        request = line.take()
        if request is waiting:
            break
        assert request is not None
        line.use(request, 1)
        line.end(request)
        work += request.ask.prompt_token_count + 2
        assert work <= bound


def test_a_share_is_not_saved_up_while_nobody_waits() -> None:
    line = FairLine[Request]()
    fill(line, *[Ask(priority=INTERACTIVE)] * 100)
    for _ in range(50):
        line.take()
    low = fill(line, *[Ask(priority=BATCH)] * 2)

    assert line.take() not in low


def test_a_lane_that_has_fewer_places_goes_first_within_a_caller() -> None:
    line = FairLine[Request]()
    fill(line, Ask(lane="x"), Ask(lane="x"), Ask(lane="y"))
    places = {"x": 1, "y": 0}

    assert line.take(load=lambda lane: places[str(lane)]).ask.lane == "y"  # type: ignore[union-attr]
    assert line.take(lanes={"z"}) is None
    assert [request.number for request in drain(line)] == [0, 1]


def test_who_was_broken_off_goes_before_those_that_came_later() -> None:
    line = FairLine[str]()
    line.add("first", Ask(), 0)
    line.add("second", Ask(), 1)
    assert line.take() == "first"
    line.end("first")
    line.add("first", Ask(), 0)

    assert line.take() == "first"


def test_callers_who_have_gone_are_forgotten() -> None:
    line = FairLine[int]()
    for number in range(5000):
        line.add(number, Ask(caller=f"caller-{number}", output_limit_count=9))
        line.take()
        line.use(number, 9)
        line.end(number)
        assert not line.work_of(f"caller-{number - 1}", STANDARD)


@given(st.lists(asks, max_size=40), asks)
def test_who_goes_ahead_is_counted(waiting: list[Ask], ask: Ask) -> None:
    counted = count_ahead(waiting, ask)

    higher = sum(one.priority < ask.priority for one in waiting)
    own = sum(one.priority == ask.priority and one.caller == ask.caller for one in waiting)
    same = sum(one.priority == ask.priority for one in waiting)
    assert higher + own <= counted <= higher + same
    others = {one.caller for one in waiting if one.priority == ask.priority} - {ask.caller}
    assert counted <= higher + own + len(others) * (own + 1)
