"""A sandbox agent on the engines: its worker is killed in the middle of each command."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import inngest
import pytest
from agents import RunConfig, function_tool
from agents.run_config import SandboxRunConfig
from agents.sandbox import SandboxAgent
from agents.sandbox.capabilities import Shell
from agents.sandbox.sandboxes.unix_local import UnixLocalSandboxClient
from agents.testing import ScriptedModel, assistant_message, function_call

from inngest_agents import DurableOptions, DurableRunner
from inngest_agents.local.serve import ThreadedServer, functions_app

if TYPE_CHECKING:
    from .harness import EngineUnderTest


@pytest.mark.parametrize("checkpoint", [True, False])
def test_a_worker_that_is_killed_in_each_command_goes_on_in_the_same_sandbox(
    engine: EngineUnderTest, tmp_path: Path, checkpoint: bool
) -> None:
    log = tmp_path / "log.txt"
    engine.spawn("sandbox_target.py:build", env={"LOG": str(log), "CHECKPOINT": str(int(checkpoint))})

    outcome = engine.run("code", {}, timeout=120)

    assert outcome.status == "Completed", outcome.output
    assert outcome.output == "one\nseed\n"
    lines = log.read_text().splitlines()
    done = Counter(line.partition(" ")[0] for line in lines)
    assert done["create"] == done["delete"] == 1
    assert done["resume"] >= 3
    # The model is not asked again for what it has said; only one that was asked beside the save of a result may be.
    assert {line for line in lines if line.startswith("model")} == {f"model {n}" for n in range(4)}
    root = Path(next(line for line in lines if line.startswith("create")).partition(" ")[2])
    assert not root.exists()


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("checkpoint", [True, False])
def test_a_run_that_is_tried_again_after_an_error_goes_on_in_its_sandbox(
    engine: EngineUnderTest, checkpoint: bool, streamed: bool
) -> None:
    failed: list[str] = []
    roots: list[Path] = []

    class Flaky(Shell):
        def process_context(self, context: Any) -> Any:
            if roots and (roots[0] / "notes.txt").exists() and not failed:
                failed.append("once")
                raise ConnectionError("the network was away")
            return context

    class Client(UnixLocalSandboxClient):
        async def create(self, **kwargs: Any) -> Any:
            session = await super().create(**kwargs)
            roots.append(Path(session.state.manifest.root))
            return session

    commands = ["echo one > notes.txt", "cat notes.txt"]
    calls: list[Any] = [[function_call("exec_command", {"cmd": cmd}, call_id=cmd)] for cmd in commands]
    model = ScriptedModel([*calls, [assistant_message("done")]])
    coder = SandboxAgent(name="coder", model=model, capabilities=[Flaky()])

    @engine.client.create_function(fn_id="flaky", trigger=inngest.TriggerEvent(event="go"), retries=2)
    async def fn(ctx: inngest.Context) -> Any:
        options = DurableOptions(checkpoint=checkpoint)
        config = RunConfig(sandbox=SandboxRunConfig(client=Client()))
        given = [{"role": "user", "content": "go"}]
        run: Any = DurableRunner.run_streamed if streamed else DurableRunner.run
        result = run(coder, given, step=ctx.step, options=options, run_config=config)
        return (await (result.wait() if streamed else result)).final_output

    engine.serve([fn])
    outcome = engine.run("go", timeout=90)

    assert (outcome.status, outcome.output, failed) == ("Completed", "done", ["once"])
    assert "Output:\\none" in str(model.calls[-1].input)
    assert len(roots) == 1
    assert not roots[0].exists()


class LosesAnswer:
    """Serves an app, and loses its first answer that holds a text: the connection is cut instead."""

    def __init__(self, app: Any, text: bytes) -> None:
        self._app, self._text = app, text
        self.lost = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        messages: list[Any] = []

        async def keep(message: Any) -> None:
            messages.append(message)

        await self._app(scope, receive, keep)
        if not self.lost and any(self._text in message.get("body", b"") for message in messages):
            self.lost += 1
            raise ConnectionError("the line is cut")
        for message in messages:
            await send(message)


def test_an_opening_whose_result_is_lost_leaves_no_sandbox_open(engine: EngineUnderTest) -> None:
    roots: list[Path] = []
    deleted: list[Path] = []

    class Client(UnixLocalSandboxClient):
        async def create(self, **kwargs: Any) -> Any:
            session = await super().create(**kwargs)
            roots.append(Path(session.state.manifest.root))
            return session

        async def delete(self, session: Any) -> Any:
            deleted.append(Path(session.state.manifest.root))
            return await super().delete(session)

    model = ScriptedModel([[function_call("exec_command", {"cmd": "ls"}, call_id="c1")], [assistant_message("done")]])
    coder = SandboxAgent(name="coder", model=model)

    @engine.client.create_function(fn_id="code", trigger=inngest.TriggerEvent(event="code"), retries=5)
    async def code(ctx: inngest.Context) -> Any:
        run_config = RunConfig(sandbox=SandboxRunConfig(client=Client()), tracing_disabled=True)
        options = DurableOptions(checkpoint=False)
        return (
            await DurableRunner.run(coder, "go", step=ctx.step, run_config=run_config, options=options)
        ).final_output

    app = LosesAnswer(functions_app(engine.client, [code]), b"open sandbox coder")
    worker = ThreadedServer(app)
    worker.start()
    try:
        engine.register(f"{worker.url}/api/inngest")
        assert engine.run("code", timeout=60).output == "done"
    finally:
        worker.stop(force=True)
    assert app.lost == 1
    assert len(roots) == 2
    assert deleted == roots
    assert not any(root.exists() for root in roots)


@pytest.mark.parametrize("streamed", [True, False])
def test_a_run_that_is_cancelled_while_a_request_is_open_leaves_no_sandbox_open(
    engine: EngineUnderTest, streamed: bool
) -> None:
    is_under_way, is_cancelled = threading.Event(), threading.Event()
    roots: list[Path] = []

    class Client(UnixLocalSandboxClient):
        async def create(self, **kwargs: Any) -> Any:
            session = await super().create(**kwargs)
            roots.append(Path(session.state.manifest.root))
            return session

    @function_tool
    async def wait() -> str:
        is_under_way.set()
        await asyncio.to_thread(is_cancelled.wait, 20)
        return "waited"

    turns: list[Any] = [
        [function_call("exec_command", {"cmd": "touch begun"}, call_id="c1")],
        [function_call("wait", {}, call_id="c2")],
        [assistant_message("done")],
    ]
    coder = SandboxAgent(name="coder", model=ScriptedModel(turns), tools=[wait])

    @engine.client.create_function(fn_id="code", trigger=inngest.TriggerEvent(event="code"))
    async def code(ctx: inngest.Context) -> Any:
        config = RunConfig(sandbox=SandboxRunConfig(client=Client()), tracing_disabled=True)
        run: Any = DurableRunner.run_streamed if streamed else DurableRunner.run
        result = run(coder, "go", step=ctx.step, run_config=config)
        return (await (result.wait() if streamed else result)).final_output

    engine.serve([code])
    run_id = engine.send("code")
    assert is_under_way.wait(20)
    assert (roots[0] / "begun").exists()
    assert httpx.delete(f"{engine.url}/v1/runs/{run_id}").is_success
    assert engine.wait(run_id).status == "Cancelled"
    is_cancelled.set()
    deadline = time.monotonic() + 20
    while roots[0].exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [root for root in roots if root.exists()] == []
