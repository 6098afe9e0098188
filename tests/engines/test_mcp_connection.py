"""A connection to an MCP server that runs share is renewed when the server dies, also while others hold it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import inngest
import pytest
from agents import Agent, RunConfig, function_tool
from agents.mcp import MCPServerStdio, MCPServerStreamableHttp
from agents.testing import ScriptedModel, assistant_message, function_call

from inngest_agents import DurableOptions, DurableRunner

from .harness import free_port
from .test_engine_protocol import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .harness import EngineUnderTest

WEATHER = Path(__file__).parent.parent / "unit" / "instrument" / "mcp_weather.py"


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
        return True
    return False


@contextlib.contextmanager
def kept_up(log: Path, port: int) -> Iterator[None]:
    """A streamable-HTTP server that is started again whenever it dies, as by a process manager."""
    command = [sys.executable, str(WEATHER), str(log), str(port)]
    stopped = threading.Event()
    processes: list[subprocess.Popen[bytes]] = []

    def keep() -> None:
        while not stopped.is_set():
            processes.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
            processes[-1].wait()

    keeper = threading.Thread(target=keep)
    keeper.start()
    try:
        until(lambda: listens(port), timeout=30)
        yield
    finally:
        stopped.set()
        while keeper.is_alive():
            processes[-1].kill()
            keeper.join(0.2)


@pytest.fixture(params=["stdio", "streamable HTTP"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A server that nobody has connected; it logs what it does to `weather.log`."""
    log = tmp_path / "weather.log"
    if request.param == "stdio":
        command = {"command": sys.executable, "args": [str(WEATHER), str(log)]}
        yield MCPServerStdio(params=command, name="weather", client_session_timeout_seconds=30)  # type: ignore[arg-type]
        return
    port = free_port()
    with kept_up(log, port):
        url = f"http://127.0.0.1:{port}/mcp"
        yield MCPServerStreamableHttp(params={"url": url}, name="weather", client_session_timeout_seconds=30)


def test_a_run_gets_another_connection_while_a_second_run_holds_the_broken_one(
    engine: EngineUnderTest, server: Any, tmp_path: Path
) -> None:
    may_go_on, waiting = threading.Event(), threading.Event()
    attempts: dict[str, list[int]] = {"unlucky": [], "patient": []}

    @function_tool
    async def wait() -> str:
        waiting.set()
        await asyncio.to_thread(may_go_on.wait, 60)
        return "waited"

    def call(name: str, **arguments: Any) -> Any:
        return [function_call(name, arguments, call_id=f"{name}-{len(arguments)}-{arguments.get('city', '')}")]

    patient = Agent(
        name="patient",
        model=ScriptedModel(
            [
                call("get_weather", city="Oslo"),
                call("wait"),
                call("get_weather", city="Rome"),
                [assistant_message("done")],
            ]
        ),
        tools=[wait],
        mcp_servers=[server],
    )
    unlucky = Agent(
        name="unlucky",
        model=ScriptedModel([call("vanish"), call("get_weather", city="Bern"), [assistant_message("done")]]),
        mcp_servers=[server],
    )

    def function(agent: Agent[Any]) -> inngest.Function[Any]:
        @engine.client.create_function(fn_id=agent.name, trigger=inngest.TriggerEvent(event=agent.name), retries=15)
        async def run(ctx: inngest.Context) -> Any:
            attempts[agent.name].append(ctx.attempt)
            options = DurableOptions(max_runtime=None)
            quiet = RunConfig(tracing_disabled=True)
            result = await DurableRunner.run(agent, "go", step=ctx.step, options=options, run_config=quiet)
            return [str(item.output) for item in result.new_items if item.type == "tool_call_output_item"]

        return run

    engine.serve([function(patient), function(unlucky)])
    holding = engine.send("patient")
    until(waiting.is_set, timeout=30)
    start = time.monotonic()
    ended = engine.run("unlucky", timeout=90)
    assert "still there" in ended.output[0]
    assert "Bern" in ended.output[1]
    assert time.monotonic() - start < 60
    assert engine.status(holding) is None
    may_go_on.set()
    first, waited, last = engine.wait(holding, timeout=60).output
    assert ["Oslo" in first, waited, "Rome" in last] == [True, "waited", True]
    assert attempts["patient"] == [0], "it went on over the new connection, in the same request"
    log = (tmp_path / "weather.log").read_text().splitlines()
    assert [log.count(f"get_weather {city}") for city in ("Oslo", "Bern", "Rome")] == [1, 1, 1]
    assert log.count("vanish") == 2
    until(lambda: server.session is None)
