"""POST over keep-alive connections, for saving steps: a save is on the path of every tool call.

httpx takes 0.8 ms more CPU for each request (measured on one core), which is as much as the whole save takes an
engine on the same machine; h11 on asyncio's streams, which stood here before, takes 0.2 ms more. So this is httptools,
the parser that uvicorn uses, on an asyncio protocol, with only what saves need: no redirects, no proxies, no cookies.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import email.utils
import functools
import math
import ssl
import threading
import time
import urllib.parse
from typing import Final, NamedTuple, cast

import httptools

MAX_IDLE_CONNECTIONS: Final = 128
"""Connections kept open for later saves, for each event loop and origin."""

Headers = tuple[tuple[str, str], ...]


class ProtocolError(Exception):
    """What the other side sends is not HTTP."""


class _Origin(NamedTuple):
    scheme: str
    host: str
    port: int


class Answer(NamedTuple):
    """What came back."""

    status: int
    body: bytes
    retry_after: float | None = None
    """Seconds after which the other side asks to be asked again."""


class _Connection(asyncio.Protocol):
    """One connection, with one request at a time. The parser calls the `on_…` methods."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        """The answer that is waited for; None between requests."""
        self._status = 0
        """The status of the answer under way; 0 as long as its headers are not there."""
        self._received: list[bytes] = []
        self._retry_after: float | None = None
        self._is_delimited = False
        """Whether the answer says where it ends; otherwise it ends with the connection."""
        self._is_idle = True

    async def post(self, head: bytes, body: bytes) -> Answer:
        """Send a request and wait for the answer; cancelled, the connection is of no more use.

        Raises:
            ConnectionError: the connection was closed before the whole answer was there.
            ProtocolError: the answer is not HTTP.
        """
        if self._transport is None or not self.is_idle:
            raise ConnectionResetError("the server closed the connection while it was idle")
        self._is_idle = False
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(b"%scontent-length: %d\r\n\r\n%s" % (head, len(body), body))
        try:
            return await self._answer
        finally:
            self._answer = None

    @property
    def is_idle(self) -> bool:
        """Whether the connection is ready for the next request: both sides are done, and keep it open."""
        transport = self._transport
        return (
            self._is_idle
            and transport is not None
            and not transport.is_closing()
            and transport.get_write_buffer_size() == 0
        )

    def close(self) -> None:
        """Close the connection, whatever is under way."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._answer is None:
            self._is_idle = False  # nobody asked: it would be taken for the answer to the next request
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(ProtocolError(f"the answer is not HTTP: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._status and not self._is_delimited and exc is None:
            self.on_message_complete()
        self._fail(exc or ConnectionResetError("the server closed the connection without a whole answer"))

    def _fail(self, error: Exception) -> None:
        self._is_idle = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    def on_message_begin(self) -> None:
        self._is_idle = False  # also where a second answer follows the one that was asked for
        self._status, self._received, self._is_delimited, self._retry_after = 0, [], False, None

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in (b"content-length", b"transfer-encoding"):
            self._is_delimited = True
        elif name == b"retry-after":
            self._retry_after = seconds_until(value.decode("latin-1"))

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._received.append(body)

    def on_message_complete(self) -> None:
        if self._status < 200 or self._answer is None or self._answer.done():
            return  # an interim answer (RFC 9110, section 15.2), or one that nobody waits for any more
        self._is_idle = self._is_delimited and self._parser.should_keep_alive()
        self._answer.set_result(Answer(self._status, b"".join(self._received), self._retry_after))


_idle: dict[asyncio.AbstractEventLoop, dict[_Origin, list[_Connection]]] = {}
_lock: Final = threading.Lock()
_ssl_context: ssl.SSLContext | None = None


async def post(url: str, headers: Headers, body: bytes, timeout: float) -> Answer:
    """Send a POST that may safely arrive twice, and read the answer.

    Args:
        url: http or https.
        headers: beside host and content-length.
        body: the content.
        timeout: seconds for all of it.

    Returns:
        The answer.

    Raises:
        OSError: no connection, or it was cut before the whole answer was there (TimeoutError is one too).
        ProtocolError: the answer is not HTTP.
        ValueError: a header has a line break.
    """
    origin, head = _head(url, headers)
    async with asyncio.timeout(timeout):
        pool = _pool(origin)
        while pool:
            connection = pool.pop()
            if not connection.is_idle:
                connection.close()
                continue
            try:
                return await _exchange(connection, pool, head, body)
            except ConnectionError:
                continue  # closed between two requests: no fault of this one
        return await _exchange(await _connect(origin), pool, head, body)


@functools.lru_cache(maxsize=64)
def _head(url: str, headers: Headers) -> tuple[_Origin, bytes]:
    """Where a request goes, and how it begins: the same for all saves of a run."""
    parts = urllib.parse.urlsplit(url)
    origin = _Origin(parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [f"POST {target} HTTP/1.1", f"host: {parts.netloc.rpartition('@')[2]}"]
    lines += [f"{name}: {value}" for name, value in headers]
    for line in lines:
        if "\r" in line or "\n" in line:
            raise ValueError(f"a line break in {line!r}: it would end the header")
    return origin, "".join(f"{line}\r\n" for line in lines).encode("latin-1")


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
    loop = asyncio.get_running_loop()
    tls = _context() if origin.scheme == "https" else None
    opening = loop.create_connection(_Connection, origin.host, origin.port, ssl=tls)
    # The event loop keeps the context in which a connection was opened for as long as it is open: with the caller's,
    # the run that opened it, and all that belongs to it, would stay in memory.
    _, connection = await loop.create_task(opening, context=contextvars.Context())
    return connection


def _context() -> ssl.SSLContext:
    global _ssl_context  # noqa: PLW0603  loading the certificates takes 20 ms, so it is done once and only if needed
    if _ssl_context is None:
        _ssl_context = ssl.create_default_context()
    return _ssl_context


async def _exchange(connection: _Connection, pool: list[_Connection], head: bytes, body: bytes) -> Answer:
    try:
        return await connection.post(head, body)
    finally:
        if connection.is_idle and len(pool) < MAX_IDLE_CONNECTIONS:
            pool.append(connection)
        else:
            connection.close()


def seconds_until(retry_after: str) -> float | None:
    """The seconds that a `Retry-After` header says, which has them or a date; None if it has neither.

    Source: RFC 9110, section 10.2.3.
    """
    with contextlib.suppress(ValueError):
        seconds = float(retry_after)
        return max(0.0, seconds) if math.isfinite(seconds) else None
    with contextlib.suppress(TypeError, ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    return None


async def close_connections() -> None:
    """Close the idle connections of the running event loop; for loops that end, such as that of `run_sync`."""
    with _lock:
        pools = _idle.pop(asyncio.get_running_loop(), {})
    for pool in pools.values():
        for connection in pool:
            connection.close()
    await asyncio.sleep(0)
