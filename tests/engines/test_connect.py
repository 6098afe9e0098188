"""Durable runs of a worker that is connected by WebSocket (Connect): saved in one request, with no limit on its time.

The embedded engine has no gateway for it, so this is shown on the real server alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any, cast

import inngest
import pytest
from agents import Agent, RunConfig, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call
from inngest.connect import ConnectionState, connect

from inngest_agents import DurableOptions, DurableRunner

from .conftest import NO_SERVER
from .harness import RunOutcome, ServerEngine, server_binary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(server_binary() is None, reason=NO_SERVER)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerEngine]:
    engine = ServerEngine(tmp_path, cast("str", server_binary()))
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)


@contextlib.contextmanager
def connected(engine: ServerEngine, function: inngest.Function[Any]) -> Iterator[None]:
    """A worker in a thread of its own, which stays connected for as long as the block runs."""
    loop = asyncio.new_event_loop()
    worker = connect([(engine.client, [function])], shutdown_signals=[], rewrite_gateway_endpoint=engine.gateway)

    async def work() -> None:
        await worker.start()

    thread = threading.Thread(target=loop.run_until_complete, args=(work(),), daemon=True)
    thread.start()
    ready = asyncio.run_coroutine_threadsafe(worker.wait_for_state(ConnectionState.ACTIVE), loop)
    ready.result(20)
    until(lambda: "READY" in engine.connections())
    try:
        yield
    finally:
        # The loop ends with `start`, so nothing else in it may be waited for.
        asyncio.run_coroutine_threadsafe(worker.close(), loop)
        thread.join(20)
        assert not thread.is_alive()
        loop.close()


def run_once_routed(server: ServerEngine, event: str) -> tuple[str, RunOutcome]:
    """The run of an event and how it ended: a worker may be listed as ready before the server's router finds it."""
    for _ in range(10):
        run_id = server.send(event)
        outcome = server.wait(run_id)
        if "connect_no_healthy_connection" not in str(outcome.output):
            break
        time.sleep(0.5)
    return run_id, outcome


@pytest.mark.parametrize("checkpoint", [True, False], ids=["checkpointed", "step by step"])
def test_a_connected_worker_runs_each_step_once(server: ServerEngine, checkpoint: bool) -> None:
    requests: list[int] = []
    executed: list[str] = []
    failures: list[Exception] = [ConnectionError("no line")]

    @function_tool
    async def fetch(name: str) -> str:
        executed.append(name)
        await asyncio.sleep(0.1)
        if name == "b" and failures:
            raise failures.pop()
        return name

    calls = [function_call("fetch", {"name": name}, call_id=name) for name in ("a", "b")]
    model = ScriptedModel([calls, [function_call("fetch", {"name": "c"}, call_id="c")], [assistant_message("done")]])
    agent = Agent(name="fetcher", model=model, tools=[fetch])

    @server.client.create_function(fn_id="fetch", trigger=inngest.TriggerEvent(event="fetch"), retries=2)
    async def function(ctx: inngest.Context) -> Any:
        requests.append(ctx.attempt)
        options = DurableOptions(checkpoint=checkpoint, max_runtime=0.01)  # of no effect over Connect
        quiet = RunConfig(tracing_disabled=True)
        return (await DurableRunner.run(agent, "go", step=ctx.step, options=options, run_config=quiet)).final_output

    with connected(server, function):
        run_id, outcome = run_once_routed(server, "fetch")
    assert (outcome.status, outcome.output) == ("Completed", "done"), (outcome, requests, executed)
    assert sorted(executed) == ["a", "b", "b", "c"]
    if checkpoint:
        # The one in which b failed, its retry, which ends with the tool's step, and the rest.
        assert len(requests) == 3
    assert {"fetcher/1.1 fetch", "fetcher/1.2 fetch", "fetcher/2.1 fetch"} <= {s.name for s in server.steps(run_id)}
