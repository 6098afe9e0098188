"""Starts workers as processes of their own and kills them."""

from __future__ import annotations

import http.client
import multiprocessing
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from multiprocessing.process import BaseProcess

_START_SECONDS = 90.0
"""How long a worker may take to come up; the first one imports everything from a cold disk."""

_PRELOADED = ["agents", "fastapi", "inngest.fast_api", "uvicorn", "inngest_agents"]


class WorkerError(RuntimeError):
    """A worker did not come up."""


class Workers:
    """Workers that serve the demo's Inngest function at one address, one after the other.

    Where the platform has it, they are started from a fork server (Python's own, see `multiprocessing`) that has
    imported the libraries and done nothing else, as `gunicorn --preload` does it: a start then takes a moment only.

    Args:
        environment: set in each worker before it imports the app.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self.port = _free_port()
        self.pids: list[int] = []
        """The process ids of all workers so far."""
        methods = multiprocessing.get_all_start_methods()
        self._context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        if "forkserver" in methods:
            self._context.set_forkserver_preload(_PRELOADED)
        self._process: BaseProcess | None = None

    @property
    def url(self) -> str:
        """Where the worker serves Inngest."""
        return f"http://127.0.0.1:{self.port}/api/inngest"

    @property
    def alive(self) -> bool:
        """Whether the worker runs."""
        return self._process is not None and self._process.is_alive()

    def start(self) -> int:
        """Start a worker and wait until it answers; returns its process id.

        Raises:
            WorkerError: it ended or did not answer in time.
        """
        process = self._context.Process(target=_serve, args=(self.port, self._environment), daemon=True)  # type: ignore[attr-defined]
        process.start()
        self._process = process
        self.pids.append(process.pid)
        deadline = time.monotonic() + _START_SECONDS
        while not _answers(self.port):
            if not process.is_alive():
                raise WorkerError(f"the worker ended with exit code {process.exitcode}; see its output above")
            if time.monotonic() > deadline:
                raise WorkerError(f"the worker did not answer within {_START_SECONDS:.0f} s")
            time.sleep(0.02)
        return int(process.pid)

    def kill(self) -> int:
        """End the worker with SIGKILL, which it cannot see coming; returns its process id."""
        assert self._process is not None
        pid = self._process.pid
        self._process.kill()
        self._process.join()
        return pid or 0

    def close(self) -> None:
        """End the worker, if one runs."""
        if self.alive:
            self.kill()


def _serve(port: int, environment: Mapping[str, str]) -> None:
    os.environ.update(environment)
    _end_with_parent()
    import uvicorn

    from inngest_agents.demo.worker import app

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


def _end_with_parent() -> None:
    """Leave no worker behind where the demo itself is killed."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        sys.stderr.flush()
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/api/inngest")
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
