"""What `inngest-agents dev` does: runs the engine, keeps its apps registered, and shows what goes on."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from .engine import LocalEngine, RegistrationFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from rich.console import Console

_RETRY_SECONDS = 1.0


class AppKeeper:
    """Registers apps, tries again until they are up, and looks for changed functions from time to time.

    Args:
        engine: where to register them.
        urls: where the apps serve Inngest.
        poll_seconds: how often an app that is up is asked again; 0 for never.
        say: called with a line on each change.
    """

    def __init__(
        self, engine: LocalEngine, urls: Sequence[str], *, poll_seconds: float, say: Callable[[str], None]
    ) -> None:
        self._engine = engine
        self._poll = poll_seconds
        self._say = say
        self._states = dict.fromkeys(urls, "waiting for it to come up")
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="inngest-agents-apps", daemon=True)

    def start(self) -> None:
        """Start to register."""
        self._thread.start()

    def stop(self) -> None:
        """Stop asking."""
        self._stopped.set()
        self._thread.join(5)

    def lines(self) -> list[str]:
        """How each app stands."""
        return [f"{url}: {state}" for url, state in self._states.items()]

    def _keep(self) -> None:
        due = dict.fromkeys(self._states, 0.0)
        while not self._stopped.wait(0.1):
            for url in [url for url, at in due.items() if time.monotonic() >= at]:
                up = self._register(url)
                wait = _RETRY_SECONDS if not up else self._poll or float("inf")
                due[url] = time.monotonic() + wait

    def _register(self, url: str) -> bool:
        try:
            warnings = self._engine.register(url)
            state, up = "; ".join(["registered", *warnings]), True
        except (RegistrationFailedError, RuntimeError) as error:
            state, up = f"not registered: {error}", False
        if self._states[url] != state:
            self._states[url] = state
            self._say(f"{url}: {state}")
        return up


def run_dev(
    urls: Sequence[str], *, host: str, port: int, db: Path, poll_seconds: float, live: bool, console: Console
) -> None:
    """Run the engine until Ctrl-C.

    Args:
        urls: the apps to register.
        host: the address to listen on.
        port: the port to listen on.
        db: the file that keeps the state.
        poll_seconds: how often an app that is up is asked for changed functions; 0 for never.
        live: whether to draw the live view, instead of a line per change.
        console: where to write.

    Raises:
        OSError: the port is taken.
    """
    from .console import watch

    engine = LocalEngine(path=db, host=host, port=port)
    with engine:
        console.print(f"embedded Inngest engine on {engine.url}, state in {db} (Ctrl-C ends it)")

        def say(line: str) -> None:
            if not live:
                console.print(line)

        apps = AppKeeper(engine, urls, poll_seconds=poll_seconds, say=say)
        apps.start()
        try:
            if live:
                watch(engine.store, console, apps=apps.lines, stop=lambda: False)
            else:
                _log_runs(engine, console)
        except KeyboardInterrupt:
            pass
        finally:
            apps.stop()


def _log_runs(engine: LocalEngine, console: Console) -> None:
    """A line for each run that starts or ends."""
    seen: dict[str, str] = {run.id: run.status for run in engine.store.runs(limit=1000)}
    while True:
        for run in reversed(engine.store.runs(limit=100)):
            if seen.get(run.id) != run.status:
                seen[run.id] = run.status
                console.print(f"{run.id} {run.function_id}: {run.status.lower()}, {run.step_count} steps")
        time.sleep(_RETRY_SECONDS / 5)
