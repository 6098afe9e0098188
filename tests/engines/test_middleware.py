"""Middleware sees what durable runs store as it sees what `step.run` stores: encryption leaves no plain text behind."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import inngest
import pytest
from agents import Agent, RunConfig, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call
from inngest_encryption import EncryptionMiddleware

from inngest_agents import DurableOptions, DurableRunner

if TYPE_CHECKING:
    from .harness import EmbeddedEngine, EngineUnderTest

QUIET = RunConfig(tracing_disabled=True)
SECRET = "TopSecret"


class Vault:
    """A run whose arguments, outputs and answers all contain the secret; a tool of it fails at first."""

    def __init__(self) -> None:
        self.requests = 0
        self.executed: list[str] = []
        self.outputs: list[Any] = []

    def function(self, client: inngest.Inngest, **options: Any) -> inngest.Function[Any]:
        @function_tool
        async def fetch(name: str, key: str) -> str:
            self.executed.append(name)
            if name == "flaky" and self.executed.count(name) == 1:
                raise ConnectionError("no line")
            return f"{key} of {name}"

        calls = [
            function_call("fetch", {"name": name, "key": SECRET}, call_id=f"c-{name}") for name in ("safe", "flaky")
        ]
        model = ScriptedModel([calls, [assistant_message(f"it is {SECRET}")]])
        agent = Agent(name="keeper", model=model, tools=[fetch], instructions=f"Keep {SECRET}.")

        @client.create_function(fn_id="vault", trigger=inngest.TriggerEvent(event="vault"), retries=2)
        async def vault(ctx: inngest.Context) -> Any:
            self.requests += 1
            result = await DurableRunner.run(
                agent, f"Tell {SECRET}", step=ctx.step, options=DurableOptions(**options), run_config=QUIET
            )
            self.outputs.append(result.final_output)
            return result.final_output

        return vault


def written(folder: Path) -> bytes:
    """All that the embedded engine has on disk."""
    return b"".join(file.read_bytes() for file in folder.glob("state.db*"))


@pytest.mark.parametrize("checkpoint", [True, False], ids=["checkpointed", "step by step"])
def test_what_is_stored_is_encrypted_and_read_back(engine: EngineUnderTest, checkpoint: bool) -> None:
    client = engine.new_client(middleware=[EncryptionMiddleware.factory("a key")])
    vault = Vault()
    engine.serve([vault.function(client, checkpoint=checkpoint)], client=client)
    run_id = engine.send("vault")
    outcome = engine.wait(run_id)
    assert (outcome.status, vault.outputs) == ("Completed", [f"it is {SECRET}"])
    assert sorted(vault.executed) == ["flaky", "flaky", "safe"]
    if checkpoint:
        # The one in which a tool failed, its retry, which ends with the tool's step, and the rest.
        assert vault.requests == 3
    assert "keeper/1.1 fetch" in {step.name for step in engine.steps(run_id)}


@pytest.mark.parametrize("checkpoint", [True, False], ids=["checkpointed", "step by step"])
@pytest.mark.parametrize("encrypted", [True, False], ids=["encrypted", "plain"])
def test_no_plain_text_is_left_on_disk(embedded: EmbeddedEngine, checkpoint: bool, encrypted: bool) -> None:
    middleware = [EncryptionMiddleware.factory("a key")] if encrypted else []
    client = embedded.new_client(middleware=middleware)
    embedded.serve([Vault().function(client, checkpoint=checkpoint)], client=client)
    assert embedded.run("vault").status == "Completed"
    # Without encryption it is there: so this check finds what it looks for.
    assert (SECRET.encode() in written(embedded.folder)) is not encrypted


@pytest.mark.parametrize("encrypted", [True, False], ids=["encrypted", "plain"])
def test_no_plain_text_of_runs_in_a_group_is_left_on_disk(embedded: EmbeddedEngine, encrypted: bool) -> None:
    client = embedded.new_client(middleware=[EncryptionMiddleware.factory("a key")] if encrypted else [])

    @function_tool
    async def fetch(name: str) -> str:
        return f"{SECRET} of {name}"

    def keeper(name: str) -> Agent[Any]:
        calls: Any = [function_call("fetch", {"name": name}, call_id=name)]
        return Agent(name=name, model=ScriptedModel([calls, [assistant_message(f"it is {SECRET}")]]), tools=[fetch])

    keepers = [keeper(name) for name in ("one", "two")]

    @client.create_function(fn_id="group", trigger=inngest.TriggerEvent(event="group"))
    async def group(ctx: inngest.Context) -> Any:
        async def ask(agent: Agent[Any]) -> Any:
            return (await DurableRunner.run(agent, "go", step=ctx.step, run_config=QUIET)).final_output

        return await ctx.group.parallel(tuple(functools.partial(ask, agent) for agent in keepers))

    embedded.serve([group], client=client)
    assert embedded.run("group").status == "Completed"
    assert (SECRET.encode() in written(embedded.folder)) is not encrypted


def test_hooks_and_transforms_are_called_as_for_other_steps(engine: EngineUnderTest) -> None:
    events: list[str] = []

    class Observer(inngest.MiddlewareSync):
        def transform_input(self, ctx: Any, function: Any, steps: Any) -> None:
            events.append(f"input {steps.size}")

        def before_execution(self) -> None:
            events.append("before")

        def transform_output(self, result: inngest.TransformOutputResult) -> None:
            name = result.step.id if result.step is not None else "the function"
            events.append(f"output of {name}")

        def after_execution(self) -> None:
            events.append("after")

        def before_response(self) -> None:
            events.append("response")

    client = engine.new_client(middleware=[Observer])
    agent = Agent(name="a", model=ScriptedModel([[assistant_message("hi")]]))

    async def own() -> int:
        return 1

    @client.create_function(fn_id="watched", trigger=inngest.TriggerEvent(event="watched"))
    async def watched(ctx: inngest.Context) -> Any:
        result = await DurableRunner.run(agent, "go", step=ctx.step, run_config=QUIET)
        await ctx.step.run("own", own)
        return result.final_output

    engine.serve([watched], client=client)
    assert engine.run("watched").output == "hi"
    outputs = [event for event in events if event.startswith("output of ")]
    assert outputs == ["output of a/1 model a", "output of a/run_stats", "output of own", "output of the function"]
    assert [event for event in events if event.startswith("input")] == ["input 0", "input 3"]
    assert events.index("before") < events.index("output of a/1 model a")
    assert events.count("response") == 2
