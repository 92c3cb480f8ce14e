"""Files that change under a watch."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from model_pool.file_watch import FileWatch, stamps_of
from support.fleet import until


class Reader:
    """Remembers what it read each time that it was told of a change."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.texts: list[str] = []

    async def read(self) -> None:
        self.texts.append(self.path.read_text())

    async def until_read(self, text: str) -> None:
        async def is_read() -> bool:
            return text in self.texts

        await until(is_read)


@contextlib.asynccontextmanager
async def watched(
    reader: Reader, paths: Callable[[], list[Path]], settled_s: float = 0.1
) -> AsyncIterator[FileWatch]:
    watch = FileWatch(paths, reader.read, interval_s=0.01, settled_s=settled_s)
    task = asyncio.create_task(watch.run(stamps_of(paths())))
    try:
        yield watch
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_half_written_file_is_not_read(tmp_path: Path) -> None:
    reader = Reader(tmp_path / "file")
    reader.path.write_text("before")
    written = iter(["before", "a", "af", "aft", "afte", "after"])

    def write_on() -> list[Path]:
        """Some more of it before each look."""
        with contextlib.suppress(StopIteration):
            reader.path.write_text(next(written))
        return [reader.path]

    async with watched(reader, write_on, settled_s=0.01):
        await reader.until_read("after")

    assert reader.texts == ["after"]


async def test_a_link_that_is_swapped_is_seen_as_kubernetes_swaps_it(tmp_path: Path) -> None:
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "fleet.yaml").write_text(version)
    (tmp_path / "..data").symlink_to("one")
    reader = Reader(tmp_path / "fleet.yaml")
    reader.path.symlink_to("..data/fleet.yaml")
    async with watched(reader, lambda: [reader.path]):
        (tmp_path / "..new").symlink_to("two")
        (tmp_path / "..new").replace(tmp_path / "..data")
        await reader.until_read("two")


async def test_what_lies_below_a_directory_counts_and_what_comes_and_goes(tmp_path: Path) -> None:
    reader = Reader(tmp_path / "file")
    directory = tmp_path / "delta"
    reader.path.write_text("0")
    async with watched(reader, lambda: [reader.path, directory]):
        for number, change in enumerate(
            (
                lambda: (directory / "deep").mkdir(parents=True),
                lambda: (directory / "deep" / "payload").write_text("x"),
                lambda: (directory / "deep" / "payload").unlink(),
                lambda: (directory / "deep").rmdir(),
            )
        ):
            change()
            reader.path.write_text(str(number + 1))
            await reader.until_read(str(number + 1))


async def test_who_asks_need_not_wait_for_a_change(tmp_path: Path) -> None:
    reader = Reader(tmp_path / "file")
    reader.path.write_text("same")
    async with watched(reader, lambda: [reader.path], settled_s=1000) as watch:
        watch.look_now()
        await reader.until_read("same")
