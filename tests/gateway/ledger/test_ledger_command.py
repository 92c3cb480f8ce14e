"""deltafleet ledger: check, export and prune, on both kinds of database."""

from __future__ import annotations

import asyncio
import csv
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from gateway.__main__ import main
from gateway.ledger_store import LedgerStore, RequestRow, exporting
from gateway.ledger_store.tables import DAY_US
from support.fleet import DEMO
from support.ledger_rows import row

Ask = Callable[[str], list[tuple[object, ...]]]
Run = Callable[..., Result]
FOREVER_AGO = [row(number, finished_at_us=number * DAY_US // 4) for number in range(12)]


@pytest.fixture
def command(place: sa.URL, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `deltafleet ledger ...` on that database."""
    if place.get_backend_name() == "sqlite":
        monkeypatch.setenv("DELTAFLEET_LEDGER__PATH", str(place.database))
    else:
        monkeypatch.setenv("DELTAFLEET_LEDGER_URL", place.render_as_string(hide_password=False))

    def run(verb: str, *options: str) -> Result:
        return CliRunner().invoke(main, ["ledger", verb, str(DEMO), *options])

    return run


async def keep(place: sa.URL, rows: list[RequestRow]) -> None:
    store = LedgerStore(place)
    await store.open()
    await asyncio.gather(*map(store.append, rows))
    await store.close()


def records(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


async def test_check_tells_what_is_there_and_what_is_wrong(
    place: sa.URL, command: Run, ask: Ask
) -> None:
    await keep(place, FOREVER_AGO)
    found = command("check", "--json")
    assert (found.exit_code, json.loads(found.output)["request_count"]) == (0, 12)
    assert command("check").output.endswith("whole\n")

    ask("UPDATE requests SET busy_us = -1 WHERE row_id = 'id-3'")
    found = command("check")
    assert found.exit_code == 1
    assert "rows with a number below 0: 1\nnot whole\n" in found.output


async def test_check_sees_a_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.sqlite3"
    await keep(sa.URL.create("sqlite", database=str(path)), [row(number) for number in range(500)])
    content = bytearray(path.read_bytes())
    for place in range(4096 * 8, len(content) - 4096 * 8):
        content[place] ^= 0x5A
    path.write_bytes(content)
    monkeypatch.setenv("DELTAFLEET_LEDGER__PATH", str(path))

    found = CliRunner().invoke(main, ["ledger", "check", str(DEMO)])
    assert found.exit_code == 1
    assert "not whole" in found.output or "malformed" in found.output


async def test_csv_and_parquet_have_every_request(
    place: sa.URL, command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "PAGE_ROW_COUNT", 5)
    await keep(place, FOREVER_AGO)
    for name in ("all.csv", "all.parquet"):
        found = command("export", "--out", str(tmp_path / name))
        assert found.exit_code == 0, found.output
        assert "12 requests" in found.output

    lines = records(tmp_path / "all.csv")
    rows = pq.read_table(tmp_path / "all.parquet").to_pylist()
    expected = {one.row_id: one for one in FOREVER_AGO}
    assert {line["row_id"] for line in lines} == {one["row_id"] for one in rows} == set(expected)
    for line, one in zip(lines, rows, strict=True):
        truth = expected[one["row_id"]]
        assert json.loads(line["baselines_nano_usd"]) == truth.baselines
        assert dict(one["baselines_nano_usd"]) == truth.baselines
        for name in ("request_id", "finished_at_us", "model", "cost_nano_usd", "first_token_us"):
            assert one[name] == getattr(truth, name)
            assert line[name] == ("" if one[name] is None else str(one[name]))
    assert not list(tmp_path.glob(".all*"))


async def test_an_export_of_a_time_has_what_finished_in_it(
    place: sa.URL, command: Run, tmp_path: Path
) -> None:
    await keep(place, FOREVER_AGO)
    out = tmp_path / "some.csv"
    command("export", "--out", str(out), "--from", "1970-01-01T06:00:00", "--to", "1970-01-02")
    lines = records(out)
    assert sorted(line["row_id"] for line in lines) == ["id-1", "id-2", "id-3"]

    found = command("export", "--out", str(out), "--from", "1970-01-02", "--to", "1970-01-02")
    assert found.exit_code == 2
    assert "not after --from" in found.output


async def test_pruning_folds_and_daily_sums_keep_the_totals(
    place: sa.URL, command: Run, ask: Ask, tmp_path: Path
) -> None:
    today = row(99, finished_at_us=int(datetime.now(UTC).timestamp()) * 1_000_000)
    await keep(place, [*FOREVER_AGO, today])
    before, after = tmp_path / "before.csv", tmp_path / "after.csv"
    command("export", "--daily", "--out", str(before))
    assert command("prune").exit_code == 1  # the demo says of no days that it keeps
    found = command("prune", "--keep-days", "30")
    command("export", "--daily", "--out", str(after))

    assert "12 requests folded" in found.output
    assert ask("SELECT row_id FROM requests") == [("id-99",)]
    assert before.read_text() == after.read_text()
    assert len(before.read_text().splitlines()) == 1 + 3 + 1
    assert command("check").exit_code == 0


async def test_parquet_without_pyarrow_says_what_to_install(
    place: sa.URL, command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await keep(place, [])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    found = command("export", "--out", str(tmp_path / "a.parquet"))
    assert found.exit_code == 1
    assert "deltafleet[parquet]" in found.output
    assert "ends with .csv or .parquet" in command("export", "--out", "a.xlsx").output


def test_a_ledger_that_is_not_there_is_not_made(place: sa.URL, command: Run) -> None:
    found = command("check")
    assert found.exit_code == 1
    assert "no ledger yet" in found.output or "revision none" in found.output
    assert not place.database or not Path(place.database).exists()
