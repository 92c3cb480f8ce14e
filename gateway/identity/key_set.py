"""An issuer's public keys (a JWKS, RFC 7517), fetched again when one is not known."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx2
from jwt import PyJWK, PyJWKSet
from jwt.exceptions import PyJWTError

LARGEST_BYTE_COUNT = 2**20
FETCH_LIMIT_S = 5.0
SHORTEST_PAUSE_S = 1.0
Fetch = Callable[[], Awaitable[bytes]]
log = logging.getLogger(__name__)


def from_url(url: str) -> Fetch:
    """Ask an HTTP server. What it raises: httpx2.HTTPError, ValueError."""

    async def fetch() -> bytes:
        async with (
            httpx2.AsyncClient(timeout=FETCH_LIMIT_S) as client,
            client.stream("GET", url) as response,
        ):
            response.raise_for_status()
            data = b""
            async for part in response.aiter_bytes():
                data += part
                if len(data) > LARGEST_BYTE_COUNT:
                    raise ValueError("the answer is too large")
            return data

    return fetch


def from_file(path: Path) -> Fetch:
    """Read a file. What it raises: OSError."""

    async def fetch() -> bytes:
        return await asyncio.to_thread(path.read_bytes)

    return fetch


def read_key_set(data: bytes) -> dict[str, PyJWK]:
    """Keys to check signatures with, by their ids. Raises ValueError where there are none."""
    try:
        found = PyJWKSet.from_dict(json.loads(data)).keys
    except (PyJWTError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a key set: {type(error).__name__}") from None
    usable = {
        one.key_id or "": one
        for one in found
        if one.key_type != "oct" and one.public_key_use in (None, "sig")
    }
    if not usable:
        raise ValueError("no key in it checks signatures")
    return usable


class KeySet:
    """Where the issuer is away, the keys that are known go on.

    max_age_s: then they are fetched again, so that one that was taken back is not known for longer.
    retry_s: at least so long between two fetches for keys that are not known, or anybody could
    have the issuer asked as often as they call.
    """

    def __init__(
        self,
        fetch: Fetch,
        *,
        max_age_s: float,
        retry_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._max_age_s = max_age_s
        self._retry_s = retry_s
        self._monotonic = monotonic
        self._keys: dict[str, PyJWK] = {}
        self._data = b""
        self._next_fetch = 0.0
        self._fetching = asyncio.Lock()
        self.version = 0  # grows when keys come or go

    async def follow(self) -> None:
        """Fetch them again and again. Never returns."""
        while True:
            async with self._fetching:
                is_new = await self._refresh()
            await asyncio.sleep(self._max_age_s if is_new else max(self._retry_s, SHORTEST_PAUSE_S))

    async def find(self, name: str) -> PyJWK | None:
        """The key of this id, after another look at the issuer where it is not known.

        name: empty where a token says none; then the only key is meant.
        """
        if self._known(name) is None:
            async with self._fetching:
                if self._known(name) is None and self._monotonic() >= self._next_fetch:
                    await self._refresh()
        return self._known(name)

    def _known(self, name: str) -> PyJWK | None:
        if not name and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(name)

    async def _refresh(self) -> bool:
        """Whether it succeeded."""
        try:
            async with asyncio.timeout(FETCH_LIMIT_S):
                data = await self._fetch()
            keys = read_key_set(data)
        except Exception as error:  # whatever somebody else answers, those that are known go on
            kind = type(error).__name__
            log.warning("key_set_not_fetched", extra={"reason": f"{kind}: {error}"})
            return False
        finally:
            self._next_fetch = self._monotonic() + self._retry_s
        if data != self._data:
            self._keys, self._data = keys, data
            self.version += 1
        return True
