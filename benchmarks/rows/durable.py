"""`DurableRunner` on the embedded engine and on the Inngest dev server, checkpointed and in the standard way.

The functions are served over HTTP from this process's event loop. The embedded engine works in a thread of the same
process, the dev server in a process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import inngest
import inngest.fast_api
import uvicorn
from fastapi import FastAPI

from benchmarks import measure, workloads
from benchmarks.rows import like_for_like, replays
from benchmarks.servers import free_ports, start_process, stop_process
from inngest_agents import DurableOptions, DurableRunner

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.measure import Plan
    from inngest_agents.local import LocalEngine

EVENT = "bench/run"
PLAIN_EVENT = "bench/run-plain"
SERVER = "INNGEST_CLI"
"""The environment variable with the path of the dev server."""
LIMIT = 1200.0
"""Seconds after which a run is given up."""
TRACES_LATE = 5.0
"""Seconds after which the dev server's traces are not trusted: on a busy machine it may lose the end of one."""


class Returned(NamedTuple):
    """What the function returned, in which run of the engine."""

    run_id: str
    output: str


@dataclass
class Functions:
    """The Inngest function that runs the agent, and the server that serves it."""

    client: inngest.Inngest
    checkpoint: bool
    ended: dict[str, asyncio.Future[Returned]] = field(default_factory=dict)
    """By prompt, so that nobody has to ask the engine all the time."""

    def __post_init__(self) -> None:
        # A thousand runs at a time take about as long as the 50 s after which a request is to end, and longer where the
        # machine is slower. So do their replays on two cores, and each request would then get one step further.
        options = DurableOptions(checkpoint=self.checkpoint, max_runtime=None)

        @self.client.create_function(fn_id="run-agent", trigger=inngest.TriggerEvent(event=EVENT))
        async def run_agent(ctx: inngest.Context) -> str:
            prompt = str(ctx.event.data["prompt"])
            # One for each run, as in the plain row: the SDK compares all runs under way that share an agent each turn.
            agent = workloads.agent_for(prompt)
            result = await DurableRunner.run(agent, prompt, step=ctx.step, options=options, **workloads.run_options())
            return self._returns(ctx, prompt, str(result.final_output))

        @self.client.create_function(fn_id="run-plain", trigger=inngest.TriggerEvent(event=PLAIN_EVENT))
        async def run_plain(ctx: inngest.Context) -> str:
            """A plain pass as a request: what a replay is compared with, and the start of a durable run."""
            prompt, output = str(ctx.event.data["prompt"]), "cut"
            with contextlib.suppress(workloads.Cut):
                output = await measure.plain(prompt)
            return self._returns(ctx, prompt, output)

        app = FastAPI()
        inngest.fast_api.serve(app, self.client, [run_agent, run_plain])
        self.recorder = replays.Recorder(app)

    def _returns(self, ctx: inngest.Context, prompt: str, output: str) -> str:
        """Tell whoever waits for it what the function returns."""
        ended = self.ended.pop(prompt, None)
        if ended is not None and not ended.done():
            ended.set_result(Returned(ctx.run_id, output))
        return output

    def ended_as(self, prompt: str) -> asyncio.Future[Returned]:
        """What the run of this prompt returned, as soon as it did."""
        self.ended[prompt] = asyncio.get_running_loop().create_future()
        return self.ended[prompt]

    async def serve(self) -> str:
        """Serve on a free port; gives the URL."""
        (port,) = free_ports(1)
        config = uvicorn.Config(self.recorder, port=port, log_level="error", lifespan="off", ws="none")
        self.server = uvicorn.Server(config)
        self.serving = asyncio.create_task(self.server.serve())
        while not self.server.started:  # noqa: ASYNC110  a flag is all that uvicorn offers
            await asyncio.sleep(0.01)
        return f"http://127.0.0.1:{port}/api/inngest"

    async def stop(self) -> None:
        """Stop serving."""
        self.server.should_exit = True
        await self.serving


