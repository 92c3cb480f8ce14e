"""The HTTP door asks for the same keys as the gRPC one, over TLS, and holds callers to limits."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import openai
import pytest
import pytest_asyncio

from support.certificates import Authority, make_authority
from support.fleet import Fleet, running_fleet
from support.http_door import http_address
from support.issuer import Issuer
from support.tenants import Tenants

ASK = [{"role": "user", "content": "What is 2 + 3?"}]


class Guarded:
    """A fleet with keys, behind TLS."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority: Authority = make_authority()
        self.server = self.authority.write(directory, "gateway")
        self.tenants = Tenants(directory, Issuer())
        self.tenants.add("anybody", scopes=["infer"])
        self.tenants.add("by-x-api-key", scopes=["infer"], header="x-api-key")
        self.tenants.add("only-sql", scopes=["infer"], models=["sql"])
        self.tenants.add("accountant", scopes=["read-costs"])
        self.tenants.add("seldom", scopes=["infer"], requests_per_minute=2)
        self.tenants.add("gone", scopes=["infer"])
        self.tenants.revoke("gone")

    @property
    def settings(self) -> dict[str, object]:
        return {
            "server__http": "127.0.0.1:0",
            "server__tls": {
                "certificate": str(self.server.certificate),
                "key": str(self.server.key),
            },
            "identity": {"keys_file": str(self.tenants.keys_file)},
        }

    def context(self, authority: Authority | None = None) -> ssl.SSLContext:
        known = (authority or self.authority).pem.decode()
        return ssl.create_default_context(cadata=known)

    def client(self, fleet: Fleet, key: str) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=f"https://{http_address(fleet)}/v1",
            api_key=key,
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(verify=self.context()),
        )


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Guarded:
    made = Guarded(tmp_path_factory.mktemp("who"))
    made.tenants.issuer.close()
    return made


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def fleet(guarded: Guarded) -> AsyncIterator[Fleet]:
    from gateway.commands.client_channel import ClientTls, open_channel

    def connect(address: str) -> object:
        return open_channel(address, ClientTls(guarded.server.ca, None, None), None)

    async with running_fleet(guarded.directory, connect=connect, **guarded.settings) as running:
        yield running


async def ask(guarded: Guarded, fleet: Fleet, key: str, model: str = "arithmetic") -> str:
    async with guarded.client(fleet, key) as client:
        answer = await client.chat.completions.create(model=model, messages=ASK, max_tokens=8)
    return answer.choices[0].message.content or ""


async def test_a_key_that_holds_is_answered(guarded: Guarded, fleet: Fleet) -> None:
    assert await ask(guarded, fleet, guarded.tenants.key_of("anybody"))


async def test_as_x_api_key_too(guarded: Guarded, fleet: Fleet) -> None:
    body = {"model": "arithmetic", "messages": ASK, "max_tokens": 8}
    async with httpx2.AsyncClient(verify=guarded.context(), timeout=120) as client:
        answer = await client.post(
            f"https://{http_address(fleet)}/v1/chat/completions",
            json=body,
            headers=dict(guarded.tenants.metadata["by-x-api-key"]),
        )
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("key", ["wrong", "dfk_0123456789_wrong", "gone"])
async def test_one_that_does_not_is_no_key(guarded: Guarded, fleet: Fleet, key: str) -> None:
    shown = guarded.tenants.key_of("gone") if key == "gone" else key
    with pytest.raises(openai.AuthenticationError) as refused:
        await ask(guarded, fleet, shown)
    assert refused.value.code == "invalid_api_key"
    assert shown not in str(refused.value.body)


async def test_without_the_scope_or_the_model_it_is_forbidden(
    guarded: Guarded, fleet: Fleet
) -> None:
    with pytest.raises(openai.PermissionDeniedError):
        await ask(guarded, fleet, guarded.tenants.key_of("accountant"))
    with pytest.raises(openai.PermissionDeniedError):
        await ask(guarded, fleet, guarded.tenants.key_of("only-sql"), "arithmetic")
    assert await ask(guarded, fleet, guarded.tenants.key_of("only-sql"), "sql")
    async with guarded.client(fleet, guarded.tenants.key_of("only-sql")) as client:
        assert {one.id async for one in client.models.list()} == {"auto", "sql"}


async def test_a_limit_is_told_in_headers_and_then_as_a_rate_limit(
    guarded: Guarded, fleet: Fleet
) -> None:
    async with guarded.client(fleet, guarded.tenants.key_of("seldom")) as client:
        left = []
        for _ in range(2):
            raw = await client.chat.completions.with_raw_response.create(
                model="arithmetic", messages=ASK, max_tokens=8
            )
            left.append(raw.headers["x-ratelimit-remaining-requests"])
        assert left == ["1", "0"]
        assert raw.headers["x-ratelimit-limit-requests"] == "2"
        with pytest.raises(openai.RateLimitError) as refused:
            await client.chat.completions.create(model="arithmetic", messages=ASK, max_tokens=8)
    assert refused.value.code == "rate_limit_exceeded"
    assert int(refused.value.response.headers["retry-after"]) >= 1


async def test_new_connections_have_the_new_certificate(guarded: Guarded, fleet: Fleet) -> None:
    """The last test: the old authority is not taken any more."""
    url = f"https://{http_address(fleet)}/health/live"
    other = make_authority("another")
    async with httpx2.AsyncClient(verify=guarded.context()) as before:
        assert (await before.get(url)).status_code == 200
        other.write(guarded.directory, "gateway")
        assert (await before.get(url)).status_code == 200  # the same connection
        async with httpx2.AsyncClient(verify=guarded.context(other)) as after:
            assert (await after.get(url)).status_code == 200
    with pytest.raises(httpx2.ConnectError):
        async with httpx2.AsyncClient(verify=guarded.context()) as stale:
            await stale.get(url)
