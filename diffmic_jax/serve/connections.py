"""Connections that do not stay open for nothing.

The server's own time limit begins after the first response. A caller could stay for ever who sends
the head of a request byte by byte, or the rest of a body that nobody wants any more, or who does
not fetch a response.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.h11_impl import H11Protocol

IDLE = 30.0
"""Seconds without a request in work, or without progress of a response, until a connection ends."""
MOST = 600
"""Connections at once; a further one is closed at once."""


class Connection(H11Protocol):
    """One connection."""

    idle = IDLE
    most = MOST
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._idle_since_now()
        if len(self.connections) > self.most:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop_timer()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """A request whose head has come is in work."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._stop_timer()

    def on_response_complete(self) -> None:
        """Wait for the next request; one that has come already cancels that."""
        self._idle_since_now()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """The caller has much to fetch."""
        super().pause_writing()
        self._idle_since_now()

    def resume_writing(self) -> None:
        """The caller has fetched it, and the request is in work again or done."""
        super().resume_writing()
        if self.cycle is None or not self.cycle.response_complete:
            self._stop_timer()

    def _idle_since_now(self) -> None:
        self._stop_timer()
        transport = cast(Any, self.transport)
        self._timer = self.loop.call_later(self.idle, transport.abort)

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
