"""The names of requests, in Redis. Each call is one round trip, and one script."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateway.limits.link import RedisLink
from gateway.limits.redis import SCRIPTS as LIMIT_SCRIPTS
from gateway.shared_repeats import Claim, Found, State

SCRIPTS = Path(__file__).parent / "name_scripts"


class RedisNames:
    """See SharedNames.

    prefix: of all keys. lease_s: how long the claim of a gateway that died holds. keep_s: how long
    an answer is kept.
    """

    def __init__(self, link: RedisLink, *, prefix: str, lease_s: float, keep_s: float) -> None:
        self._link = link
        self._prefix = prefix
        self._lease_ms = round(lease_s * 1000)
        self._keep_ms = round(keep_s * 1000)
        self._claim = self._script("claim")
        self._renew = self._script("renew")
        self._seal = self._script("seal")
        self._keep = self._script("keep")
        self._release = self._script("release")

    async def claim(self, claim: Claim) -> Found:
        """See SharedNames."""
        state, *answer = await self._call(
            self._claim, claim, claim.digest, claim.owner, self._lease_ms
        )
        return Found(State(state.decode()), answer[0] if answer else None)

    async def renew(self, claim: Claim) -> None:
        """See SharedNames."""
        await self._call(self._renew, claim, claim.digest, claim.owner, self._lease_ms)

    async def seal(self, claim: Claim) -> None:
        """See SharedNames."""
        values = claim.digest, claim.owner, self._lease_ms, self._keep_ms
        await self._call(self._seal, claim, *values)

    async def keep(self, claim: Claim, answer: bytes | None) -> None:
        """See SharedNames."""
        values = claim.digest, claim.owner, self._keep_ms, int(answer is not None), answer or b""
        await self._call(self._keep, claim, *values)

    async def release(self, claim: Claim) -> None:
        """See SharedNames."""
        await self._call(self._release, claim, claim.owner)

    def _script(self, name: str) -> Any:
        parts = [LIMIT_SCRIPTS / "time.lua", SCRIPTS / "name.lua", SCRIPTS / f"{name}.lua"]
        return self._link.script(parts)

    async def _call(self, script: Any, claim: Claim, *values: bytes | str | int) -> Any:
        # An id has no brace, so that no two names are one key.
        key = f"{self._prefix}:repeats:{{{claim.caller}}}:{claim.request_id}"
        return await self._link.run(script(keys=[key], args=values))
