"""grpc.aio's server, with what it lacks to stand on a network.

grpc.aio (1.85) decodes the path of a call to a method that nobody registered as UTF-8, in the loop
that takes all calls, and catches nothing there: one such call with other bytes ends the server. All
services register their methods, so those calls can only be refused; here they are, unread.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, NoReturn

import grpc
from grpc._cython import cygrpc
from grpc.aio import _server as aio_server

from model_pool.letting_go import forget
from model_pool.receiving import OPTIONS

Option = tuple[str, Any]


class _Calls(cygrpc.AioServer):  # type: ignore[misc]
    """Hands grpc.aio's loop the calls to registered methods alone."""

    def _make_request_call_future(self, method: bytes | None) -> asyncio.Future[Any]:
        if method is not None:
            return super()._make_request_call_future(method)  # type: ignore[no-any-return]
        return asyncio.get_running_loop().create_task(self._refuse_others(), name="other calls")

    async def _refuse_others(self) -> NoReturn:
        """Raises, as grpc.aio's own future of such a call does, when the server stops."""
        refusals = set()
        while True:
            state = await self._request_call()
            refusal = asyncio.create_task(_refuse(state), name="refuse a call")
            refusals.add(refusal)
            refusal.add_done_callback(refusals.discard)


async def _refuse(state: object) -> None:
    context = cygrpc._ServicerContext(state, None, None, asyncio.get_running_loop())
    with contextlib.suppress(grpc.aio.BaseError):  # the caller has gone
        try:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        except grpc.aio.AbortError as error:
            forget(error)


class _Server(aio_server.Server):
    def __init__(
        self, interceptors: Sequence[grpc.aio.ServerInterceptor], options: Sequence[Option]
    ) -> None:
        self._loop = cygrpc.get_working_loop()
        every = aio_server._augment_channel_arguments((*OPTIONS, *options), None)
        self._server = _Calls(self._loop, None, (), tuple(interceptors), every, None)


def make_server(
    interceptors: Sequence[grpc.aio.ServerInterceptor], options: Sequence[Option]
) -> grpc.aio.Server:
    """As grpc.aio.server, for services whose methods are registered: generated code does that."""
    return _Server(interceptors, options)  # type: ignore[return-value]
