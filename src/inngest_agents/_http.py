"""POST over keep-alive connections, for saving steps: a save is on the path of every tool call.

httpx takes 0.8 ms more CPU for each request (measured on one core), which is as much as the whole save takes an
engine on the same machine. So this is h11, the protocol library below httpx, on asyncio's streams, with only what
saves need: no redirects, no proxies, no cookies.
"""

from __future__ import annotations

import asyncio
import contextvars
import ssl
import threading
import urllib.parse
from collections.abc import Iterable
from typing import Final

import h11

MAX_IDLE_CONNECTIONS: Final = 32
"""Connections kept open for later saves, for each event loop and origin."""

_READ_SIZE: Final = 65536

_Origin = tuple[str, str, int]


class _Connection:
    """One connection, with one request at a time."""

    __slots__ = ("_protocol", "_reader", "_writer")

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._protocol = h11.Connection(h11.CLIENT)

    async def post(self, target: str, headers: list[tuple[str, str]], body: bytes) -> tuple[int, bytes]:
        protocol = self._protocol
        self._writer.write(
            b"".join(
                (
                    protocol.send(h11.Request(method="POST", target=target, headers=headers)) or b"",
                    protocol.send(h11.Data(data=body)) or b"",
                    protocol.send(h11.EndOfMessage()) or b"",
                )
            )
        )
        await self._writer.drain()
        status, received = 0, b""
        while True:
            event = protocol.next_event()
            if event is h11.NEED_DATA:
                protocol.receive_data(await self._reader.read(_READ_SIZE))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                received += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return status, received
            elif isinstance(event, h11.ConnectionClosed):
                raise ConnectionResetError("the server closed the connection without an answer")

    def reusable(self) -> bool:
        """Make the connection ready for the next request, if both sides keep it open."""
        if self._protocol.our_state is not h11.DONE or self._protocol.their_state is not h11.DONE:
            return False
        if self._protocol.trailing_data[0]:
            return False  # what came after the answer would be taken for the answer to the next request
        self._protocol.start_next_cycle()
        return True

    @property
    def is_stale(self) -> bool:
        """Whether the server has closed the connection while it was idle."""
        return self._reader.at_eof() or self._writer.is_closing()

    def close(self) -> None:
        self._writer.close()


_idle: dict[asyncio.AbstractEventLoop, dict[_Origin, list[_Connection]]] = {}
_lock: Final = threading.Lock()
_ssl_context: ssl.SSLContext | None = None


async def post(url: str, headers: Iterable[tuple[str, str]], body: bytes, timeout: float) -> tuple[int, bytes]:
    """Send a POST that may safely arrive twice, and read the answer.

    Args:
        url: http or https.
        headers: beside host and content-length.
        body: the content.
        timeout: seconds for all of it.

    Returns:
        The status code and the answer's body.

    Raises:
        OSError: no connection, or it was cut before the whole answer was there (TimeoutError is one too).
        h11.ProtocolError: the answer is not HTTP.
    """
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    origin = (parts.scheme, host, parts.port or (443 if parts.scheme == "https" else 80))
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    full = [("host", parts.netloc.rpartition("@")[2]), ("content-length", str(len(body))), *headers]
    async with asyncio.timeout(timeout):
        pool = _pool(origin)
        while pool:
            connection = pool.pop()
            if connection.is_stale:
                connection.close()
                continue
            try:
                return await _exchange(connection, pool, target, full, body)
            except ConnectionError:
                continue  # closed between two requests: no fault of this one
        return await _exchange(await _connect(origin), pool, target, full, body)


def _pool(origin: _Origin) -> list[_Connection]:
    """The idle connections of the running event loop."""
    loop = asyncio.get_running_loop()
    pools = _idle.get(loop)
    if pools is None:
        with _lock:
            # A connection holds on to its loop, so nothing else would ever let go of loops that live for one request.
            for closed in [other for other in _idle if other.is_closed()]:
                del _idle[closed]
            pools = _idle[loop] = {}
    return pools.setdefault(origin, [])


async def _connect(origin: _Origin) -> _Connection:
    scheme, host, port = origin
    opening = asyncio.open_connection(host, port, ssl=_context() if scheme == "https" else None)
    # The event loop keeps the context in which a connection was opened for as long as it is open: with the caller's,
    # the run that opened it, and all that belongs to it, would stay in memory.
    return _Connection(*await asyncio.get_running_loop().create_task(opening, context=contextvars.Context()))


def _context() -> ssl.SSLContext:
    global _ssl_context  # noqa: PLW0603  loading the certificates takes 20 ms, so it is done once and only if needed
    if _ssl_context is None:
        _ssl_context = ssl.create_default_context()
    return _ssl_context


async def _exchange(
    connection: _Connection, pool: list[_Connection], target: str, headers: list[tuple[str, str]], body: bytes
) -> tuple[int, bytes]:
    keep = False
    try:
        answer = await connection.post(target, headers, body)
        keep = len(pool) < MAX_IDLE_CONNECTIONS and connection.reusable()
    finally:
        if keep:
            pool.append(connection)
        else:
            connection.close()
    return answer


async def close_connections() -> None:
    """Close the idle connections of the running event loop; for loops that end, such as that of `run_sync`."""
    with _lock:
        pools = _idle.pop(asyncio.get_running_loop(), {})
    for pool in pools.values():
        for connection in pool:
            connection.close()
    await asyncio.sleep(0)
