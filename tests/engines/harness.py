"""The engines that behaviour tests run on, behind one small interface, and the workers that serve the functions.

A test takes the fixture `engine` (see conftest.py), makes functions with `engine.client`, serves them and sends events:

    async def test_it(engine: EngineUnderTest) -> None:
        @engine.client.create_function(fn_id="fn", trigger=inngest.TriggerEvent(event="go"))
        async def fn(ctx: inngest.Context) -> str: ...

        engine.serve([fn])
        outcome = engine.run("go", {"x": 1})
        assert outcome.output == ...

All methods block, and may be called from sync and async tests alike: functions run in the worker's own thread (with its
own event loop) or process, the engine in another.

- `serve(functions)` serves them in this process; `stop_worker()` takes the worker down, `start_worker()` brings it up
  again on the same port. The engine sees a refused connection meanwhile.
- `spawn(target, env=…)` serves `build(client)` of `file.py:build` in a subprocess, which has `.kill()` (SIGKILL);
  spawning again uses the same port.
- `engine.name` is `embedded` or `server`; `RETRY_SECONDS[engine.name]` is what a retry takes.
"""

from __future__ import annotations

import abc
import contextlib
import hashlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import inngest

from inngest_agents.local import LocalEngine
from inngest_agents.local.serve import ThreadedServer, functions_app

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HERE = Path(__file__).parent

