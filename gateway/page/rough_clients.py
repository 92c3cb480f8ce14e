"""uvicorn's HTTP/1.1, for clients that never finish asking, or go on with nonsense."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_LIMIT_S = 10.0


class SternH11(H11Protocol):
    """Closes a connection on which no whole request has come within HEAD_LIMIT_S, or on which what
    follows a request that is being answered is no request.

    uvicorn (0.54) waits for ever for the rest of a request's head, and for the first byte on a new
    connection: whoever sends one byte a minute keeps it, and so many are all that a port has. And
    it answers 400 in the middle of the answer before, which ends in a traceback.
    """

    _giving_up: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """A request that is whole is answered; then it is waited for the next."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()

    def send_400_response(self, msg: str) -> None:
        """Unless another answer is on its way."""
        if self.cycle is None or self.cycle.response_complete:
            super().send_400_response(msg)
            return
        self.cycle.disconnected = True  # what it still says is for nobody
        self.transport.close()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._stop_waiting()
        self._wait()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """There is nothing to wait for."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._giving_up = self.loop.call_later(HEAD_LIMIT_S, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None
