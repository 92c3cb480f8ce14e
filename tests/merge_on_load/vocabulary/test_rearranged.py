"""How a rearranged matrix is held: in a file without a name, for as long as it is in use."""

import gc
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from merge_on_load.errors import NonFinite
from merge_on_load.recipes.document import Tokenizer as Told
from merge_on_load.recipes.references import Reference
from merge_on_load.vocabulary import filling, make_vocabulary

BASE, OTHER = Reference("base"), Reference("other")


@pytest.fixture
def pair(kit):
    return {
        BASE: kit.model("a", kit.bpe("hello", special=("<a>",))),
        OTHER: kit.model("b", kit.bpe("hello", special=("<b>",))),
    }


@pytest.fixture
def other(pair):
    return make_vocabulary(Told(), BASE, pair).revised(OTHER, pair[OTHER])


def mapped_files():
    return Path("/proc/self/maps").read_text().count("(deleted)")


def test_a_rearranged_tensor_takes_no_memory_and_is_gone_when_released(kit, other):
    gc.collect()  # what earlier tests left
    before = mapped_files()
    raw = other.raw(kit.EMBEDDING)
    assert other.held_bytes(kit.EMBEDDING) == 0
    assert mapped_files() == before + 1
    assert not raw.flags.writeable
    assert raw.nbytes == other.spec(kit.EMBEDDING).size_bytes

    other.release(kit.EMBEDDING)
    del raw
    gc.collect()
    assert mapped_files() == before


def test_it_is_built_once_while_in_use_and_its_inputs_are_released(kit, pair, other):
    own = pair[OTHER]
    first, second = other.raw(kit.EMBEDDING), other.raw(kit.EMBEDDING)
    assert first.ctypes.data == second.ctypes.data
    assert own.asked == own.released == [kit.EMBEDDING]
    assert pair[BASE].released == [kit.EMBEDDING]

    other.release(kit.EMBEDDING)
    other.raw(kit.EMBEDDING)
    assert own.asked == [kit.EMBEDDING]
    other.release(kit.EMBEDDING)
    other.release(kit.EMBEDDING)
    other.raw(kit.EMBEDDING)
    assert own.asked == [kit.EMBEDDING] * 2


def test_threads_that_ask_at_once_get_one(kit, pair, other):
    found = []
    barrier = threading.Barrier(8)

    def ask():
        barrier.wait()
        found.append(other.raw(kit.HEAD))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()

    assert len({one.ctypes.data for one in found}) == 1
    assert pair[OTHER].asked == [kit.HEAD]


def test_blocks_of_any_size_give_the_same(kit, other, monkeypatch):
    whole = np.array(other.raw(kit.EMBEDDING))
    other.release(kit.EMBEDDING)
    for size in (1, 160, 1000):
        monkeypatch.setattr(filling, "_BLOCK_BYTES", size)
        assert np.array_equal(other.raw(kit.EMBEDDING), whole)
        other.release(kit.EMBEDDING)


def test_files_lie_where_they_are_told_and_leave_nothing(kit, pair, tmp_path):
    room = tmp_path / "room"
    vocabulary = make_vocabulary(Told(), BASE, pair, directory=room)
    source = vocabulary.revised(OTHER, pair[OTHER])
    with pytest.raises(FileNotFoundError):
        source.raw(kit.EMBEDDING)
    room.mkdir()
    source.raw(kit.EMBEDDING)

    assert not list(room.iterdir())


def test_after_a_refusal_it_can_be_asked_for_again(kit, pair):
    third = Reference("third")
    models = {**pair, third: kit.model("c", kit.bpe("hello", special=("<b>",)))}
    source = make_vocabulary(Told(), BASE, models).revised(BASE, pair[BASE])
    row = pair[OTHER].tensors[kit.HEAD][260]
    kept = row.clone()
    row.fill_(float("nan"))
    for _ in range(2):
        with pytest.raises(NonFinite):
            source.raw(kit.HEAD)
    row.copy_(kept)

    assert torch.isfinite(kit.rows_of(source, kit.HEAD)).all()
    assert pair[OTHER].asked == pair[OTHER].released
