"""Who meets on one worker, and how busy that may make it."""

from __future__ import annotations

import math
import random
from collections import Counter, OrderedDict, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltafleet.v1 import routing_pb2, worker_pb2
from model_pool.affinity import affinity_key
from model_pool.placement import Candidate, choose_worker

LENGTH = 256
DOCUMENT = "All of our contracts end after a year unless one of both sides goes on. " * 5


def request(*texts: str, model: str = "sql") -> worker_pb2.RunRequest:
    roles = (routing_pb2.ROLE_SYSTEM, routing_pb2.ROLE_USER, routing_pb2.ROLE_ASSISTANT)
    messages = [
        routing_pb2.ChatMessage(role=role, content=text)
        for role, text in zip(roles, texts, strict=False)
    ]
    return worker_pb2.RunRequest(model=model, messages=messages)


def key(*texts: str, session: str = "", model: str = "sql") -> str:
    return affinity_key(request(*texts, model=model), session, LENGTH)


def test_the_same_long_beginning_is_one_key() -> None:
    assert key(DOCUMENT, "Who?") == key(DOCUMENT, "When?") != ""
    assert key(DOCUMENT, "Who?") != key(DOCUMENT[1:], "Who?")
    assert key(DOCUMENT, model="sql") != key(DOCUMENT, model="math")


def test_a_beginning_may_be_several_messages() -> None:
    half = DOCUMENT[: LENGTH // 2]
    assert key(half, DOCUMENT + "Who?") == key(half, DOCUMENT + "When?") != ""
    assert key(half, half, "?") != key(half + half, "?")


def test_short_prompts_have_no_key_and_go_where_least_is_done() -> None:
    assert key("Answer briefly.", "How much is it?") == ""
    assert key(DOCUMENT[: LENGTH - 1]) == ""
    assert key(DOCUMENT[:LENGTH]) != ""


def test_a_session_counts_more_than_the_text() -> None:
    assert key("a", session="7") == key(DOCUMENT, session="7") != key("a", session="8")
    assert key("a", session="7", model="math") != key("a", session="7")
    assert affinity_key(request(DOCUMENT), "", 0) == ""
    assert affinity_key(request(DOCUMENT), "7", 0) != ""


def workers(*busy: int, limit: int = 10_000, loaded: str = "sql") -> list[Candidate]:
    return [
        Candidate(f"w{place}", frozenset({loaded}), one, limit) for place, one in enumerate(busy)
    ]


KEYS = st.text(min_size=1, max_size=8)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=9), KEYS, st.floats(1, 3))
def test_no_worker_is_busier_than_so_many_times_the_mean(
    busy: list[int], key: str, factor: float
) -> None:
    chosen = choose_worker(workers(*busy), "sql", key, factor)

    most = math.ceil(factor * (sum(busy) + 1) / len(busy))
    assert busy[int(chosen[1:])] + 1 <= most


@given(st.integers(2, 9), KEYS, st.data())
def test_who_comes_or_goes_moves_its_own_keys_alone(count: int, key: str, data) -> None:
    idle = workers(*[0] * count)
    chosen = choose_worker(idle, "sql", key)
    gone = data.draw(st.sampled_from(idle))
    left = choose_worker([one for one in idle if one is not gone], "sql", key)

    assert chosen == left or chosen == gone.worker


@given(st.lists(st.integers(0, 9), min_size=2, max_size=6), KEYS)
def test_weights_count_more_than_the_key(busy: list[int], key: str) -> None:
    cold, warm = workers(*busy, loaded="math"), Candidate("warm", frozenset({"sql"}), 9, 10)
    assert choose_worker([*cold, warm], "sql", key) == "warm"


@given(st.lists(st.integers(0, 4), min_size=1, max_size=6), KEYS)
def test_a_full_worker_is_nobodys(busy: list[int], key: str) -> None:
    chosen = choose_worker(workers(*busy, limit=4), "sql", key)
    assert (chosen is None) == (min(busy) == 4)
    if chosen is not None:
        assert busy[int(chosen[1:])] < 4


def serve(keys: list[str], worker_count: int, *, concurrency: int, uses_keys: bool):
    """Each worker remembers the last 8 beginnings. Returns the share of hits, and the most times
    the mean load that any had.
    """
    busy = Counter({f"w{place}": 0 for place in range(worker_count)})
    caches = {worker: OrderedDict() for worker in busy}
    under_way, hit_count, worst = deque(), 0, 0.0
    for key in keys:
        if len(under_way) == concurrency:
            busy[under_way.popleft()] -= 1
        chosen = choose_worker(
            workers(*(busy[f"w{place}"] for place in range(worker_count))),
            "sql",
            key if uses_keys else "",
        )
        cache = caches[chosen]
        hit_count += key in cache
        cache[key] = None
        cache.move_to_end(key)
        while len(cache) > 8:
            cache.popitem(last=False)
        busy[chosen] += 1
        under_way.append(chosen)
        if len(under_way) == concurrency:
            worst = max(worst, max(busy.values()) * worker_count / concurrency)
    return hit_count / len(keys), worst


@pytest.mark.parametrize("worker_count", [2, 4, 8])
def test_shared_beginnings_are_found_in_the_cache_again(worker_count: int) -> None:
    chance = random.Random(7)
    beginnings = [f"document {number}" for number in range(5 * worker_count)]
    asked = chance.choices(beginnings, k=5000)

    with_keys, worst = serve(asked, worker_count, concurrency=64, uses_keys=True)
    without, _ = serve(asked, worker_count, concurrency=64, uses_keys=False)

    # By chance a worker has 8 of the 5 * worker_count beginnings.
    assert without == pytest.approx(min(1, 8 / len(beginnings)), abs=0.1)
    assert with_keys > 0.75
    assert 1 - with_keys < (1 - without) / 2
    assert worst <= math.ceil(1.25 * 64 / worker_count) * worker_count / 64


def test_one_beginning_for_all_is_shared_by_as_many_as_it_needs() -> None:
    hits, worst = serve(["the same"] * 5000, 4, concurrency=64, uses_keys=True)
    assert hits >= 1 - 4 / 5000
    assert worst == 1.25
