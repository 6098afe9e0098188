"""What is over a limit of the engine ends with a clear error, and nothing runs again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import inngest
import pytest
from agents import Agent, RunConfig, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call

from inngest_agents import DurableOptions, DurableRunner, OutputTooLargeError
from inngest_agents.local.executor import Limits

from .harness import EmbeddedEngine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .harness import EngineUnderTest, RunOutcome

QUIET = RunConfig(tracing_disabled=True)

both_ways = pytest.mark.parametrize("checkpoint", [True, False], ids=["checkpointed", "step by step"])


def run(
    engine: EngineUnderTest, contents: list[str], *, checkpoint: bool, failure: Any = ...
) -> tuple[RunOutcome, list[int], list[str]]:
    """A tool call for each of `contents`, one a turn: the outcome, the calls made, and what the model saw."""
    calls: list[int] = []
    seen: list[str] = []
    options: dict[str, Any] = {} if failure is ... else {"failure_error_function": failure}

    async def read(number: int) -> str:
        calls.append(number)
        return contents[number]

    script: list[Any] = [[function_call("read", {"number": n}, call_id=f"c{n}")] for n in range(len(contents))]
    agent = Agent(
        name="reader",
        model=ScriptedModel([*script, [assistant_message("done")]]),
        tools=[function_tool(read, **options)],
    )

    @engine.client.create_function(fn_id="read", trigger=inngest.TriggerEvent(event="read"), retries=2)
    async def read_all(ctx: inngest.Context) -> Any:
        chosen = DurableOptions(checkpoint=checkpoint)
        result = await DurableRunner.run(agent, "go", step=ctx.step, options=chosen, run_config=QUIET, max_turns=30)
        seen[:] = [str(item.output) for item in result.new_items if item.type == "tool_call_output_item"]
        return result.final_output

    engine.serve([read_all])
    return engine.run("read", timeout=60), calls, seen


@both_ways
@pytest.mark.parametrize("content", ["x" * 4_200_000, "<" * 800_000, "ü" * 800_000], ids=["x", "<", "ü"])
def test_a_too_large_output_is_a_failure_that_the_model_is_told(
    engine: EngineUnderTest, checkpoint: bool, content: str
) -> None:
    outcome, calls, [told] = run(engine, [content], checkpoint=checkpoint)
    assert (outcome.status, outcome.output) == ("Completed", "done")
    assert calls == [0]
    assert "An error occurred while running the tool" in told
    assert "bytes of JSON, and Inngest takes at most 4,194,304" in told


@both_ways
def test_a_too_large_output_of_a_tool_whose_failures_count_fails_the_run_once(
    engine: EngineUnderTest, checkpoint: bool
) -> None:
    outcome, calls, _ = run(engine, ["x" * 4_200_000], checkpoint=checkpoint, failure=None)
    assert outcome.status == "Failed"
    assert "Inngest takes at most" in str(outcome.output)
    assert calls == [0]


def test_an_output_just_below_the_limit_is_taken(engine: EngineUnderTest) -> None:
    outcome, calls, [told] = run(engine, ["x" * 4_190_000], checkpoint=True)
    assert (outcome.status, len(told), calls) == ("Completed", 4_190_000, [0])


def limited(folder: Path, **limits: int) -> Iterator[EmbeddedEngine]:
    engine = EmbeddedEngine(folder, limits=Limits(**limits))
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


@both_ways
def test_a_state_over_the_limit_fails_the_run_once(tmp_path: Path, checkpoint: bool) -> None:
    for engine in limited(tmp_path, max_state=50_000):
        outcome, calls, _ = run(engine, ["x" * 20_000] * 5, checkpoint=checkpoint)
        assert outcome.status == "Failed"
        assert outcome.output["name"] == "InngestErrStateOverflowed"
        assert calls == [0, 1, 2]


def test_a_run_of_too_many_steps_fails_once(tmp_path: Path) -> None:
    for engine in limited(tmp_path, max_steps=5):
        outcome, calls, _ = run(engine, ["x"] * 9, checkpoint=False)
        assert outcome.status == "Failed"
        assert "exceeded the step limit of 5 steps" in str(outcome.output)
        assert calls == [0, 1]


def test_the_error_tells_what_to_do() -> None:
    error = OutputTooLargeError("reader/1.1 read", 5_000_000, 4_194_304)
    assert isinstance(error, inngest.NonRetriableError)
    assert "'reader/1.1 read' is 5,000,000 bytes" in str(error)
    assert "return a reference to it" in str(error)
