"""Digests, and many pieces of work at once."""

import threading

import numpy as np
import pytest

from merge_on_load import hashing
from merge_on_load.hashing import digest_of, file_digest, parallel_map

# Of the authors' test vectors (BLAKE3-team/BLAKE3, test_vectors.json): bytes 0, 1, ... 250, 0, ...
KNOWN = {
    0: "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
    1: "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
}


@pytest.fixture(autouse=True)
def three_threads(monkeypatch):
    monkeypatch.setattr(hashing, "thread_count", lambda: 3)


@pytest.mark.parametrize(("size", "expected"), KNOWN.items())
def test_digests_are_blake3(tmp_path, size, expected):
    raw = (np.arange(size) % 251).astype(np.uint8)
    (tmp_path / "file").write_bytes(raw.tobytes())

    assert digest_of(raw) == file_digest(tmp_path / "file") == expected


def test_a_file_of_many_pieces_has_the_digest_of_its_bytes(tmp_path):
    raw = np.random.default_rng(0).integers(0, 256, (3 << 20) + 5, np.uint8)
    (tmp_path / "file").write_bytes(raw.tobytes())

    assert file_digest(tmp_path / "file") == digest_of(raw)


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
