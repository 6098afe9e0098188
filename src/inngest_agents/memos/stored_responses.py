"""The HTTP response of an error as JSON, and such a response again: `error.response.status_code` is what tools' failure
functions look at first.

Kept are its status, its headers and a small body that was read; not its cookies, nor its request, whose headers and
address may have keys in them. Asked for a body that is not kept, the response raises, as one does that was not read.
"""

from __future__ import annotations

import base64
import io
import sys
from typing import Any, Final

_MAX_BODY: Final = 4_000
_MAX_HEADERS: Final = 2_000

_LEFT_OUT: Final = frozenset({"set-cookie", "content-encoding", "content-length", "transfer-encoding"})
"""Cookies are secrets; the others are about the body as it came over the line."""

_LIBRARIES: Final = ("httpx", "httpx2", "requests")


def encode(value: Any, *, with_body: bool = True) -> dict[str, Any] | None:
    """A response of a known library; None for anything else."""
    library = next((name for name in _LIBRARIES if type(value) is _class_of(name)), None)
    if library is None:
        return None
    headers = [[name, text] for name, text in value.headers.items() if name.lower() not in _LEFT_OUT]
    stored = {"of": library, "status": value.status_code, "headers": headers, "reason": getattr(value, "reason", None)}
    if sum(len(name) + len(text) for name, text in headers) > _MAX_HEADERS:
        stored["headers"] = []
    body = _body(library, value) if with_body else None
    if body is not None and len(body) <= _MAX_BODY:
        stored["body"] = base64.b64encode(body).decode()
    return stored


def decode(stored: dict[str, Any]) -> Any:
    """The response again.

    Raises:
        Exception: its library is not loaded, or does not take what is stored.
    """
    library = stored["of"]
    body = base64.b64decode(stored["body"]) if "body" in stored else None
    if library == "requests":
        return _of_requests(stored, body)
    made: Any = sys.modules[library]
    content = {"content": body} if body is not None else {"stream": made.AsyncByteStream()}
    return made.Response(stored["status"], headers=stored["headers"], **content)


def _class_of(library: str) -> Any:
    """Its class of responses; nothing is imported for it."""
    return getattr(sys.modules.get(library), "Response", library)


def _body(library: str, value: Any) -> bytes | None:
    """What was read of it: nothing is read from the line for an error that has happened already."""
    is_read = value.is_closed if library != "requests" else getattr(value.raw, "closed", value.raw is None)
    try:
        body: bytes | None = value.content if is_read else None
    except RuntimeError:  # closed without having been read
        return None
    return body


def _of_requests(stored: dict[str, Any], body: bytes | None) -> Any:
    made = sys.modules["requests"].Response()
    made.status_code, made.reason = stored["status"], stored["reason"]
    made.headers.update(stored["headers"])
    made.encoding = sys.modules["requests"].utils.get_encoding_from_headers(made.headers)
    made.raw = io.BytesIO(body) if body is not None else _NotKept()
    return made


class _NotKept(io.RawIOBase):
    def read(self, _: int = -1) -> bytes:
        raise OSError(
            "the body of this response was not stored with its error, as it was large, not read, or would be encrypted"
        )
