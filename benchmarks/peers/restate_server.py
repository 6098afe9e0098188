"""Restate's server with `restate.ext.openai`: its `DurableRunner`, the tool a `durable_function_tool`.

The server is the one from npm, with its defaults; the worker is served over HTTP/2, so that a run is one
bidirectional stream.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import hypercorn.asyncio
import hypercorn.config
import restate
from agents.models.interface import Model
from agents.models.multi_provider import MultiProvider
from restate.ext.openai import DurableRunner, durable_function_tool, restate_context

from benchmarks import measure, workloads
from benchmarks.servers import free_ports, start_process, stop_process

SERVER = "BENCH_RESTATE_SERVER"
"""The environment variable with the path of the server's executable."""


def get_model(self: MultiProvider, model_name: str | None) -> Model:
    """The instant model, whatever the name."""
    return workloads.InstantModel()


# The extension makes model calls durable through its own provider, a MultiProvider, so the instant model has to come
# from there and not from the agent.
MultiProvider.get_model = get_model  # type: ignore[method-assign]

service = restate.Service("bench")


async def lookup(run: str, call: str, delay_ms: int, payload: int) -> str:
    """Look something up."""
    return str(
        await restate_context().run_typed(
            "lookup", workloads.lookup, run=run, call=call, delay_ms=delay_ms, payload=payload
        )
    )


agent = workloads.make_agent([durable_function_tool(lookup)], model=workloads.MODEL)


@service.handler()
async def run_agent(ctx: restate.Context, prompt: str) -> str:
    """The handler of the documentation."""
    result = await DurableRunner.run(agent, prompt, **workloads.run_options())
    return str(result.final_output)


class Restate:
    """The server in a process of its own, the worker in this one."""

    name = "Restate"
    durability = "fsync"
    packages = ("restate-sdk",)
    kept: tuple[workloads.Workload, ...] = ()

    async def start(self, directory: Path) -> None:
        """Start the server, serve the worker, register it."""
        self.server = os.environ[SERVER]
        ingress, admin, node, worker = free_ports(4)
        environment = {
            **os.environ,
            "RESTATE_BASE_DIR": str(directory / "restate"),
            "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{ingress}",
            "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{admin}",
            "RESTATE_BIND_ADDRESS": f"127.0.0.1:{node}",
            "RESTATE_LISTEN_MODE": "tcp",
            "RESTATE_DISABLE_TELEMETRY": "true",
            "RESTATE_LOG_FILTER": "error",
        }
        with (directory / "server.log").open("wb") as log:
            self.process = start_process([self.server], log, environment)
        self.stopping = asyncio.Event()
        config = hypercorn.config.Config()
        config.bind = [f"127.0.0.1:{worker}"]
        config.loglevel = "ERROR"
        app: Any = restate.app([service])
        self.worker = asyncio.create_task(hypercorn.asyncio.serve(app, config, shutdown_trigger=self.stopping.wait))
        self.client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{ingress}", timeout=None, limits=httpx.Limits(max_connections=None)
        )
        await self._register(f"http://127.0.0.1:{admin}/deployments", f"http://127.0.0.1:{worker}")

    async def _register(self, deployments: str, worker: str) -> None:
        """Tell the server about the worker, as soon as it listens."""
        until = time.monotonic() + 60
        while True:
            try:
                answer = await self.client.post(deployments, json={"uri": worker})
                if answer.is_success:
                    return
                problem = answer.text
            except httpx.TransportError as error:
                problem = str(error)
            if time.monotonic() > until:
                raise RuntimeError(f"the server did not take the worker: {problem}")
            await asyncio.sleep(0.2)

    async def run(self, prompt: str) -> str:
        """Call the handler through the server."""
        answer = await self.client.post("/bench/run_agent", json=prompt)
        answer.raise_for_status()
        return str(answer.json())

    async def stop(self) -> None:
        """Stop the worker and the server."""
        self.stopping.set()
        await self.worker
        await self.client.aclose()
        stop_process(self.process)

    def notes(self) -> dict[str, str]:
        """The server's version."""
        answer = subprocess.run([self.server, "--version"], capture_output=True, text=True, check=True)
        return {"restate-server": answer.stdout.split()[-1]}

    async def state(self, prompt: str) -> int | None:
        """The journal is in the server's own format."""
        return None


if __name__ == "__main__":
    measure.main(lambda plan: Restate())
