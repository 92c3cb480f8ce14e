"""deltafleet keys, as a person types it."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.errors import Unauthenticated
from gateway.identity.keys import KeyRing
from gateway.identity.keys_file import load_keys
from support.command import Ended, run


async def keys(path: Path, *arguments: str) -> Ended:
    return await run("keys", *arguments, "--file", path)


def now() -> datetime:
    return datetime.now(UTC)


async def test_a_key_is_made_listed_replaced_and_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    made = await keys(path, "create", "nightly", "--model", "sql", "--requests-per-minute", "9")
    text = made.output.strip()
    caller = KeyRing(load_keys(path).keys).caller(text, now())
    assert (caller.name, caller.models) == ("nightly", {"sql"})
    assert caller.limits.requests_per_minute == 9
    assert text not in path.read_text() and text not in made.errors

    listed = await keys(path, "list", "--json")
    [(name, row)] = json.loads(listed.output).items()
    assert row["state"] == "good" and "hash" not in row
    assert timedelta(days=89) < datetime.fromisoformat(row["expires"]) - now()

    replaced = (await keys(path, "rotate", name, "--overlap", "1h")).output.strip()
    ring = KeyRing(load_keys(path).keys)
    assert ring.caller(replaced, now()) == ring.caller(text, now()) == caller
    with pytest.raises(Unauthenticated, match="has expired"):
        ring.caller(text, now() + timedelta(hours=2))

    assert (await keys(path, "revoke", name)).code == 0
    ring = KeyRing(load_keys(path).keys)
    assert ring.caller(replaced, now()) == caller
    with pytest.raises(Unauthenticated, match="was revoked"):
        ring.caller(text, now())
    table = (await keys(path, "list")).output
    assert "was revoked" in table and "good" in table
    assert (await keys(path, "rotate", name)).code == 1, "a revoked key does not come back"


@pytest.mark.parametrize(
    "arguments",
    [
        ("create", "a b"),
        ("create", "a", "--scope", "everything"),
        ("create", "a", "--expires", "soon"),
        ("create", "a", "--daily-budget-usd", "-1"),
        ("revoke", "0" * 16),
        ("list",),
    ],
    ids=" ".join,
)
async def test_what_is_wrong_changes_nothing(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    path = tmp_path / "keys.yaml"
    ended = await keys(path, *arguments)
    assert ended.code in (1, 2) and "Traceback" not in ended.errors
    assert not path.exists() or not load_keys(path).keys


async def test_many_at_once_lose_no_key(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    made = await asyncio.gather(*(keys(path, "create", f"caller-{one}") for one in range(4)))
    ring = KeyRing(load_keys(path).keys)
    names = {ring.caller(one.output.strip(), now()).name for one in made}
    assert names == {f"caller-{one}" for one in range(4)}
