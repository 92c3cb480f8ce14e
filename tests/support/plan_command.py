"""deltafleet plan as a person types it."""

from __future__ import annotations

import json
from typing import Any

from support import command
from support.command import Ended


async def run(*arguments: object) -> Ended:
    """deltafleet plan ARGUMENTS."""
    return await command.run("plan", *arguments)


async def planned(*arguments: object) -> dict[str, Any]:
    """The JSON object that it prints."""
    ended = await run(*arguments, "--json")
    assert ended.code == 0, ended.errors
    found: dict[str, Any] = json.loads(ended.output)
    return found