class Embedded:
    """The embedded engine."""

    packages = ("inngest-agents", "inngest")
    kept: tuple[workloads.Workload, ...] = (workloads.LARGE, workloads.API, workloads.API_LARGE)

    def __init__(self, *, checkpoint: bool = True, fsync: bool = False) -> None:
        self.checkpoint = checkpoint
        self.durability = "fsync" if fsync else "file"
        self._synchronous: Any = "FULL" if fsync else "NORMAL"
        self.name = "DurableRunner, embedded engine"
        self.engine: LocalEngine

    async def start(self, directory: Path) -> None:
        """Start the engine on a new file, serve the function, register it."""
        from inngest_agents.local import LocalEngine

        self.engine = LocalEngine(path=directory / "state.db", synchronous=self._synchronous)
        await asyncio.to_thread(self.engine.start)
        self.functions = Functions(self.engine.client("bench"), self.checkpoint)
        url = await self.functions.serve()
        await asyncio.to_thread(self.engine.register, url)
        self._file = directory / "state.db"
        self._last = ("", "")
        """The prompt and the id of the last run: not of all, which would look like growth where memory is measured."""

    async def run(self, prompt: str) -> str:
        """Send the event and wait for the run that it starts."""
        ended = self.functions.ended_as(prompt)
        await asyncio.to_thread(self.engine.send_event, EVENT, {"prompt": prompt})
        returned = await asyncio.wait_for(ended, LIMIT)
        self._last = (prompt, returned.run_id)
        run = await self.engine.wait_async(returned.run_id, LIMIT)
        return str(run.output)

    async def one_of_many(self, prompt: str) -> str:
        """The same."""
        return await self.run(prompt)

    async def extras(self, plan: Plan) -> None:
        """Measure the steps beside a plain `Runner` that saves what durable runs save."""
        await like_for_like.steps(self.run, plan)

    async def stop(self) -> None:
        """Stop both."""
        await asyncio.to_thread(self.engine.stop)
        await self.functions.stop()

    def notes(self) -> dict[str, str]:
        """How the state is kept."""
        return {"sqlite": f"{sqlite3.sqlite_version}, journal_mode=wal, synchronous={self._synchronous}"}

    async def state(self, prompt: str) -> int | None:
        """What the run's memos take."""
        last, run_id = self._last
        assert last == prompt
        state = self.engine.store.state(run_id)
        return sum(len(memo.encode()) for _, memo in state.memos) if state else None


