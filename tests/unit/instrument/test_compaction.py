"""Compaction of a session: only of a history that the run itself has read and added to."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from agents import (
    Agent,
    MessageOutputItem,
    OpenAIResponsesCompactionSession,
    Runner,
    RunState,
    SQLiteSession,
    function_tool,
    handoff,
)
from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call

from inngest_agents import DurableOptions, DurableRunner
from inngest_agents.testing import replayed


class Summarizer:
    """Stands for the client of a compaction session; the summary is one item."""

    def __init__(self) -> None:
        self.responses = self
        self.calls = 0

    async def compact(self, **_: Any) -> Any:
        self.calls += 1
        return SimpleNamespace(output=[{"type": "compaction", "id": "x", "encrypted_content": "s"}], usage=None)


@pytest.mark.parametrize("durable", [False, True])
async def test_a_history_that_the_run_did_not_read_is_not_compacted(tmp_path: Path, durable: bool) -> None:
    @function_tool(needs_approval=True)
    def lookup() -> str:
        return "found"

    client = Summarizer()
    session = OpenAIResponsesCompactionSession(
        "s",
        SQLiteSession("s", tmp_path / "s.db"),
        client=cast("Any", client),
        should_trigger_compaction=lambda _: True,
        compaction_mode="input",
    )
    script: list[Any] = [[function_call("lookup", {}, call_id="c1")], *([assistant_message(text)] for text in "ab")]
    agent = Agent(name="a", model=ScriptedModel(script), tools=[lookup])

    async def run(given: Any) -> Any:
        if not durable:
            return await Runner.run(agent, given, session=session)
        return (await replayed(lambda step: DurableRunner.run(agent, given, session=session, step=step))).result

    state = (await run("hi")).to_state()
    state.approve(state.get_interruptions()[0])
    await run(await RunState.from_json(agent, state.to_json()))
    assert client.calls == 0
    assert [item.get("type") for item in await session.get_items()][1:3] == ["function_call", "function_call_output"]
    await run("again")
    assert client.calls == 1


@pytest.mark.parametrize("durable", [False, True])
async def test_a_resumed_run_decides_on_the_compaction_of_its_old_turn_before_it_asks_the_model(
    tmp_path: Path, durable: bool
) -> None:
    told: list[str] = []

    @function_tool(needs_approval=True)
    def lookup() -> str:
        return "found"

    def decide(context: dict[str, Any]) -> bool:
        told.append(f"compact {context['response_id']}?")
        return False

    def answer(_: Any) -> ModelStep:
        told.append("model")
        return ModelStep(output=[assistant_message("done")], response_id="r2")

    session = OpenAIResponsesCompactionSession(
        "s", SQLiteSession("s", tmp_path / "s.db"), client=cast("Any", Summarizer()), should_trigger_compaction=decide
    )
    call = ModelStep(output=[function_call("lookup", {}, call_id="c1")], response_id="r1")
    agent = Agent(name="a", model=ScriptedModel([call, ModelStep.respond(answer)]), tools=[lookup])

    async def run(given: Any) -> Any:
        if not durable:
            return await Runner.run(agent, given, session=session)
        return (await replayed(lambda step: DurableRunner.run(agent, given, session=session, step=step))).result

    state = (await run("hi")).to_state()
    state.approve(state.get_interruptions()[0])
    told.clear()
    await run(await RunState.from_json(agent, state.to_json()))
    assert told == ["compact r1?", "model"]


@pytest.mark.parametrize("runner", ["plain", "durable", "another process"])
async def test_a_turn_with_tools_is_judged_by_the_history_of_then(tmp_path: Path, runner: str) -> None:
    @function_tool
    def lookup() -> str:
        return "found"

    client = Summarizer()
    judged: list[tuple[str, int]] = []

    def should_compact(context: Any) -> bool:
        kinds = [item.get("type") for item in context["compaction_candidate_items"]]
        judged.append((context["response_id"], len(kinds)))
        return kinds == ["function_call", "function_call_output"]

    def session() -> Any:
        return OpenAIResponsesCompactionSession(
            "s",
            SQLiteSession("s", tmp_path / "s.db"),
            client=cast("Any", client),
            should_trigger_compaction=should_compact,
            compaction_mode="input",
        )

    steps = [
        ModelStep(output=[function_call("lookup", {}, call_id="c1")], response_id="r1"),
        ModelStep(output=[assistant_message("done")], response_id="r2"),
    ]
    agent = Agent(name="a", model=ScriptedModel(steps), tools=[lookup])
    only = session()
    if runner == "plain":
        await Runner.run(agent, "hi", session=only)
    else:
        run = await replayed(
            lambda step: DurableRunner.run(agent, "hi", session=only if runner == "durable" else session(), step=step)
        )
        assert [step.partition("/")[2] for step in run.steps if "session" in step] == [
            "session read",
            "session write",
            "session compaction",
        ]
    assert judged == [("r1", 2)]
    assert client.calls == 1
    assert [item.get("type") for item in await session().get_items()] == ["compaction"]


async def test_a_judgement_that_fails_fails_the_compaction_and_not_the_write(tmp_path: Path) -> None:
    @function_tool
    def lookup() -> str:
        return "found"

    def explode(_: Any) -> bool:
        raise RuntimeError("no idea")

    session = OpenAIResponsesCompactionSession(
        "s",
        SQLiteSession("s", tmp_path / "s.db"),
        client=cast("Any", Summarizer()),
        should_trigger_compaction=explode,
        compaction_mode="input",
    )
    steps = [
        ModelStep(output=[function_call("lookup", {}, call_id="c1")], response_id="r1"),
        ModelStep(output=[assistant_message("done")], response_id="r2"),
    ]
    agent = Agent(name="a", model=ScriptedModel(steps), tools=[lookup])
    with pytest.raises(RuntimeError, match="no idea"):
        await replayed(lambda step: DurableRunner.run(agent, "hi", session=session, step=step), max_attempts=2)
    assert len(await session.get_items()) == 4


@pytest.mark.parametrize("runner", ["plain", "at the end", "turn by turn"])
async def test_the_turn_of_a_handoff_is_compacted_before_the_next_one_where_each_turn_is_written(
    tmp_path: Path, runner: str
) -> None:
    told: list[str] = []

    class Telling(Summarizer):
        async def compact(self, **given: Any) -> Any:
            told.append("compact")
            return await super().compact(**given)

    def answer(_: Any) -> ModelStep:
        told.append("model")
        return ModelStep(output=[assistant_message("done")], response_id="r2")

    session = OpenAIResponsesCompactionSession(
        "s",
        SQLiteSession("s", tmp_path / "s.db"),
        client=cast("Any", Telling()),
        should_trigger_compaction=lambda context: context["response_id"] == "r1",
        compaction_mode="input",
    )
    clerk = Agent(name="clerk", model=ScriptedModel([ModelStep.respond(answer)]))
    said = [assistant_message("the clerk knows"), function_call("transfer_to_clerk", {}, call_id="c1")]
    hand_over = ModelStep(output=said, response_id="r1")

    def messages(data: Any) -> Any:  # with outputs of tools in it, the turn would not be compacted
        return data.clone(new_items=tuple(item for item in data.new_items if isinstance(item, MessageOutputItem)))

    desk = Agent(
        name="desk",
        model=ScriptedModel([hand_over]),
        handoffs=[handoff(clerk, input_filter=messages)],
    )
    if runner == "plain":
        await Runner.run(desk, "hi", session=session)
    else:
        options = DurableOptions(session_writes="end" if runner == "at the end" else "turn")
        await replayed(lambda step: DurableRunner.run(desk, "hi", session=session, step=step, options=options))
    assert told == (["model", "compact"] if runner == "at the end" else ["compact", "model"])
