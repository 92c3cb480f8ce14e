"""Many pieces of work at once."""

import multiprocessing
import os
import threading

import pytest

from merge_on_load import threads
from merge_on_load.threads import parallel_map


@pytest.fixture(autouse=True)
def three_threads(monkeypatch):
    monkeypatch.setattr(threads, "thread_count", lambda: 3)


def test_results_are_in_order():
    assert parallel_map(str, range(100)) == [str(number) for number in range(100)]


def test_as_many_threads_work_at_once_as_are_worth_it():
    together = threading.Barrier(3)

    found = parallel_map(lambda _: together.wait(60), range(3))

    assert sorted(found) == [0, 1, 2]


def test_the_first_that_fails_is_told():
    together = threading.Barrier(3)

    def fail(number):
        if number:
            together.wait(60)
            raise ValueError(number)

    with pytest.raises(ValueError, match=r"^1$"):
        parallel_map(fail, range(4))


def test_nothing_is_begun_after_a_failure():
    begun = []

    def fail(number):
        begun.append(number)
        raise ValueError(number)

    with pytest.raises(ValueError, match=r"^0$"):
        parallel_map(fail, range(1000))

    assert len(begun) <= 3


def test_after_a_failure_threads_work_together_again():
    with pytest.raises(ZeroDivisionError):
        parallel_map(lambda number: 1 // number, range(3))

    together = threading.Barrier(3)

    parallel_map(lambda _: together.wait(60), range(3))


def test_what_is_within_many_is_done_at_once():
    found = parallel_map(lambda k: parallel_map(lambda j: 10 * k + j, range(3)), range(3))

    assert found == [[0, 1, 2], [10, 11, 12], [20, 21, 22]]


def test_threads_that_stay_apart_have_cpus_of_their_own(monkeypatch):
    before = os.sched_getaffinity(0)
    count = min(len(before), 3)
    monkeypatch.setattr(threads, "thread_count", lambda: count)
    together = threading.Barrier(count)

    def told(_):
        together.wait(60)
        return os.sched_getaffinity(0)

    found = parallel_map(told, range(count), is_apart=True)

    assert set().union(*found) == before
    assert sum(map(len, found)) == len(before)
    assert os.sched_getaffinity(0) == before


def test_more_threads_than_cpus_share_them():
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    try:
        found = parallel_map(lambda _: os.sched_getaffinity(0), range(9), is_apart=True)
    finally:
        os.sched_setaffinity(0, cpus)

    assert found == [{min(cpus)}] * 9


def test_who_stayed_apart_goes_where_it_may_again_after_a_failure():
    before = os.sched_getaffinity(0)

    with pytest.raises(ZeroDivisionError):
        parallel_map(lambda number: 1 // number, range(3), is_apart=True)

    assert os.sched_getaffinity(0) == before


def test_a_forked_process_works_on_threads_of_its_own():
    parallel_map(str, range(9))
    child = multiprocessing.get_context("fork").Process(target=parallel_map, args=(str, range(9)))
    child.start()
    child.join(60)

    assert child.exitcode == 0
