"""Keys: only their hashes are kept, and each is good for what its record says, and no longer."""

from __future__ import annotations

import hmac
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
import yaml

from gateway.caller import Limits, Scope
from gateway.errors import Unauthenticated
from gateway.identity.keys import (
    BadKeys,
    KeyRecord,
    KeyRing,
    KeysDocument,
    NewKey,
    hash_of,
    make_key,
    read_keys,
)
from gateway.identity.keys_file import change_keys, load_keys

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def record(made: NewKey, **changes: object) -> KeyRecord:
    given = {"caller": "nightly", "hash": made.hash, "created": NOW, **changes}
    return KeyRecord.model_validate(given)


def refusal(ring: KeyRing, text: str, now: datetime = NOW) -> str:
    with pytest.raises(Unauthenticated) as refused:
        ring.caller(text, now)
    return refused.value.message


def test_a_key_is_its_callers() -> None:
    made = make_key()
    limits = {"requests_per_minute": 60, "tokens_per_minute": 5000, "concurrent_streams": 2}
    money = {"daily_budget_usd": Decimal("0.5"), "monthly_budget_usd": 3}
    given = record(made, scopes=["infer", "read-costs"], models=["sql"], **limits, **money)
    caller = KeyRing({made.id: given}).caller(made.text, NOW)

    assert caller.name == "nightly" and caller.is_proven
    assert caller.scopes == {Scope.INFER, Scope.READ_COSTS}
    assert caller.models == {"sql"}
    assert caller.limits == Limits(60, 5000, 2, 500_000_000, 3_000_000_000)


def test_what_is_not_said_is_little_to_do_and_no_limit() -> None:
    made = make_key()
    caller = KeyRing({made.id: record(made)}).caller(made.text, NOW)

    assert caller.scopes == {Scope.INFER}
    assert caller.models is None
    assert caller.limits == Limits()


def test_keys_are_long_and_differ() -> None:
    made = [make_key() for _ in range(200)]

    assert len({one.id for one in made}) == len({one.text for one in made}) == 200
    assert all(re.fullmatch(r"dfk_[0-9a-f]{16}_[\w-]{43}", one.text) for one in made)


def test_a_wrong_key_and_an_unknown_one_are_told_the_same() -> None:
    made, other = make_key(), make_key()
    ring = KeyRing({made.id: record(made)})
    wrong = made.text[:-1] + ("A" if made.text[-1] != "A" else "B")
    stolen_id = f"dfk_{made.id}_{other.text.rpartition('_')[2]}"

    told = {refusal(ring, text) for text in (wrong, other.text, stolen_id, "dfk_", "dfk_é_\ud800")}
    assert told == {"the key is not known"}


def test_a_hash_is_good_for_its_own_record_only() -> None:
    made = make_key()
    ring = KeyRing({"0" * 16: record(made)})

    assert refusal(ring, made.text) == "the key is not known"
    assert refusal(ring, made.text.replace(made.id, "0" * 16)) == "the key is not known"


def test_every_key_is_compared_whole_and_in_constant_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, seen = make_key(), []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda *two: seen.append(two) or real(*two))
    ring = KeyRing({made.id: record(made)})
    ring.caller(made.text, NOW)
    refusal(ring, make_key().text)

    assert len(seen) == 2, "an unknown id is compared, too"
    assert all(len(one) == len(hash_of("")) for two in seen for one in two)


def test_a_key_ends() -> None:
    made = make_key()
    ring = KeyRing({made.id: record(made, expires=NOW + timedelta(days=1))})

    assert ring.caller(made.text, NOW + timedelta(hours=23)).name == "nightly"
    assert refusal(ring, made.text, NOW + timedelta(days=1)) == f"the key {made.id} has expired"


def test_that_a_key_was_revoked_is_told_to_who_has_it() -> None:
    made = make_key()
    ring = KeyRing({made.id: record(made, revoked=NOW)})

    assert refusal(ring, made.text) == f"the key {made.id} was revoked"
    assert refusal(ring, f"dfk_{made.id}_guess") == "the key is not known"


GOOD = {"caller": "a", "hash": "sha256:" + "0" * 64, "created": "2026-11-22T00:00:00Z"}
WRONG = {
    "unknown key": GOOD | {"scope": ["infer"]},
    "unknown scope": GOOD | {"scopes": ["everything"]},
    "another hash": GOOD | {"hash": "md5:" + "0" * 32},
    "a key in place of its hash": GOOD | {"hash": make_key().text},
    "no time zone": GOOD | {"expires": "2026-11-22T00:00:00"},
    "a name with a space": GOOD | {"caller": "a b"},
    "no name": {key: value for key, value in GOOD.items() if key != "caller"},
    "a limit of nothing": GOOD | {"requests_per_minute": 0},
    "a budget below nothing": GOOD | {"daily_budget_usd": -1},
}


@pytest.mark.parametrize("given", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_file_is_refused_and_not_quoted(given: dict[str, object]) -> None:
    with pytest.raises(BadKeys) as refused:
        read_keys(yaml.safe_dump({"keys": {"0" * 16: given}}).encode())
    assert "0" * 16 in str(refused.value)
    assert str(given.get("hash")) not in str(refused.value)


@pytest.mark.parametrize("data", [b"{", b"\xff", b"- 1", b"keys: 3", b"locks: {}"])
def test_what_is_no_keys_file_is_refused(data: bytes) -> None:
    with pytest.raises(BadKeys):
        read_keys(data)


def test_an_empty_file_has_no_keys() -> None:
    assert read_keys(b"") == KeysDocument()


def test_a_file_keeps_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    made = make_key()
    given = record(made, models=["sql"], expires=NOW, daily_budget_usd=Decimal("0.25"))
    change_keys(path, lambda document: KeysDocument(keys={**document.keys, made.id: given}))

    assert load_keys(path).keys == {made.id: given}
    assert made.text[-43:] not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_change_that_fails_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text("keys: {}\n")

    def fail(document: KeysDocument) -> KeysDocument:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        change_keys(path, fail)
    assert path.read_text() == "keys: {}\n"
    assert {one.name for one in tmp_path.iterdir()} <= {"keys.yaml", "keys.yaml.lock"}
