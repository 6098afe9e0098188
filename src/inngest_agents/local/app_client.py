"""Calls the app: Call Requests, synchronization, inference requests. Over HTTP with kept-alive connections, or in
this process over ASGI.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from . import protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import httpx

IN_PROCESS_ORIGIN: Final = "http://app.embedded"
"""The origin under which an ASGI app of this process is called."""

_REQUEST_SECONDS: Final = 2 * 3600


class AppError(Exception):
    """The app could not be reached, or what answered was not an app; the message says what happened."""


@dataclass(frozen=True, slots=True)
class AppResponse:
    """What the app answered."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    @property
    def is_sdk(self) -> bool:
        """Whether an Inngest SDK answered, and not a proxy or a crashed server."""
        return bool(self.headers.get("x-inngest-sdk"))

    @property
    def no_retry(self) -> bool:
        """Whether the app says that trying again is of no use."""
        return self.headers.get("x-inngest-no-retry") == "true"

    @property
    def version(self) -> int:
        """The version of the protocol that the app speaks; 0 if it does not say."""
        value = self.headers.get("x-inngest-req-version", "")
        return int(value) if value.isdigit() else 0


class AppClient:
    """Calls apps.

    Args:
        app: an ASGI app of this process, reached under `IN_PROCESS_ORIGIN`; its code runs on the engine's event loop.
        signing_keys: with none, the engine is a dev server and nothing is signed. With some, requests are signed
            by the first (and once more by the next, if the app does not know it), and answers must be signed by one.
    """

    def __init__(self, app: Any = None, signing_keys: Sequence[str] = ()) -> None:
        self._app = app
        self._keys = tuple(signing_keys)
        self._http: httpx.AsyncClient | None = None

    @property
    def server_kind(self) -> str:
        """What the engine says it is: `dev`, or `cloud` if it signs."""
        return "cloud" if self._keys else "dev"

    async def close(self) -> None:
        """Close all connections."""
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    def _client(self) -> httpx.AsyncClient:
        if self._http is None:
            import httpx

            mounts = {}
            if self._app is not None:
                mounts["all://app.embedded"] = httpx.ASGITransport(self._app, raise_app_exceptions=False)
            # Servers drop idle connections after 5 s and more: ours are dropped sooner, so that none breaks in use.
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=2)
            # No proxies from the environment: the app is a neighbour.
            self._http = httpx.AsyncClient(mounts=mounts, limits=limits, trust_env=False)
        return self._http

    async def call(self, url: str, step_id: str | None, body: bytes, headers: dict[str, str]) -> AppResponse:
        """Send a Call Request.

        Args:
            url: the function's URL, as it was registered.
            step_id: the step that the request is targeted at, if it is.
            body: the request's body.
            headers: more headers.

        Raises:
            AppError: no answer, or one whose signature is wrong.
        """
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query)) | {"stepId": step_id or protocol.DISCOVERY_STEP}
        target = urlunsplit(parts._replace(query=urlencode(query)))
        headers = {
            "content-type": "application/json",
            "x-inngest-server-kind": self.server_kind,
            "x-inngest-step-id": query["stepId"],
        } | headers
        if not self._keys:
            return await self._send("POST", target, body, headers)
        body = protocol.canonical(body)
        for key in self._keys:
            signed = headers | {"x-inngest-signature": protocol.sign(body, key)}
            response = await self._send("POST", target, body, signed)
            if response.status != 401:
                break
        if response.is_sdk:
            signature = response.headers.get("x-inngest-signature", "")
            if not protocol.verify(response.body, signature, self._keys):
                raise AppError("the app's answer is not signed with the engine's signing key")
        return response

    async def sync(self, url: str) -> AppResponse:
        """Ask an app to register its functions.

        Raises:
            AppError: it does not answer.
        """
        headers = {"x-inngest-server-kind": self.server_kind}
        if self._keys:
            headers["x-inngest-signature"] = protocol.sign(b"", self._keys[0])
        return await self._send("PUT", url, b"", headers, timeout=30)

    async def infer(self, opts: Mapping[str, Any]) -> AppResponse:
        """Make the request of an `AIGateway` opcode.

        Raises:
            AppError: the provider does not answer.
        """
        url, key, form = str(opts.get("url") or ""), str(opts.get("auth_key") or ""), opts.get("format")
        headers = {"content-type": "application/json"}
        if form == "gemini":
            url += ("&" if "?" in url else "?") + urlencode({"key": key})
        elif form == "anthropic":
            headers["x-api-key"] = key
        else:
            headers["authorization"] = key if form == "bedrock" else f"Bearer {key}"
        headers |= {k.lower(): str(v) for k, v in (opts.get("headers") or {}).items()}
        return await self._send("POST", url, json.dumps(opts.get("body")).encode(), headers)

    async def _send(
        self, method: str, url: str, body: bytes, headers: dict[str, str], *, timeout: float = _REQUEST_SECONDS
    ) -> AppResponse:
        import httpx

        limit = httpx.Timeout(timeout, connect=10)
        try:
            response = await self._client().request(method, url, content=body, headers=headers, timeout=limit)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise AppError(
                f"{type(error).__name__}: {error}".rstrip(": ") + f" ({url.split('?', maxsplit=1)[0]})"
            ) from error
        # httpx makes it hold its response: the garbage collector alone would free both, and the request's body.
        del response.stream
        if len(response.content) > protocol.MAX_RESPONSE:
            raise AppError("output_too_large: the response body exceeds the maximum size limit")
        if response.status_code == 201:
            return _unwrap_stream(response.content, response.headers)
        return AppResponse(response.status_code, response.content, response.headers)


def _unwrap_stream(body: bytes, headers: Mapping[str, str]) -> AppResponse:
    """A streamed answer: status, headers and body come inside the body, behind blanks that kept the line open."""
    try:
        stream = json.loads(body)
        inner = stream["body"] if isinstance(stream["body"], str) else json.dumps(stream["body"])
        more = {k.lower(): v for k, v in (stream.get("headers") or {}).items()}
        return AppResponse(int(stream["status"]), inner.encode(), {**headers, **more})
    except (ValueError, KeyError, TypeError) as error:
        raise AppError(f"error parsing stream: {error}") from error
