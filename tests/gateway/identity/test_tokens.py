"""Tokens of an issuer: what they must be, and keys that come, go and are away."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from pydantic import ValidationError

from gateway.caller import Caller, Limits, Scope
from gateway.errors import Unauthenticated
from gateway.identity.key_set import LARGEST_BYTE_COUNT, KeySet, from_file, from_url
from gateway.identity.settings import Jwt
from gateway.identity.tokens import Tokens
from support.issuer import AUDIENCE, Issuer


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    """With one RSA key."""
    issuer = Issuer()
    issuer.add_key("first", "RS256")
    yield issuer
    issuer.close()


class Clock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s


def settings_of(issuer: Issuer, **changes: object) -> Jwt:
    given = {"issuer": issuer.name, "audience": AUDIENCE, "jwks_url": issuer.jwks_url, **changes}
    return Jwt.model_validate(given)


def tokens_of(issuer: Issuer, clock: Clock | None = None, **changes: object) -> Tokens:
    settings = settings_of(issuer, **changes)
    keys = KeySet(from_url(issuer.jwks_url), max_age_s=3600, retry_s=30, monotonic=clock or Clock())
    return Tokens(settings, keys)


async def refusal(tokens: Tokens, token: str) -> str:
    with pytest.raises(Unauthenticated) as refused:
        await tokens.caller(token)
    assert token not in refused.value.message
    return refused.value.message


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
async def test_a_good_token_names_its_caller(issuer: Issuer, algorithm: str) -> None:
    issuer.add_key("k", algorithm)
    tokens = tokens_of(issuer, limits={"requests_per_minute": 7})
    caller = await tokens.caller(issuer.token("k", scope="openid read-costs infer"))

    scopes = frozenset({Scope.INFER, Scope.READ_COSTS})
    assert caller == Caller("robot", scopes, None, Limits(7), is_proven=True)


async def test_claims_may_have_other_names(issuer: Issuer) -> None:
    tokens = tokens_of(
        issuer,
        caller_claim="client_id",
        caller_prefix="oidc:",
        scopes_claim="roles",
        scope_prefix="fleet.",
        models_claim="models",
    )
    roles = ["fleet.administer", "infer", 3]
    token = issuer.token("first", client_id="night", roles=roles, models=["sql"])
    caller = await tokens.caller(token)
    assert (caller.name, caller.scopes) == ("oidc:night", {Scope.ADMINISTER})
    assert caller.models == {"sql"}

    none = await tokens.caller(issuer.token("first", client_id="night"))
    assert (none.scopes, none.models) == (frozenset(), frozenset()), "what is not said is not given"


BAD = {
    "expired": {"exp": int(time.time()) - 3600},
    "not yet": {"nbf": int(time.time()) + 3600},
    "another audience": {"aud": "others"},
    "no audience": {"aud": None},
    "another issuer": {"iss": "https://elsewhere.example"},
    "no issuer": {"iss": None},
    "no end": {"exp": None},
    "nobody": {"sub": None},
    "a name that is no text": {"sub": 7},
    "a name with a space": {"sub": "a b"},
    "an empty name": {"sub": ""},
}


@pytest.mark.parametrize("claims", BAD.values(), ids=BAD.keys())
async def test_a_bad_token_is_refused(issuer: Issuer, claims: dict[str, object]) -> None:
    await refusal(tokens_of(issuer), issuer.token("first", **claims))


async def test_clocks_may_differ_a_little(issuer: Issuer) -> None:
    late = issuer.token("first", exp=int(time.time()) - 20)
    assert (await tokens_of(issuer).caller(late)).name == "robot"
    await refusal(tokens_of(issuer, leeway_s=0), late)


def signed_with(public: bytes, claims: dict[str, object]) -> str:
    """With the public key as a shared secret (HS256), which a careless checker takes."""
    parts = ({"alg": "HS256", "kid": "first"}, claims)
    text = b".".join(base64.urlsafe_b64encode(json.dumps(one).encode()) for one in parts)
    text = text.replace(b"=", b"")
    seal = base64.urlsafe_b64encode(hmac.digest(public, text, "sha256")).rstrip(b"=")
    return (text + b"." + seal).decode()


async def test_a_token_that_nobody_signed_is_refused(issuer: Issuer) -> None:
    tokens = tokens_of(issuer)
    good = issuer.token("first")
    head, body, signature = good.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    other = base64.urlsafe_b64encode(json.dumps(claims | {"sub": "boss"}).encode()).decode()
    public = issuer.public_key("first").public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for forged in (
        f"{head}.{other.rstrip('=')}.{signature}",
        jwt.encode(claims, "", "none", headers={"kid": "first"}),
        signed_with(public, claims),
        f"{head}.{body}.",
        "a.b.c",
        "nothing",
        "é" * 10,
    ):
        await refusal(tokens, forged)
    assert (await tokens.caller(good)).name == "robot"


async def test_an_algorithm_that_is_not_listed_is_refused(issuer: Issuer) -> None:
    issuer.add_key("k", "ES256")
    tokens = tokens_of(issuer, algorithms=["RS256"])
    await refusal(tokens, issuer.token("k"))
    assert (await tokens.caller(issuer.token("first"))).name == "robot"


async def test_a_new_key_is_fetched_when_it_is_first_seen(issuer: Issuer) -> None:
    clock = Clock()
    tokens = tokens_of(issuer, clock)
    old = issuer.token("first")
    assert (await tokens.caller(old)).name == "robot"
    issuer.add_key("second", "ES256")
    issuer.drop_key("first")
    new = issuer.token("second")
    await refusal(tokens, new)  # the issuer was asked less than retry_s ago
    clock.s += 30

    assert (await tokens.caller(new)).name == "robot"
    await refusal(tokens, old)  # though it was remembered: its key was taken back
    assert issuer.asked_count == 2


async def test_nobody_makes_the_gateway_ask_without_end(issuer: Issuer) -> None:
    clock = Clock()
    tokens = tokens_of(issuer, clock)
    issuer.add_key("stranger", "RS256")
    strange = issuer.token("stranger")
    issuer.drop_key("stranger")
    for _ in range(20):
        await refusal(tokens, strange)
    assert issuer.asked_count == 1
    clock.s += 31
    await refusal(tokens, strange)
    assert issuer.asked_count == 2


async def test_while_the_issuer_is_away_known_keys_are_good(issuer: Issuer) -> None:
    clock = Clock()
    tokens = tokens_of(issuer, clock)
    await tokens.caller(issuer.token("first"))
    issuer.add_key("second", "RS256")
    issuer.status = 503
    clock.s += 3600
    await refusal(tokens, issuer.token("second"))
    assert (await tokens.caller(issuer.token("first", sub="other"))).name == "other"
    issuer.status = 200
    clock.s += 31
    assert (await tokens.caller(issuer.token("second"))).name == "robot"


async def test_an_issuer_that_answers_nonsense_changes_nothing() -> None:
    clock, issuer = Clock(), Issuer()
    issuer.add_key("first", "RS256")
    good = json.dumps(issuer.key_set()).encode()
    issuer.close()
    answers = [good, b"", b"[]", b"{}", b'{"keys": 3}', b'{"keys": [{"kty": "oct", "k": "YQ"}]}']
    answers += [b"[" * 100_000, b"\xff"]
    left = iter(answers)

    async def fetch() -> bytes:
        return next(left)

    keys = KeySet(fetch, max_age_s=3600, retry_s=30, monotonic=clock)
    for _ in answers:
        assert await keys.find("never") is None
        assert await keys.find("first") is not None
        clock.s += 31
    assert next(left, None) is None, "each was asked for"
    assert keys.version == 1


async def test_an_issuer_that_answers_too_much_is_not_read_to_its_end(issuer: Issuer) -> None:
    issuer.padding = "x" * (2 * LARGEST_BYTE_COUNT)
    keys = KeySet(from_url(issuer.jwks_url), max_age_s=3600, retry_s=30, monotonic=Clock())
    assert await keys.find("first") is None
    assert issuer.asked_count == 1


async def test_a_token_is_checked_once(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, token, checked = tokens_of(issuer), issuer.token("first"), []
    real = jwt.PyJWT.decode
    monkeypatch.setattr(
        jwt.PyJWT, "decode", lambda *given, **more: checked.append(1) or real(*given, **more)
    )
    callers = {(await tokens.caller(token)).name for _ in range(5)}
    assert callers == {"robot"} and len(checked) == 1


async def test_a_token_is_remembered_until_it_expires(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    clock.s = time.time()
    keys = KeySet(from_url(issuer.jwks_url), max_age_s=3600, retry_s=30)
    tokens = Tokens(settings_of(issuer, leeway_s=0), keys, now=clock)
    token = issuer.token("first", exp=int(time.time()) + 60)
    await tokens.caller(token)
    monkeypatch.setattr(jwt.PyJWT, "decode", lambda *given, **more: {"exp": 0, "sub": "again"})
    assert (await tokens.caller(token)).name == "robot"
    clock.s += 61
    assert (await tokens.caller(token)).name == "again"


async def test_keys_may_lie_in_a_file(issuer: Issuer, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps(issuer.key_set()))
    keys = KeySet(from_file(path), max_age_s=3600, retry_s=0)
    tokens = Tokens(settings_of(issuer), keys)
    assert (await tokens.caller(issuer.token("first"))).name == "robot"
    path.write_text("nonsense")
    issuer.add_key("second", "ES256")
    await refusal(tokens, issuer.token("second"))
    path.write_text(json.dumps(issuer.key_set()))
    assert (await tokens.caller(issuer.token("second"))).name == "robot"


WRONG = {
    "a shared secret": {"algorithms": ["HS256"]},
    "no signature": {"algorithms": ["none"]},
    "no source of keys": {"jwks_url": None},
    "two sources": {"jwks_file": "keys.json"},
    "keys that anybody may change": {"jwks_url": "http://issuer.example/keys"},
}


@pytest.mark.parametrize("changes", WRONG.values(), ids=WRONG.keys())
def test_settings_that_let_others_in_are_refused(issuer: Issuer, changes: object) -> None:
    with pytest.raises(ValidationError):
        settings_of(issuer, **changes)
