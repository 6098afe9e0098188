"""Temporal's dev server with `temporalio.openai_agents`: its plugin for the model, the tool an activity.

The dev server is the one of the command line tool, on disk, with two settings in its favour: the limit of 20 polls a
second that it sets on its own task queue is lifted, and SQLite writes ahead instead of rolling back.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import time
from typing import TYPE_CHECKING

from agents.models.interface import Model, ModelProvider
from temporalio.client import Client
from temporalio.openai_agents import ModelActivityParameters, OpenAIAgentsPlugin
from temporalio.worker import Worker

from benchmarks import measure, workloads
from benchmarks.peers.temporal_workflow import LIMIT, RunAgent, lookup
from benchmarks.servers import free_ports, start_process, stop_process

if TYPE_CHECKING:
    from pathlib import Path

SERVER = "BENCH_TEMPORAL_SERVER"
"""The environment variable with the path of Temporal's command line tool."""
QUEUE = "bench"
SETTINGS = (
    "--dynamic-config-value",
    "history.transferProcessorMaxPollRPS=10000",
    "--sqlite-pragma",
    "journal_mode=wal",
)


class Provider(ModelProvider):
    """Gives the instant model, whatever the name."""

    def get_model(self, model_name: str | None) -> Model:
        """The instant model."""
        return workloads.InstantModel()


class Temporal:
    """The dev server in a process of its own, the worker in this one."""

    name = "Temporal (dev server)"
    packages = ("temporalio", "temporalio-openai-agents")
    kept: tuple[workloads.Workload, ...] = ()
    durability = "fsync"

    async def start(self, directory: Path) -> None:
        """Start the server on a new file, connect, start the worker."""
        self.server = os.environ[SERVER]
        self.file = directory / "temporal.sqlite"
        port, metrics, http = free_ports(3)
        command = [self.server, "server", "start-dev", "--headless", "--log-level", "error", *SETTINGS]
        ports = ["--port", str(port), "--metrics-port", str(metrics), "--http-port", str(http)]
        with (directory / "server.log").open("wb") as log:
            self.process = start_process([*command, *ports, "--db-filename", str(self.file)], log)
        plugin = OpenAIAgentsPlugin(
            model_params=ModelActivityParameters(start_to_close_timeout=LIMIT), model_provider=Provider()
        )
        self.client = await self._connect(f"127.0.0.1:{port}", plugin)
        self.worker = Worker(self.client, task_queue=QUEUE, workflows=[RunAgent], activities=[lookup])
        self.working = asyncio.create_task(self.worker.run())

    async def _connect(self, address: str, plugin: OpenAIAgentsPlugin) -> Client:
        """Connect as soon as the server listens."""
        until = time.monotonic() + 60
        while True:
            try:
                return await Client.connect(address, plugins=[plugin])
            except RuntimeError:
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(0.2)

    async def run(self, prompt: str) -> str:
        """Execute the workflow and wait for it."""
        name = json.loads(prompt)["run"]
        return str(await self.client.execute_workflow(RunAgent.run, prompt, id=name, task_queue=QUEUE))

    async def stop(self) -> None:
        """Stop the worker and the server."""
        await self.worker.shutdown()
        await self.working
        stop_process(self.process)

    def notes(self) -> dict[str, str]:
        """The server's version, and how its database is kept."""
        answer = subprocess.run([self.server, "--version"], capture_output=True, text=True, check=True)
        with sqlite3.connect(f"file:{self.file}?mode=ro", uri=True) as database:
            mode = database.execute("PRAGMA journal_mode").fetchone()[0]
        return {"temporal server": answer.stdout.split()[2], "sqlite": f"journal_mode={mode}, poll limit lifted"}

    async def state(self, prompt: str) -> int | None:
        """The history is in the server's own format."""
        return None


if __name__ == "__main__":
    measure.main(lambda plan: Temporal())