RETRY_SECONDS = {"embedded": 0.02, "server": 1.0}
"""What passes before a failed step or function is tried again, the first time."""


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended."""

    status: str
    """`Completed`, `Failed` or `Cancelled`."""
    output: Any
    """What the function returned; for a failed run the error, with `name` and `message`."""


@dataclass(frozen=True)
class StepOutcome:
    """A step of a run as the engine shows it."""

    id: str
    name: str
    status: str
    """In capitals, e.g. `COMPLETED`, `FAILED`, `TIMED_OUT`."""
    metadata: list[dict[str, Any]] = field(default_factory=list)


class Worker:
    """A process that serves functions."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.process = process
        self.url = url
        self.log = log

    def kill(self) -> None:
        """Kill it without warning (SIGKILL)."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)


class EngineUnderTest(abc.ABC):
    """One engine, with the worker that serves the test's functions."""

    name: str
    url: str
    kind = "dev"
    """What the engine calls itself to apps: `dev` trusts everybody, `cloud` signs and wants signatures."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._worker: ThreadedServer | None = None
        self._worker_port = free_port()
        self._spawned: list[Worker] = []
        self._client: inngest.Inngest | None = None

    # The engine ------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def start(self) -> None:
        """Start the engine."""

    @abc.abstractmethod
    def stop(self) -> None:
        """Stop the engine and all workers."""

    @abc.abstractmethod
    def send(self, name: str, data: Mapping[str, Any] | None = None) -> str:
        """Send an event; returns the id of the run that it starts."""

    @abc.abstractmethod
    def send_event(self, name: str, data: Mapping[str, Any] | None = None, *, id: str = "") -> str:
        """Send an event; returns its id."""

    @abc.abstractmethod
    def event_runs(self, event_id: str) -> list[str]:
        """The ids of the runs that an event started, as far as they are there yet."""

    @abc.abstractmethod
    def status(self, run_id: str) -> RunOutcome | None:
        """How a run ended; None if it has not."""

    @abc.abstractmethod
    def steps(self, run_id: str) -> list[StepOutcome]:
        """The steps of a run, each once, in the order in which they ended."""

    def wait(self, run_id: str, timeout: float = 30) -> RunOutcome:
        """Wait for the end of a run."""
        deadline = time.monotonic() + timeout
        while True:
            outcome = self.status(run_id)
            if outcome is not None:
                return outcome
            if time.monotonic() > deadline:
                raise TimeoutError(f"run {run_id} did not end in {timeout} s; steps: {self.steps(run_id)}")
            time.sleep(0.01 if self.name == "embedded" else 0.05)

    def run(self, name: str, data: Mapping[str, Any] | None = None, *, timeout: float = 30) -> RunOutcome:
        """Send an event and wait for the end of the run."""
        return self.wait(self.send(name, data), timeout)

    # Workers ---------------------------------------------------------------------------------------------

    @property
    def client(self) -> inngest.Inngest:
        """A client of app `test` that talks to the engine."""
        if self._client is None:
            self._client = self.new_client()
        return self._client

    def new_client(self, *, api_url: str | None = None, **options: Any) -> inngest.Inngest:
        """Another client; `api_url` names something between it and the engine."""
        return inngest.Inngest(
            app_id=options.pop("app_id", "test"),
            is_production=options.pop("is_production", False),
            api_base_url=api_url or self.url,
            event_api_base_url=self.url,
            **options,
        )

    def serve(self, functions: Sequence[inngest.Function[Any]], *, client: inngest.Inngest | None = None) -> str:
        """Serve functions in this process and register them; returns their URL."""
        self._worker = ThreadedServer(functions_app(client or self.client, functions), port=self._worker_port)
        self.start_worker()
        url = f"{self._worker.url}/api/inngest"
        self.register(url)
        return url

    def register(self, url: str) -> None:
        """Let an app register its functions."""
        response = httpx.put(url, headers={"x-inngest-server-kind": self.kind}, timeout=10)
        assert response.status_code == 200, response.text

    def start_worker(self) -> None:
        """Bring the worker of `serve` up again."""
        assert self._worker is not None
        self._worker.start()

    def stop_worker(self) -> None:
        """Take the worker of `serve` down; what it runs is cut off."""
        if self._worker is not None:
            self._worker.stop(force=True)

    def spawn(
        self, target: str, *, env: Mapping[str, str] | None = None, api_url: str | None = None, app_id: str = "test"
    ) -> Worker:
        """Serve `build(client)` of `path/to/file.py:build` in a process of its own, and register it.

        Args:
            target: the file (relative ones: to this folder) and the function, which takes the client and returns the
                functions to serve.
            env: more environment variables for it.
            api_url: what it takes for the engine's API, if not the engine itself.
            app_id: the app's id.
        """
        log = self.folder / f"worker-{len(self._spawned)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, str(HERE / "worker_main.py"), target, str(self._worker_port)],
                env={
                    **os.environ,
                    "TEST_APP_ID": app_id,
                    "TEST_API_URL": api_url or self.url,
                    "TEST_EVENT_URL": self.url,
                    **(env or {}),
                },
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        worker = Worker(process, f"http://127.0.0.1:{self._worker_port}/api/inngest", log)
        self._spawned.append(worker)
        wait_for_port(self._worker_port, process, log)
        self.register(worker.url)
        return worker

    def stop_workers(self) -> None:
        """Stop the worker of `serve` and kill those of `spawn`."""
        self.stop_worker()
        for worker in self._spawned:
            worker.kill()


class EmbeddedEngine(EngineUnderTest):
    """The embedded engine, in a thread of this process."""

    name = "embedded"

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder)
        # Quick at first, but with ten retries a killed worker has seconds to come up again, as on the real server.
        options.setdefault("backoff", lambda attempt: min(RETRY_SECONDS["embedded"] * 3**attempt, 1.0))
        self.engine = LocalEngine(path=folder / "state.db", **options)
        if options.get("signing_key"):
            self.kind = "cloud"

    @property
    def url(self) -> str:  # type: ignore[override]
        return self.engine.url

    def start(self) -> None:
        self.engine.start()

    def stop(self) -> None:
        self.stop_workers()
        self.engine.stop()

    def send(self, name: str, data: Mapping[str, Any] | None = None) -> str:
        return self.engine.send(name, data)

    def send_event(self, name: str, data: Mapping[str, Any] | None = None, *, id: str = "") -> str:
        return self.engine.send_event(name, data, id=id)

    def event_runs(self, event_id: str) -> list[str]:
        return [run.id for run in self.engine.event_runs(event_id)]

    def status(self, run_id: str) -> RunOutcome | None:
        run = self.engine.store.run(run_id)
        if run is None or not run.status.ended:
            return None
        return RunOutcome(str(run.status), run.error if run.error_json else run.output)

    def wait(self, run_id: str, timeout: float = 30) -> RunOutcome:
        self.engine.wait(run_id, timeout)
        outcome = self.status(run_id)
        assert outcome is not None
        return outcome

    def steps(self, run_id: str) -> list[StepOutcome]:
        return [
            StepOutcome(
                step.id,
                step.name,
                "TIMED_OUT" if step.status == "TimedOut" else step.status.upper(),
                [{"kind": m["kind"], "values": m["values"]} for m in step.metadata],
            )
            for step in self.engine.steps(run_id)
        ]


class ServerEngine(EngineUnderTest):
    """The real server, in a process of its own: the dev server, or with a signing key the self-hosted one."""

    name = "server"

    def __init__(self, folder: Path, binary: str, *, signing_key: str = "") -> None:
        super().__init__(folder)
        self._command = [binary, "dev", "--no-discovery", "--no-poll"]
        self._headers: dict[str, str] = {}
        if signing_key:
            self.kind = "cloud"
            # It wants the key alone, without what tells people where it belongs.
            self._command = [binary, "start", f"--signing-key={signing_key.rpartition('-')[2]}", "--event-key=7e57"]
            self._headers = {"authorization": f"Bearer {hash_of(signing_key)}"}
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "server.log"
        self._http = httpx.Client(timeout=10, headers=self._headers)
        self._reads = 0
        self.url = ""

    def start(self) -> None:
        for last in (False, False, True):
            try:
                self._start()
                return
            except RuntimeError:
                # Other tests look for free ports at the same time, and find the same ones now and then.
                if last or b"address already in use" not in self._log.read_bytes():
                    raise

    def _start(self) -> None:
        ports = [free_port() for _ in range(5)]
        flags = ("port", "connect-gateway-port", "connect-gateway-grpc-port", "connect-executor-grpc-port")
        with self._log.open("wb") as out:
            self._process = subprocess.Popen(
                [
                    *self._command,
                    "--retry-interval=1",
                    "--tick=20",
                    f"--sqlite-dir={self.folder / 'server'}",
                    *([f"--debug-api-port={ports[4]}"] if self.kind == "dev" else []),
                    *(f"--{flag}={port}" for flag, port in zip(flags, ports, strict=False)),
                ],
                # What production does with the checkpoints of a dispatch that another one took the place of.
                env={**os.environ, "EXPERIMENTAL_ASYNC_DISPATCH_VALIDATION": "true"},
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                start_new_session=True,
            )
        self.url = f"http://127.0.0.1:{ports[0]}"
        self._gateway_port = ports[1]
        wait_for_port(ports[0], self._process, self._log)
        deadline = time.monotonic() + 20
        while b'"service":"executor"' not in self._log.read_bytes() and time.monotonic() < deadline:
            time.sleep(0.05)

    def stop(self) -> None:
        self.stop_workers()
        self._http.close()
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(10)

    def send(self, name: str, data: Mapping[str, Any] | None = None) -> str:
        event_id = self.send_event(name, data)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            runs = self.event_runs(event_id)
            if runs:
                return runs[0]
            time.sleep(0.02)
        raise LookupError(f"event {name!r} started no run")

    def send_event(self, name: str, data: Mapping[str, Any] | None = None, *, id: str = "") -> str:
        event = {"name": name, "data": dict(data or {})} | ({"id": id} if id else {})
        response = self._http.post(f"{self.url}/e/{'test' if self.kind == 'dev' else '7e57'}", json=event)
        assert response.status_code == 200, response.text
        event_id: str = response.json()["ids"][0]
        return event_id

    def gateway(self, endpoint: str) -> str:
        """Where workers connect to, whatever host the server believes to have."""
        return urllib.parse.urlsplit(endpoint)._replace(netloc=f"127.0.0.1:{self._gateway_port}").geturl()

    def connections(self) -> list[str]:
        """The states of the workers that are connected by WebSocket and whose functions the server knows."""
        query = (
            "{ workerConnections(orderBy: [{field: CONNECTED_AT, direction: ASC}], filter: {})"
            " { edges { node { status functionCount syncId } } } }"
        )
        found = self._http.post(f"{self.url}/v0/gql", json={"query": query}).json()["data"]["workerConnections"]
        nodes = [edge["node"] for edge in found["edges"]]
        return [node["status"] for node in nodes if node["functionCount"] and node["syncId"]]

    def _read(self, path: str) -> Any:
        # The server caches answers by their URL for some seconds.
        self._reads += 1
        response = self._http.get(f"{self.url}{path}", params={"read": self._reads})
        return response.json().get("data") if response.status_code == 200 else None

    def event_runs(self, event_id: str) -> list[str]:
        return sorted(run["run_id"] for run in self._read(f"/v1/events/{event_id}/runs") or [])

    def status(self, run_id: str) -> RunOutcome | None:
        run = self._read(f"/v1/runs/{run_id}")
        if run is None or run["status"] not in ("Completed", "Failed", "Cancelled"):
            return None
        output = run.get("output")
        return RunOutcome(run["status"], output)

    def steps(self, run_id: str) -> list[StepOutcome]:
        query = (
            "query($run: String!) { runTrace(runID: $run) { childrenSpans"
            " { name status stepID endedAt metadata { kind values } } } }"
        )
        body = {"query": query, "variables": {"run": run_id}}
        spans = self._http.post(f"{self.url}/v0/gql", json=body).json()["data"]["runTrace"]["childrenSpans"]
        steps: dict[str, list[dict[str, Any]]] = {}
        for span in spans:
            if span["stepID"]:
                steps.setdefault(span["stepID"], []).append(span)
        # The spans of a run come in any order.
        members = sorted(steps.values(), key=lambda members: max(span["endedAt"] or "9" for span in _ended(members)))
        return [_step_outcome(spans) for spans in members]


_SERVERS_OWN = ("inngest.http", "inngest.timing")


def _ended(spans: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of a step's spans those that have ended, or all: the server goes on calling others of them running."""
    return [span for span in spans if span["endedAt"]] or spans


