"""What each run used to its end: more than its caller heard, where it was broken off."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from deltafleet.v1 import worker_pb2
from model_pool.engine import Usage
from model_pool.errors import UnknownRequest

_MOST = 10_000


class RunEnds:
    """Remembers the last ten thousand runs. One that runs again replaces its first run."""

    def __init__(self) -> None:
        self._runs: OrderedDict[tuple[str, str], asyncio.Future[Usage]] = OrderedDict()

    def begin(self, request_id: str, model: str) -> Callable[[Usage], None]:
        """Returns what is to be called when the run has ended."""
        end: asyncio.Future[Usage] = asyncio.get_running_loop().create_future()
        self._runs[request_id, model] = end
        self._runs.move_to_end((request_id, model))
        if len(self._runs) > _MOST:
            self._runs.popitem(last=False)

        def tell(usage: Usage) -> None:
            if not end.done():
                end.set_result(usage)

        return tell

    async def usage(self, request_id: str, model: str) -> Usage:
        """Once it has ended. Raises UnknownRequest."""
        end = self._runs.get((request_id, model))
        if end is None:
            raise UnknownRequest(f"no run of {request_id} on {model} is remembered")
        return await asyncio.shield(end)


def to_settled(usage: Usage) -> worker_pb2.SettleRunResponse:
    """As it is told over gRPC."""
    return worker_pb2.SettleRunResponse(
        prompt_token_count=usage.prompt_token_count,
        output_token_count=usage.output_token_count,
        busy_s=usage.busy_s,
    )
