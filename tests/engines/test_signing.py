"""Signing keys, as in production: both sides prove themselves, also to the checkpoint API, and keys are rotated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import inngest
import pytest
from agents import Agent, RunConfig, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call

from inngest_agents import DurableRunner

from .conftest import NO_SERVER
from .harness import EmbeddedEngine, EngineUnderTest, ServerEngine, server_binary

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = "signkey-test-" + "0a" * 16
NEW_KEY = "signkey-test-" + "0b" * 16


@pytest.fixture(
    params=[
        "embedded",
        pytest.param("server", marks=pytest.mark.skipif(server_binary() is None, reason=NO_SERVER)),
    ]
)
def signed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EngineUnderTest]:
    """An engine that signs with `KEY`, and knows no other."""
    engine: EngineUnderTest
    if request.param == "embedded":
        engine = EmbeddedEngine(tmp_path, signing_key=KEY)
    else:
        engine = ServerEngine(tmp_path, cast("str", server_binary()), signing_key=KEY)
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


@pytest.mark.parametrize("fallback", [None, KEY], ids=["its key", "its key as the fallback"])
def test_a_run_is_saved_in_one_signed_request(
    signed: EngineUnderTest, fallback: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = KEY if fallback is None else NEW_KEY  # an app that was given the new key before the engine
    if fallback is not None:
        monkeypatch.setenv("INNGEST_SIGNING_KEY_FALLBACK", fallback)
    client = signed.new_client(is_production=True, signing_key=key, event_key="7e57")
    requests: list[int] = []
    executed: list[str] = []

    @function_tool
    async def add(a: int, b: int) -> int:
        executed.append(f"{a} + {b}")
        return a + b

    agent = Agent(
        name="adder",
        model=ScriptedModel([[function_call("add", {"a": 1, "b": 2}, call_id="c1")], [assistant_message("3")]]),
        tools=[add],
    )

    @client.create_function(fn_id="add", trigger=inngest.TriggerEvent(event="add"))
    async def function(ctx: inngest.Context) -> Any:
        requests.append(ctx.attempt)
        quiet = RunConfig(tracing_disabled=True)
        return (await DurableRunner.run(agent, "1 + 2", step=ctx.step, run_config=quiet)).final_output

    signed.serve([function], client=client)
    outcome = signed.run("add")
    assert (outcome.status, outcome.output) == ("Completed", "3")
    assert (requests, executed) == ([0], ["1 + 2"])