def _step_outcome(spans: list[dict[str, Any]]) -> StepOutcome:
    first = spans[0]
    statuses = [span["status"] for span in _ended(spans)]
    status = "COMPLETED" if "COMPLETED" in statuses else statuses[0]
    # Of the spans of a step one has what the app told, and another what the server knows of its requests.
    told = ([m for m in span["metadata"] if not m["kind"].startswith(_SERVERS_OWN)] for span in spans)
    metadata = max(told, key=len)
    return StepOutcome(first["stepID"], first["name"], status, metadata)


def hash_of(signing_key: str) -> str:
    """How a signing key is sent: the part after the last dash, as the SHA-256 of its bytes."""
    prefix, _, digits = signing_key.rpartition("-")
    return f"{prefix}-{hashlib.sha256(bytes.fromhex(digits)).hexdigest()}"


def server_binary() -> str | None:
    """The Inngest server to test on: named by `INNGEST_CLI`, or `inngest` on the path; None if there is none."""
    return os.environ.get("INNGEST_CLI") or shutil.which("inngest")


_PORTS = 2000
_first_port = 20_000 + _PORTS * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 6)
_turns = itertools.count(os.getpid())  # another run of the tests, on the same machine, begins at another one


def free_port() -> int:
    """A port that nobody listens on, for a process that is started with it.

    From a range of this test process's own, below those that systems give away by themselves: another test could get
    one of these before the process has it.
    """
    for turn in itertools.islice(_turns, _PORTS):
        port = _first_port + turn % _PORTS
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError(f"no port is free from {_first_port} to {_first_port + _PORTS}")


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path, timeout: float = 30) -> None:
    """Wait until a process listens."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the process ended: {log.read_text()[-2000:]}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
        time.sleep(0.02)
    raise TimeoutError(f"nothing listens on {port}: {log.read_text()[-2000:]}")