class DevServer:
    """The Inngest dev server."""

    durability = "memory"
    packages = ("inngest-agents", "inngest")
    kept: tuple[workloads.Workload, ...] = ()

    def __init__(self, *, checkpoint: bool = True) -> None:
        self.checkpoint = checkpoint
        self.name = "DurableRunner, Inngest dev server"

    async def start(self, directory: Path) -> None:
        """Serve the function, start the server on it, wait until it knows it."""
        self.program = os.environ[SERVER]
        port, gateway, grpc, executor = free_ports(4)
        origin = f"http://127.0.0.1:{port}"
        # As for a user who writes `inngest.Inngest(app_id=…)` and sets INNGEST_DEV.
        client = inngest.Inngest(app_id="bench", is_production=False, api_base_url=origin, event_api_base_url=origin)
        self.functions = Functions(client, self.checkpoint)
        url = await self.functions.serve()
        command = [self.program, "dev", "--no-discovery", "--no-poll", "-u", url, "-p", str(port)]
        command += ["--connect-gateway-port", str(gateway), "--log-level", "error"]
        # By default it has 100 requests open at a time, and all other runs wait in its queue.
        command += ["--queue-workers", "1000"]
        command += ["--connect-gateway-grpc-port", str(grpc), "--connect-executor-grpc-port", str(executor)]
        with (directory / "server.log").open("wb") as log:
            self.process = start_process(command, log, directory=directory)
        self.http = httpx.AsyncClient(
            base_url=origin, timeout=60, trust_env=False, limits=httpx.Limits(max_connections=100)
        )
        until = time.monotonic() + 60
        while not await self._knows_function():
            if time.monotonic() > until:
                raise RuntimeError("the dev server did not take the function")
            await asyncio.sleep(0.1)

    async def _knows_function(self) -> bool:
        """Whether the server is up and has the function."""
        with contextlib.suppress(httpx.TransportError):
            answer = await self.http.get("/dev")
            return answer.is_success and "run-agent" in answer.text
        return False

    async def run(self, prompt: str) -> str:
        """Send the event and wait for the run that it starts."""
        return await self._run(prompt, EVENT)

    async def run_plain(self, prompt: str) -> str:
        """The same with the function that runs the plain `Runner`."""
        return await self._run(prompt, PLAIN_EVENT)

    async def _run(self, prompt: str, event: str) -> str:
        returned = await self._returned(prompt, event)
        await self._completed(returned.run_id)
        return returned.output

    async def one_of_many(self, prompt: str) -> str:
        """The same without asking for the run's end: what a thousand ask for is most of what the server then does."""
        return (await self._returned(prompt)).output

    async def _returned(self, prompt: str, event: str = EVENT) -> Returned:
        """Send the event and wait until the function that it starts has returned."""
        ended = self.functions.ended_as(prompt)
        message = {"id": uuid.uuid4().hex, "name": event, "data": {"prompt": prompt}}
        answer = await self.http.post("/e/bench", json=message)
        answer.raise_for_status()
        return await asyncio.wait_for(ended, LIMIT)

    async def _completed(self, run_id: str) -> None:
        """Ask until the run is over; the function has returned already."""
        began, pause = time.monotonic(), 0.002
        while (waited := time.monotonic() - began) < LIMIT:
            status = await self._status(run_id)
            if status == "RUNNING" and waited > TRACES_LATE:
                status = await self._kept_status(run_id)
            if status == "COMPLETED":
                return
            if status in ("FAILED", "CANCELLED"):
                raise RuntimeError(f"the run ended as {status}")
            await asyncio.sleep(pause)
            pause = min(pause * 1.2, 0.5)
        raise TimeoutError("the run did not end")

    async def _status(self, run_id: str) -> str:
        """The run's state in its trace: over GraphQL, which shows it at once."""
        query = {"query": "query ($id: String!) { run(runID: $id) { status } }", "variables": {"id": run_id}}
        answer = await self.http.post("/v0/gql", json=query)
        run = (answer.json().get("data") or {}).get("run") or {}
        return str(run.get("status", ""))

    async def _kept_status(self, run_id: str) -> str:
        """The run's state in the REST API: seconds late, but not lost with a span that a locked table refused."""
        answer = await self.http.get(f"/v1/runs/{run_id}")
        run = (answer.json().get("data") or {}) if answer.is_success else {}
        return str(run.get("status", "")).upper()

    async def extras(self, plan: Plan) -> None:
        """Measure the start beside another function's, and the steps as on the embedded engine."""
        await like_for_like.starts(self.run, self.run_plain)
        await like_for_like.steps(self.run, plan)

    async def stop(self) -> None:
        """Stop the server and the worker."""
        stop_process(self.process)
        await self.http.aclose()
        await self.functions.stop()

    def notes(self) -> dict[str, str]:
        """The server's version."""
        answer = subprocess.run([self.program, "version"], capture_output=True, text=True, check=True)
        return {"inngest server": answer.stdout.split()[-1]}

    async def state(self, prompt: str) -> int | None:
        """The same opcodes as on the embedded engine."""
        return None


class EmbeddedStandard(Embedded):
    """The embedded engine in the standard way, and what a replay costs there."""

    kept = ()

    def __init__(self) -> None:
        super().__init__(checkpoint=False)
        self.name += ", standard"

    async def extras(self, plan: Plan) -> None:
        """Measure replays."""
        for workload in (workloads.Workload(10, 1), workloads.Workload(50, 1)):
            await replays.compare(self.run, self.functions.recorder, workload, durable="run-agent", plain="run-plain")


def choose(plan: Plan) -> Any:
    """The contender of a row."""
    rows: dict[str, Callable[[], Any]] = {
        "embedded": Embedded,
        "embedded-fsync": lambda: Embedded(fsync=True),
        "embedded-standard": EmbeddedStandard,
        "server": DevServer,
        "server-standard": lambda: DevServer(checkpoint=False),
    }
    return rows[plan.row]()


if __name__ == "__main__":
    measure.main(choose)
