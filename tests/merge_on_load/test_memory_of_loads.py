"""Memory that comes in huge pages, and rooms that are used again."""

import sys
import threading
from pathlib import Path

import pytest
import torch

from merge_on_load import memory
from merge_on_load.memory import Room, ask_for_huge_pages

_SIZE = 8 << 20


def flags_at(address: int) -> list[str]:
    """What the system has noted of the memory there."""
    is_it = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, *rest = line.split()
        if "-" in first and not first.endswith(":"):
            begin, end = (int(one, 16) for one in first.split("-"))
            is_it = begin <= address < end
        elif is_it and first == "VmFlags:":
            return rest
    return []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of it")
def test_the_system_is_asked_for_huge_pages():
    tensor = torch.empty(_SIZE, dtype=torch.uint8)

    ask_for_huge_pages(tensor)

    assert "hg" in flags_at(tensor.data_ptr() + _SIZE // 2)


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 3 << 20])
def test_what_memory_holds_stays(size):
    tensor = torch.arange(size, dtype=torch.int64).to(torch.uint8)
    expected = tensor.clone()

    ask_for_huge_pages(tensor)

    assert torch.equal(tensor, expected)


def test_a_system_without_huge_pages_is_no_error(monkeypatch):
    monkeypatch.setattr(memory, "_madvise", lambda: None)

    ask_for_huge_pages(torch.empty(_SIZE, dtype=torch.uint8))


def test_a_room_is_used_again_and_grows():
    room = Room()
    first = room.of(1000)
    first.fill_(7)

    assert room.of(10).data_ptr() == first.data_ptr()
    assert room.of(2000).shape == (2000,)
    assert bool((first == 7).all())  # who still has it keeps it, though the room moved on


def test_each_thread_has_its_own_room():
    room, found = Room(), list[torch.Tensor]()
    mine = room.of(1000)

    thread = threading.Thread(target=lambda: found.append(room.of(1000)))
    thread.start()
    thread.join()

    assert found[0].data_ptr() != mine.data_ptr()
