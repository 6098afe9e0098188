"""`LocalEngine`: the embedded engine as an object, for tests, demos and scripts."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from . import events, protocol
from .app_client import IN_PROCESS_ORIGIN, AppClient, AppError
from .executor import Executor, Limits
from .models import SECOND, Run, RunStatus, Step
from .serve import ThreadedServer, functions_app, point_at
from .server import EngineServer
from .store import Store
from .times import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import inngest
    from starlette.types import ASGIApp

_T = TypeVar("_T")

_POLL_SECONDS = 0.25


class RegistrationFailedError(RuntimeError):
    """An app did not register its functions; the message says why."""


class LocalEngine:
    """An Inngest engine in this process, for tests, demos and development. Not for production.

    It listens on a port of this machine and keeps its state in one SQLite file. Functions run on it as they do on an
    Inngest server:

    ```python
    with LocalEngine() as engine:
        engine.serve(client, [my_function])
        run = engine.run("app/started", {"x": 1})
        assert run.output == 2
    ```

    The engine works in a thread of its own, so its methods may be called from anywhere; those that wait have an
    async twin (`run_async`, `wait_async`).

    Args:
        app: an app to register at the start: the URL it is served at, or an ASGI app, which is then called in this
            process without a socket. Its code runs on the engine's event loop, so it must not block.
        serve_path: where the ASGI app serves Inngest.
        path: the SQLite file. Without one the state is kept in a temporary file until `stop`.
        host: the address to listen on.
        port: the port to listen on; 0 for a free one.
        backoff: seconds to wait after a failed attempt: a number, or a function of the attempt's number (0, 1, …).
            Without it the schedule of the real server (15 to 45 s after the first attempt), which tests won't want.
        time_scale: how many seconds of sleeps, timeouts and retries pass in a real second. See also `fast_forward`.
        limits: what a run may not exceed; the real server's limits by default.
        signing_key: with one, the engine behaves like a production server: requests are signed, apps must be in
            production mode and have the key.
        signing_key_fallback: a second key that is taken as well.
        event_keys: with some, events are only taken under one of them.
        synchronous: how durable a commit is: `NORMAL` outlives the process, `FULL` a power cut (see `store`).
    """

    def __init__(
        self,
        app: str | ASGIApp | None = None,
        *,
        serve_path: str = "/api/inngest",
        path: str | Path | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        backoff: float | Callable[[int], float] | None = None,
        time_scale: float = 1.0,
        limits: Limits | None = None,
        signing_key: str | None = None,
        signing_key_fallback: str | None = None,
        event_keys: Sequence[str] = (),
        synchronous: Literal["NORMAL", "FULL"] = "NORMAL",
    ) -> None:
        self._asgi = None if isinstance(app, str) else app
        self._app_url = app if isinstance(app, str) else f"{IN_PROCESS_ORIGIN}{serve_path}" if app else None
        self._path = path
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._backoff = _backoff(backoff)
        self._limits = limits
        self._keys = [key for key in (signing_key, signing_key_fallback) if key]
        self._event_keys = tuple(event_keys)
        self._synchronous = synchronous
        self._clock = Clock(time_scale)
        self._ended = threading.Condition()
        self._workers: list[ThreadedServer] = []
        self._listener = ThreadedServer(self._answer, host=host, port=port, beside=self._execute)
        self._store: Store | None = None
        self._executor: Executor | None = None
        self._server: EngineServer | None = None

    # Life ---------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start the engine; it goes on with what its file holds. Starting twice does nothing.

        Raises:
            OSError: the port is taken.
            RegistrationFailedError: the app given to the constructor does not register.
        """
        if self._store is not None:
            return self
        if self._path is None and self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="inngest-agents-", ignore_cleanup_errors=True)
        path = self._path or Path(self._temporary.name if self._temporary else ".") / "state.db"
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._store = Store(path, synchronous=self._synchronous)
        self._listener.start()
        if self._app_url is not None:
            self.register(self._app_url)
        return self

    def stop(self) -> None:
        """Stop the engine and the functions it serves. Runs that have not ended go on when the file is opened again."""
        self._halt(crashed=False)
        for worker in self._workers:
            worker.stop(force=True)
        self._workers.clear()
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None

    def crash(self) -> None:
        """Stop the engine as if its process had been killed: nothing is tidied up. The functions stay up."""
        self._halt(crashed=True)

    def restart(self) -> None:
        """Crash and start again from the file, on the same port."""
        self.crash()
        self.start()

    def _halt(self, *, crashed: bool) -> None:
        if self._store is None:
            return
        executor = self._executor
        self._listener.stop(force=True)
        if executor is not None:
            self._store.leave(executor.id, crashed=crashed)
        self._store.close()
        self._store = self._executor = self._server = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.stop)

    async def _execute(self) -> None:
        """The executor's life, on the listener's event loop."""
        assert self._store is not None
        loop = asyncio.get_running_loop()

        def on_end(_: str) -> None:
            # Not at once: the transaction that ends the run is still open, and waiters read behind it.
            loop.call_soon(self._notify)

        apps = AppClient(self._asgi, self._keys)
        executor = Executor(
            self._store,
            apps,
            self._clock,
            backoff=self._backoff,
            limits=self._limits,
            on_end=on_end,
        )
        self._server = EngineServer(self._store, executor, signing_keys=self._keys, event_keys=self._event_keys)
        self._executor = executor
        try:
            await executor.run()
        finally:
            await apps.close()

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        assert self._server is not None
        await self._server(scope, receive, send)

    def _notify(self) -> None:
        with self._ended:
            self._ended.notify_all()

    # Apps -----------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where the engine is reached: the `api_base_url` and `event_api_base_url` of clients."""
        return self._listener.url

    @property
    def store(self) -> Store:
        """The state, for reading: runs, steps, attempts, requests.

        Raises:
            RuntimeError: the engine does not run.
        """
        if self._store is None:
            raise RuntimeError("the engine does not run; use it as a context manager, or call start()")
        return self._store

    def client(self, app_id: str, **options: Any) -> inngest.Inngest:
        """A new Inngest client that talks to this engine.

        Args:
            app_id: the app's id.
            options: more arguments of `inngest.Inngest`.
        """
        import inngest

        options.setdefault("is_production", bool(self._keys))
        if self._keys:
            options.setdefault("signing_key", self._keys[0])
            options.setdefault("event_key", self._event_keys[0] if self._event_keys else "local")
        return inngest.Inngest(app_id=app_id, api_base_url=self.url, event_api_base_url=self.url, **options)

    def serve(self, client: inngest.Inngest, functions: Sequence[inngest.Function[Any]]) -> str:
        """Serve functions from a thread of this process and register them; returns their URL.

        The client is pointed at this engine. Needs FastAPI (`inngest.fast_api`).

        Raises:
            RegistrationFailedError: the engine does not take them.
        """
        point_at(client, self.url)
        worker = ThreadedServer(functions_app(client, functions))
        worker.start()
        self._workers.append(worker)
        url = f"{worker.url}/api/inngest"
        self.register(url)
        return url

    def register(self, url: str) -> list[str]:
        """Ask the app at this URL to register its functions here.

        Returns:
            what the engine does not do of what the functions ask for, a sentence each (they are logged, too).

        Raises:
            RegistrationFailedError: it does not answer, or not well.
        """

        async def sync() -> list[str]:
            apps = AppClient(self._asgi, self._keys)
            try:
                response = await apps.sync(url)
            except AppError as error:
                raise RegistrationFailedError(str(error)) from error
            finally:
                await apps.close()
            # The Python SDK answers 200 with what the engine told it, even where that was a refusal.
            answer = _object(response.body)
            if not response.is_sdk or not 200 <= response.status < 300 or "error" in answer:
                raise RegistrationFailedError(f"{url} answered {response.status}: {response.body[:500]!r}")
            return [str(warning) for warning in answer.get("warnings", [])]

        warnings: list[str] = self._on_loop(sync())
        return warnings

    def _on_loop(self, coroutine: Any) -> Any:
        loop = self._listener.loop
        if loop is None:
            coroutine.close()
            raise RuntimeError("the engine does not run; use it as a context manager, or call start()")
        future: concurrent.futures.Future[Any] = asyncio.run_coroutine_threadsafe(coroutine, loop)
        return future.result(60)

    def _running(self) -> EngineServer:
        assert self._server is not None
        return self._server

    def _do(self, function: Callable[[], _T]) -> _T:
        """Call a function on the engine's loop, where all writes are made."""

        async def call() -> _T:
            return function()

        result: _T = self._on_loop(call())
        return result

    # Runs -----------------------------------------------------------------------------------------------------

    def send_event(self, name: str, data: Mapping[str, Any] | None = None, *, id: str = "") -> str:
        """Send an event; returns its id (see `event_runs`).

        Args:
            name: the event's name.
            data: its data, JSON.
            id: with one, the same function starts once for all events of this id (for 24 hours).

        Raises:
            ValueError: it is no valid event.
        """
        event = events.normalize({"name": name, "data": dict(data or {}), "id": id}, self._clock.now())
        protocol.dump(event)
        return self._do(lambda: self._running().send([event])[0])

    def event_runs(self, event_id: str) -> list[Run]:
        """The runs that an event started."""
        return self.store.event_runs(event_id)

    def send(self, name: str, data: Mapping[str, Any] | None = None, *, id: str = "") -> str:
        """Send an event that starts a run; returns the run's id (of the first, if it starts several).

        Raises:
            LookupError: no function is triggered by the event.
        """
        runs = self.event_runs(self.send_event(name, data, id=id))
        if not runs:
            known = ", ".join(f.id for f in self.store.functions()) or "none"
            warnings = [warning for of_app in self._running().warnings.values() for warning in of_app]
            raise LookupError("; ".join([f"event {name!r} started no run; registered functions: {known}", *warnings]))
        return runs[0].id

    def wait(self, run_id: str, timeout: float = 30.0) -> Run:
        """Wait for a run to end; returns it, however it ended.

        Args:
            run_id: the run.
            timeout: seconds to wait.

        Raises:
            LookupError: there is no such run.
            TimeoutError: it did not end in time; the message says what it was doing.
        """
        deadline = time.monotonic() + timeout
        with self._ended:
            while True:
                run = self.store.run(run_id)
                if run is None:
                    raise LookupError(f"no run {run_id}")
                if run.status.ended:
                    return run
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"run {run_id} did not end in {timeout} s: {self._describe(run)}")
                # Another engine on the same file may end the run, and tells nobody here.
                self._ended.wait(min(left, _POLL_SECONDS))

    def _describe(self, run: Run) -> str:
        steps = ", ".join(f"{step.name} {step.status.lower()}" for step in self.steps(run.id)[-5:])
        errors = [attempt.error.get("message") for attempt in self.store.attempts(run.id)[-1:]]
        last = f"; last error: {errors[0]}" if errors else ""
        return f"{run.status.lower()}; steps: {steps or 'none'}{last}"

    def run(self, name: str, data: Mapping[str, Any] | None = None, *, timeout: float = 30.0) -> Run:
        """Send an event and wait for the run that it starts (see `send` and `wait`)."""
        return self.wait(self.send(name, data), timeout)

    async def wait_async(self, run_id: str, timeout: float = 30.0) -> Run:
        """`wait`, without blocking the caller's event loop."""
        return await asyncio.to_thread(self.wait, run_id, timeout)

    async def run_async(
        self,
        name: str,
        data: Mapping[str, Any] | None = None,
        *,
        timeout: float = 30.0,
    ) -> Run:
        """`run`, without blocking the caller's event loop."""
        return await asyncio.to_thread(lambda: self.run(name, data, timeout=timeout))

    def steps(self, run_id: str) -> list[Step]:
        """The steps of a run: memoized ones in their order, then those under way."""
        return self.store.steps(run_id)

    def cancel(self, run_id: str) -> None:
        """End a run now, as cancelled. Does nothing if it has ended."""
        executor, store = self._executor, self.store
        assert executor is not None

        def cancel() -> None:
            with store.transaction():
                executor.events.finish(run_id, RunStatus.CANCELLED)
            executor.wake()

        self._do(cancel)

    # Time -----------------------------------------------------------------------------------------------------

    def fast_forward(self, seconds: float | None = None, *, timeout: float = 10.0) -> float:
        """Move the engine's clock, so that sleeps, timeouts and retries fall due; returns by how many seconds.

        Waits first until no request is open and nothing is due, so that it may be called right after `send`.
        The functions' own clock does not move.

        Args:
            seconds: how far; without it, to when the next thing falls due.
            timeout: real seconds to wait until the engine is idle.

        Raises:
            TimeoutError: the engine is not idle in time.
            LookupError: nothing is to fall due.
        """
        deadline = time.monotonic() + timeout
        while not self.store.is_idle(self._clock.now()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the engine was not idle in {timeout} s")
            time.sleep(0.005)

        def skip() -> float:
            due = self.store.next_due()
            if seconds is None and due is None:
                raise LookupError("nothing is to fall due")
            ns = int(seconds * SECOND) if seconds is not None else max(0, (due or 0) - self._clock.now())
            self._clock.skip(ns)
            if self._executor is not None:
                self._executor.wake()
            return ns / SECOND

        return self._do(skip)


def _object(body: bytes) -> dict[str, Any]:
    """A JSON object; empty if the body is none."""
    with contextlib.suppress(ValueError):
        value = json.loads(body)
        return value if isinstance(value, dict) else {}
    return {}


def _backoff(backoff: float | Callable[[int], float] | None) -> Callable[[int], float]:
    if backoff is None:
        return protocol.default_backoff
    if callable(backoff):
        return backoff
    seconds = float(backoff)
    return lambda _: seconds
