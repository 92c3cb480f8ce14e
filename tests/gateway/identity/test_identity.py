"""Who calls, by what was shown; and what is said where nobody is asked."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from gateway.caller import Caller, Credentials, Scope, admit_anybody
from gateway.errors import PermissionDenied, Unauthenticated
from gateway.identity.identity import Identity, bearer, peer_names, read_metadata
from gateway.identity.keys import KeyRecord, KeyRing, NewKey, make_key
from gateway.identity.models import AllowedModels
from gateway.identity.opening import admission, check_identity, open_identity
from gateway.identity.scopes import require, require_for
from gateway.identity.settings import Identity as Settings
from gateway.identity.settings import is_private
from gateway.identity.watched_file import WatchedFile
from gateway.settings import Settings as FleetSettings
from model_pool.settings import SettingsError
from support.certificates import make_authority
from support.fleet import DEMO

NOW = datetime(2026, 11, 22, tzinfo=UTC)
BATCH = Caller("batch", is_proven=True)


def identity_of(made: NewKey, tokens: object = None) -> Identity:
    record = KeyRecord.model_validate({"caller": "nightly", "hash": made.hash, "created": NOW})
    ring = KeyRing({made.id: record})
    return Identity(lambda: ring, tokens, {"batch.internal": BATCH}, lambda: NOW)


async def name_of(identity: Identity, **shown: object) -> str:
    return (await identity.identify(Credentials(**shown))).name


async def test_keys_come_in_either_header() -> None:
    made = make_key()
    identity = identity_of(made)
    assert await name_of(identity, authorization=f"Bearer {made.text}") == "nightly"
    assert await name_of(identity, authorization=f"bearer  {made.text} ") == "nightly"
    assert await name_of(identity, api_key=made.text) == "nightly"
    assert await name_of(identity, peer_names=("x", "batch.internal")) == "batch"
    assert await name_of(identity, api_key=made.text, claimed_name="nightly") == "nightly"


async def test_what_is_no_key_is_a_token_where_those_are_taken() -> None:
    async def robot(text: str) -> Caller:
        return Caller(f"robot of {text}")

    made = make_key()
    assert await name_of(identity_of(made, robot), api_key="a.b.c") == "robot of a.b.c"
    with pytest.raises(Unauthenticated):
        await name_of(identity_of(made), api_key="a.b.c")
    with pytest.raises(Unauthenticated):  # one of ours is never asked of anybody else
        await name_of(identity_of(made, robot), api_key="dfk_0_1")


@pytest.mark.parametrize(
    "shown",
    [
        {},
        {"peer_names": ("guest.internal",)},
        {"authorization": "Basic YTpi"},
        {"authorization": "Bearer"},
        {"authorization": "Bearer wrong", "peer_names": ("batch.internal",)},
        {"claimed_name": "nightly"},
    ],
)
async def test_whoever_shows_nothing_good_is_nobody(shown: dict[str, object]) -> None:
    with pytest.raises(Unauthenticated):
        await name_of(identity_of(make_key()), **shown)


async def test_another_name_is_not_believed() -> None:
    made = make_key()
    with pytest.raises(PermissionDenied):
        await name_of(identity_of(made), api_key=made.text, claimed_name="boss")


def test_what_came_twice_is_refused() -> None:
    twice = [("x-api-key", "a"), ("x-api-key", "b")]
    with pytest.raises(Unauthenticated):
        read_metadata(twice)
    assert read_metadata([("x-api-key", "a"), ("x-api-key", "a"), ("else", "b")]) == {
        "x-api-key": "a"
    }
    assert read_metadata(None) == {}
    assert bearer("") == ""


def test_names_of_a_certificate() -> None:
    told = {"x509_common_name": [b"cn"], "x509_subject_alternative_name": [b"san", b"\xff"]}
    assert peer_names(told) == ("san", "�")
    assert peer_names({"x509_common_name": [b"cn"]}) == ("cn",)
    assert peer_names({"transport_security_type": [b"ssl"]}) == ()


def test_a_method_without_a_scope_is_nobodys() -> None:
    everybody = Caller("everything")
    with pytest.raises(PermissionDenied):
        require_for(everybody, "/deltafleet.v1.InferenceService/New")
    with pytest.raises(PermissionDenied):
        require(Caller("a", frozenset({Scope.INFER})), Scope.ADMINISTER)


def test_a_mixture_is_allowed_where_all_of_it_is() -> None:
    models = AllowedModels({"panel": ["sql", "base"]})
    assert models.refusal("panel", None) is None
    assert models.refusal("panel", {"panel", "sql", "base"}) is None
    for allowed, missing in (({"sql", "base"}, "panel"), ({"panel", "sql"}, "base")):
        refused = models.refusal("panel", allowed)
        assert refused is not None and refused.metadata == {"model": missing}


@pytest.mark.parametrize(
    ("listen", "is_ours_alone"),
    [
        ("127.0.0.1:7070", True),
        ("localhost:7070", True),
        ("[::1]:7070", True),
        ("unix:/run/deltafleet.sock", True),
        ("0.0.0.0:7070", False),
        ("[::]:7070", False),
        ("10.0.0.1:7070", False),
        (":7070", False),
    ],
)
async def test_an_open_door_is_told_of(
    listen: str, is_ours_alone: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        assert await open_identity(stack, None) is None
    assert admission(None, [listen]) is admit_anybody
    warned = [one.levelno for one in caplog.records if one.getMessage() == "anybody_may_call"]
    assert warned == ([] if is_ours_alone else [logging.WARNING])
    assert is_private(listen) is is_ours_alone


def test_files_are_checked_before_anything_starts(tmp_path: Path) -> None:
    files = make_authority().write(tmp_path, "gateway")
    tls = {"certificate": str(files.certificate), "key": str(files.key), "ca": str(files.ca)}
    keys = tmp_path / "keys.yaml"
    keys.write_text("")
    document = yaml.safe_load(DEMO.read_text())
    document["identity"] = {"keys_file": str(keys)}
    document["server"] = {"tls": {key: tls[key] for key in ("certificate", "key")}}
    document["pool"] |= {"tls": tls}
    check_identity(FleetSettings.model_validate(document))
    for path in (keys, files.key):
        path.write_text("wrong")
        with pytest.raises(SettingsError):
            check_identity(FleetSettings.model_validate(document))
        path.write_text("")


async def test_a_keys_file_that_is_wrong_refuses_to_start(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    settings = Settings(keys_file=path)
    for content in (None, "keys: 3"):
        if content:
            path.write_text(content)
        async with contextlib.AsyncExitStack() as stack:
            with pytest.raises(SettingsError, match=r"^identity\.keys_file: "):
                await open_identity(stack, settings)


async def test_a_file_that_goes_wrong_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "number"
    path.write_text("1")
    file = WatchedFile(path, int)
    await file.open()
    seen = []
    for content in ("1", "two", "3", None, None, "4"):
        if content is None:
            path.unlink(missing_ok=True)
        elif content != "1":
            aside = tmp_path / "aside"
            aside.write_text(content)
            aside.replace(path)
        await file.look()
        seen.append(file.value)
    assert seen == [1, 1, 3, 3, 3, 4]
    assert [one.getMessage() for one in caplog.records if one.name.startswith("gateway")] == [
        *("file_refused", "file_read_again", "file_unreadable", "file_read_again")
    ]


async def test_following_a_file_ends_with_its_stack(tmp_path: Path) -> None:
    (tmp_path / "keys.yaml").write_text("")
    before = asyncio.all_tasks()
    async with contextlib.AsyncExitStack() as stack:
        await open_identity(stack, Settings(keys_file=tmp_path / "keys.yaml"))
        assert len(asyncio.all_tasks() - before) == 1
    await asyncio.sleep(0)
    assert not asyncio.all_tasks() - before
