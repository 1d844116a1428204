"""A protocol for uvicorn that does not wait for ever for connections that send nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol

SECONDS = 20.0  # from the first byte of a request, or the start of a connection, to its last
MAX_CONNECTIONS = 256


def make_protocol(seconds: float = SECONDS) -> type[H11Protocol]:
    """An HTTP protocol that closes a connection whose request is not whole in time.

    Any program of this machine can connect without the token; uvicorn itself closes only
    connections that are idle after an answer.
    """
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Protocol(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > MAX_CONNECTIONS:
                transport.abort()
                return
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._unwatch()
            super().connection_lost(exc)

        def _watch(self) -> None:
            """Keep the time of an unfinished request; forget that of a finished one."""
            if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
                if self._deadline is None:
                    self._deadline = self.loop.call_later(seconds, self._expire)
            else:
                self._unwatch()

        def _unwatch(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _expire(self) -> None:
            self._deadline = None
            if not self.transport.is_closing():
                self.transport.close()

    return cast(Any, Protocol)  # type: ignore[no-any-return]
