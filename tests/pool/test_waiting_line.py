"""A line that sums itself up as requests come and go, against summing all of them up."""

import math

from hypothesis import given
from hypothesis import strategies as st

from model_pool.switching import Policy, Priority, Waiting, queue_of
from model_pool.waiting_line import WaitingLine

SECONDS = st.integers(0, 50).map(float)
REQUESTS = st.builds(
    Waiting,
    since_s=SECONDS,
    priority=st.sampled_from(Priority),
    work_s=SECONDS,
    deadline_s=SECONDS | st.just(math.inf),
)
# A key, and the request that comes under it; or None: the one that waits under it goes.
CHANGES = st.lists(st.tuples(st.integers(0, 7), REQUESTS | st.none()), max_size=400)
POLICY = Policy(batch_limit_count=3)


@given(CHANGES, SECONDS | st.just(-math.inf))
def test_the_sum_is_that_of_all_who_wait(changes, left_s):
    line, waiting = WaitingLine(), {}
    for key, request in changes:
        if key in waiting:
            line.remove(key)
            del waiting[key]
        if request is not None:
            line.add(key, request)
            waiting[key] = request
        assert len(line) == len(waiting)
        assert set(waiting) == {one for one in range(8) if one in line}
        if waiting:
            told = {"switch_cost_s": 0.5, "left_s": left_s}
            expected = queue_of("m", waiting.values(), POLICY, **told)
            assert line.sum_up("m", POLICY, **told) == expected


def test_what_has_gone_is_forgotten():
    line = WaitingLine()
    line.add("stays", Waiting(0.0, deadline_s=1.0))
    for i in range(10_000):
        line.add("passes", Waiting(float(i + 1), deadline_s=float(i + 2)))
        line.remove("passes")

    assert sum(map(len, [*line._arrivals, line._latest_starts])) < 300
