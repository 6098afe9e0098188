"""Serves an ASGI app from a thread of its own, on a free port: the engine itself, and users' functions."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import uvicorn

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    import inngest
    from starlette.types import ASGIApp

logger = logging.getLogger("inngest_agents.local")


class ThreadedServer:
    """Serves an ASGI app from a daemon thread with its own event loop.

    Args:
        app: what to serve.
        host: the address to listen on.
        port: the port; 0 for a free one, which is kept over a restart.
        beside: a coroutine function that runs on the same loop while the server does.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        beside: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.loop: asyncio.AbstractEventLoop | None = None
        self._app = app
        self._beside = beside
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where the server is reached; with port 0, only once it was started."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104  where we listen, not bind
        return f"http://{host}:{self.port}"

    def start(self) -> None:
        """Start serving; returns once connections are taken.

        Raises:
            OSError: the port is taken.
            RuntimeError: the server did not come up.
        """
        # With the protocol named, asyncio sets TCP_NODELAY on each connection; without, every answer takes 40 ms.
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.host, self.port))
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            self._app,
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws="none",
            interface="asgi3",
            timeout_graceful_shutdown=1,
            # Between two checkpoints lies a model call: a connection that was dropped meanwhile would cost a save.
            timeout_keep_alive=600,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=asyncio.run, args=[self._serve(self._server, listener)], name="inngest-agents-local", daemon=True
        )
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise RuntimeError("the server did not start; see the log")
            time.sleep(0.001)

    async def _serve(self, server: uvicorn.Server, listener: socket.socket) -> None:
        self.loop = asyncio.get_running_loop()
        beside = None if self._beside is None else asyncio.create_task(self._beside())
        if beside is not None:
            beside.add_done_callback(lambda task: _stop_on_failure(task, server))
        try:
            await server.serve(sockets=[listener])
        finally:
            if beside is not None:
                beside.cancel()
                await asyncio.wait([beside])
            listener.close()

    def stop(self, *, force: bool = False) -> None:
        """Stop serving; open requests get a second to end, or with `force` none. Harmless if it does not run."""
        if self._server is None or self._thread is None:
            return
        self._server.should_exit = True
        self._server.force_exit = force
        self._thread.join(10)
        self._server = self._thread = self.loop = None


def _stop_on_failure(task: asyncio.Task[None], server: uvicorn.Server) -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.error("the engine failed and stops", exc_info=task.exception())
        server.should_exit = True


def functions_app(client: inngest.Inngest, functions: Sequence[inngest.Function[Any]]) -> ASGIApp:
    """An ASGI app that serves Inngest functions at `/api/inngest`.

    Raises:
        ImportError: FastAPI is not installed, which `inngest.fast_api` needs.
    """
    try:
        import fastapi
        import inngest.fast_api
    except ImportError as error:
        raise ImportError(
            "serving functions directly needs FastAPI: pip install fastapi, or give the engine the URL or the ASGI app"
            " that serves them"
        ) from error
    app = fastapi.FastAPI()
    inngest.fast_api.serve(app, client, list(functions))
    return app


def point_at(client: inngest.Inngest, url: str) -> None:
    """Let a client talk to the engine at this URL, whatever it was made for."""
    # The origins can only be given to the constructor, but a user's client is made when its module is imported.
    client._api_origin = url  # noqa: SLF001
    client._event_api_origin = url  # noqa: SLF001
