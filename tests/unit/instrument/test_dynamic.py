"""What the user gives as a function instead of a value runs once, and the run is the same as under plain `Runner`."""

from __future__ import annotations

import itertools
import json
from typing import Any, cast

import pytest
from agents import (
    Agent,
    ModelBehaviorError,
    RunConfig,
    Runner,
    ToolCallOutputItem,
    ToolsToFinalOutputResult,
    UserError,
    function_tool,
    handoff,
)
from agents.run_config import CallModelData, ModelInputData
from agents.run_error_handlers import RunErrorHandlerResult
from agents.testing import ScriptedModel, assistant_message, function_call
from oracle import both, shown

from inngest_agents import DurableRunner
from inngest_agents.testing import replayed


@function_tool
def add(a: int, b: int) -> int:
    return a + b


def one_tool_call() -> list[Any]:
    return [[function_call("add", {"a": 1, "b": 2}, call_id="c1")], [assistant_message("done")]]


def two_turns_of_tools() -> list[Any]:
    return [
        [function_call("add", {"a": 1, "b": 2}, call_id="c1")],
        [function_call("add", {"a": 3, "b": 4}, call_id="c2")],
        [assistant_message("done")],
    ]


async def test_dynamic_instructions_run_once_a_turn_and_not_once_per_replay() -> None:
    calls: list[str] = []

    async def instructions(context: Any, agent: Any) -> str:
        calls.append(agent.name)
        return f"turn {len(context.usage.request_usage_entries)} of {agent.name}"

    result = await both(
        lambda model: Agent(name="a", model=model, tools=[add], instructions=instructions), one_tool_call
    )
    assert len(calls) == 2 * 2
    assert result.steps == ["1 prepare a", "1 model a", "1.1 add", "2 prepare a", "2 model a"]


async def test_static_instructions_and_flags_cost_no_step() -> None:
    result = await both(
        lambda model: Agent(name="a", model=model, tools=[add], instructions="be kind", prompt={"id": "p1"}),
        one_tool_call,
    )
    assert result.steps == ["1 model a", "1.1 add", "2 model a"]


async def test_random_instructions_do_not_make_a_run_diverge() -> None:
    numbers = itertools.count()
    model = ScriptedModel(one_tool_call())
    agent: Agent[Any] = Agent(
        name="a", model=model, tools=[add], instructions=lambda context, agent: f"number {next(numbers)}"
    )
    await replayed(lambda step: DurableRunner.run(agent, "hi", step=step))
    assert [call.system_instructions for call in model.calls] == ["number 0", "number 1"]


async def test_instructions_that_stay_the_same_are_stored_once() -> None:
    text = "x" * 10_000
    result = await both(
        lambda model: Agent(name="a", model=model, tools=[add], instructions=lambda context, agent: text),
        two_turns_of_tools,
    )
    assert result.labels("prepare") == ["1 prepare a", "2 prepare a", "3 prepare a"]
    assert json.dumps(result.memos).count(text) == 1


async def test_instructions_of_an_agent_that_comes_back_are_found_again() -> None:
    def build(model: ScriptedModel) -> Agent[Any]:
        first: Agent[Any] = Agent(name="first", model=model, instructions=lambda context, agent: "same")
        second: Agent[Any] = Agent(name="second", model=model, instructions=lambda context, agent: "same")
        first.handoffs = [second]
        second.handoffs = [first]
        return first

    def script() -> list[Any]:
        return [
            [function_call("transfer_to_second", {}, call_id="h1")],
            [function_call("transfer_to_first", {}, call_id="h2")],
            [assistant_message("back")],
        ]

    result = await both(build, script)
    assert result.durable.last_agent.name == "first"


async def test_wrong_instructions_raise_what_the_sdk_raises() -> None:
    agent: Agent[Any] = Agent(name="a", model=ScriptedModel([]), instructions=lambda context: "x")  # type: ignore[arg-type, misc]
    with pytest.raises(TypeError, match="must accept exactly 2 arguments") as plain:
        await Runner.run(agent, "hi")
    with pytest.raises(TypeError) as durable:
        await replayed(lambda step: DurableRunner.run(agent, "hi", step=step))
    assert str(durable.value) == str(plain.value)


async def test_instructions_that_fail_are_tried_again_and_then_raise_their_own_error() -> None:
    tries: list[int] = []

    def instructions(context: Any, agent: Any) -> str:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError("the prompt store is away")
        return "be kind"

    def build() -> Agent[Any]:
        return Agent(name="a", model=ScriptedModel([[assistant_message("done")]]), instructions=instructions)

    agent = build()
    with pytest.raises(ConnectionError, match="the prompt store is away"):
        await replayed(lambda step: DurableRunner.run(agent, "hi", step=step), max_attempts=2)
    assert len(tries) == 2
    run = await replayed(lambda step: DurableRunner.run(agent, "hi", step=step), max_attempts=2)
    assert run.result.final_output == "done"


async def test_a_dynamic_prompt_is_asked_in_the_step_of_the_instructions() -> None:
    numbers = itertools.count()

    async def prompt(data: Any) -> Any:
        return {"id": f"prompt {next(numbers)}", "variables": {"name": data.agent.name}}

    model = ScriptedModel(one_tool_call())
    agent: Agent[Any] = Agent(
        name="a", model=model, tools=[add], prompt=prompt, instructions=lambda context, agent: "x"
    )
    run = await replayed(lambda step: DurableRunner.run(agent, "hi", step=step))
    assert [call.prompt and call.prompt["id"] for call in model.calls] == ["prompt 0", "prompt 1"]
    assert [step for step in run.steps if "prepare" in step] == ["a/1 prepare a", "a/2 prepare a"]


async def test_is_enabled_is_asked_once_a_turn_for_all_tools_and_handoffs_together() -> None:
    asked: list[str] = []

    def build(model: ScriptedModel) -> Agent[Any]:
        def flag(name: str, value: bool) -> Any:
            async def is_enabled(context: Any, agent: Any) -> bool:
                asked.append(name)
                return value

            return is_enabled

        other: Agent[Any] = Agent(name="other", model=model)
        hidden: Agent[Any] = Agent(name="hidden", model=model)

        @function_tool(is_enabled=flag("on", True))
        def on(a: int) -> int:
            return a

        @function_tool(is_enabled=flag("off", False))
        def off(a: int) -> int:
            return a

        return Agent(
            name="a",
            model=model,
            tools=[on, off, add],
            handoffs=[
                handoff(other, is_enabled=flag("other", True)),
                handoff(hidden, is_enabled=flag("hidden", False)),
            ],
        )

    def script() -> list[Any]:
        return [
            [function_call("on", {"a": 1}, call_id="c1"), function_call("add", {"a": 1, "b": 1}, call_id="c2")],
            [function_call("transfer_to_other", {}, call_id="h")],
            [assistant_message("done")],
        ]

    result = await both(build, script)
    assert [tool.name for tool in result.durable_model.calls[0].tools] == ["on", "add"]
    assert result.labels("prepare") == ["1 prepare a", "2 prepare a"]
    # The plain run asks about tools twice a turn, the durable one once.
    assert asked.count("off") == 2 * 2 + 2
    assert asked.count("hidden") == 2 + 2


async def test_a_flag_that_flips_within_a_turn_is_the_same_for_the_whole_turn() -> None:
    flips = itertools.cycle([True, False])

    def build(model: ScriptedModel) -> Agent[Any]:
        @function_tool(is_enabled=lambda context, agent: next(flips))
        def moody() -> str:
            return "in a good mood"

        return Agent(name="a", model=model, tools=[moody])

    def script() -> list[Any]:
        return [[function_call("moody", {}, call_id="c1")], [assistant_message("done")]]

    with pytest.raises(ModelBehaviorError, match="currently disabled"):
        await Runner.run(build(ScriptedModel(script())), "hi")
    flips = itertools.cycle([True, False])
    model = ScriptedModel(script())
    agent = build(model)
    run = await replayed(lambda step: DurableRunner.run(agent, "hi", step=step))
    assert run.result.final_output == "done"
    assert [[tool.name for tool in call.tools] for call in model.calls] == [["moody"], []]


async def test_the_tools_that_the_model_gets_are_the_users_own_objects() -> None:
    @function_tool(is_enabled=lambda context, agent: True)
    def mine() -> str:
        return "mine"

    model = ScriptedModel([[function_call("mine", {}, call_id="c1")], [assistant_message("done")]])
    agent: Agent[Any] = Agent(name="a", model=model, tools=[mine])
    await replayed(lambda step: DurableRunner.run(agent, "hi", step=step))
    assert all(call.tools[0] is mine for call in model.calls)


async def test_the_input_filter_runs_once_a_turn_and_stores_only_what_it_changed() -> None:
    calls: list[int] = []
    long = "the long message " * 500

    def shorten(data: CallModelData[Any]) -> ModelInputData:
        calls.append(len(data.model_data.input))
        extra: Any = {"role": "user", "content": f"note {len(data.model_data.input)}"}
        return ModelInputData(
            input=[*data.model_data.input[-3:], extra], instructions=f"{data.model_data.instructions}!"
        )

    result = await both(
        lambda model: Agent(name="a", model=model, tools=[add], instructions="be kind"),
        two_turns_of_tools,
        [{"role": "user", "content": long}, {"role": "user", "content": "and?"}],
        run_config=RunConfig(call_model_input_filter=shorten),
    )
    assert calls == [2, 4, 6] * 2
    assert result.labels("filter") == ["1 input filter a", "2 input filter a", "3 input filter a"]
    filter_memos = [memo for memo in result.memos.values() if "instructions" in str(memo)]
    assert all(long not in json.dumps(memo) for memo in filter_memos)


async def test_a_filter_that_changes_items_in_place_sends_the_changed_ones() -> None:
    async def mark(data: CallModelData[Any]) -> ModelInputData:
        items: list[Any] = list(data.model_data.input)
        for item in items:
            if item.get("role") == "user":
                item["content"] = "redacted"
        return data.model_data

    await both(
        lambda model: Agent(name="a", model=model, tools=[add]),
        one_tool_call,
        [{"role": "user", "content": "my secret"}],
        run_config=RunConfig(call_model_input_filter=mark),
    )


async def test_an_item_that_a_filter_changes_and_leaves_out_stays_changed_for_the_next_turn() -> None:
    def blacken(data: CallModelData[Any]) -> ModelInputData:
        items: list[Any] = list(data.model_data.input)
        items[0]["content"] += "!"
        kept: Any = items[1:] if len(items) > 2 else items
        return ModelInputData(input=kept, instructions=None)

    await both(
        lambda model: Agent(name="a", model=model, tools=[add]),
        two_turns_of_tools,
        [{"role": "user", "content": "secret"}, {"role": "user", "content": "and?"}],
        run_config=RunConfig(call_model_input_filter=blacken),
    )


async def test_a_filter_that_changes_pending_input_in_place_keeps_it_known_to_the_sdk() -> None:
    async def asked(run: Any, **kwargs: Any) -> Any:
        model = ScriptedModel([[function_call("add", {"a": 1, "b": 2}, call_id="c1")], [assistant_message("done")]])
        agent: Agent[Any] = Agent(name="a", model=model, tools=[add])

        def rewrite(data: CallModelData[Any]) -> ModelInputData:
            for item in data.model_data.input:
                if item.get("content") == "late":
                    cast("Any", item)["content"] = "filtered"
            return data.model_data

        first = Runner.run_streamed(agent, "hi", auto_previous_response_id=True)
        async for _ in first.stream_events():
            first.cancel(mode="after_turn")
        state = first.to_state()
        state.add_input("late")
        config = RunConfig(call_model_input_filter=rewrite)
        result = await run(agent, state, run_config=config, **kwargs)
        return shown(result), model.calls[-1].input, state.pending_input

    async def durably(agent: Any, state: Any, **kwargs: Any) -> Any:
        return (await replayed(lambda step: DurableRunner.run(agent, state, step=step, **kwargs))).result

    plain = await asked(Runner.run)
    assert "filtered" in str(plain[1])
    assert await asked(durably) == plain


async def test_a_filter_that_returns_something_else_raises_what_the_sdk_raises() -> None:
    agent: Agent[Any] = Agent(name="a", model=ScriptedModel([]))
    config = RunConfig(call_model_input_filter=lambda data: "nonsense")  # type: ignore[arg-type, return-value]
    with pytest.raises(UserError, match="must return a ModelInputData"):
        await replayed(lambda step: DurableRunner.run(agent, "hi", step=step, run_config=config), max_attempts=5)


async def test_a_tool_use_behavior_function_decides_once() -> None:
    calls: list[int] = []

    async def behavior(context: Any, results: list[Any]) -> ToolsToFinalOutputResult:
        calls.append(len(results))
        return ToolsToFinalOutputResult(is_final_output=len(calls) % 2 == 0, final_output={"sum": results[0].output})

    result = await both(
        lambda model: Agent(name="a", model=model, tools=[add], tool_use_behavior=behavior), two_turns_of_tools
    )
    assert result.durable.final_output == "{'sum': 7}"
    assert calls == [1, 1] * 2
    assert result.labels("behavior") == ["1 tool use behavior", "2 tool use behavior"]


async def test_a_behavior_that_gives_a_tools_output_as_the_result_stores_it_once() -> None:
    big = "z" * 5000

    @function_tool
    def fetch() -> str:
        return big

    def behavior(context: Any, results: list[Any]) -> ToolsToFinalOutputResult:
        return ToolsToFinalOutputResult(is_final_output=True, final_output=results[0].output)

    result = await both(
        lambda model: Agent(name="a", model=model, tools=[fetch], tool_use_behavior=behavior),
        lambda: [[function_call("fetch", {}, call_id="c1")]],
    )
    assert result.durable.final_output == big
    assert json.dumps(result.memos).count(big) == 1


async def test_error_handlers_run_once() -> None:
    calls: list[str] = []

    async def on_max_turns(data: Any) -> RunErrorHandlerResult:
        calls.append(type(data.error).__name__)
        return RunErrorHandlerResult(final_output=f"gave up, try {len(calls)}", include_in_history=False)

    agent: Agent[Any] = Agent(name="a", model=ScriptedModel(two_turns_of_tools()), tools=[add])
    handlers: Any = {"max_turns": on_max_turns}
    run = await replayed(lambda step: DurableRunner.run(agent, "hi", step=step, max_turns=1, error_handlers=handlers))
    assert run.result.final_output == "gave up, try 1"
    assert calls == ["MaxTurnsExceeded"]
    assert run.steps[-1] == "a/1 error handler max_turns"


async def test_a_custom_data_extractor_runs_once() -> None:
    calls: list[str] = []

    def build(model: ScriptedModel) -> Agent[Any]:
        async def extract(data: Any) -> dict[str, Any]:
            calls.append(data.output)
            return {"length": len(str(data.output))}

        @function_tool(custom_data_extractor=extract)
        def speak() -> str:
            return "hello"

        return Agent(name="a", model=model, tools=[speak])

    result = await both(build, lambda: [[function_call("speak", {}, call_id="c1")], [assistant_message("done")]])
    assert calls == ["hello"] * 2
    assert result.labels("custom data") == ["1.1 speak custom data"]


async def test_the_builder_and_the_extractor_of_an_agent_tool_run_once_a_call() -> None:
    calls: list[str] = []

    def build(model: ScriptedModel) -> Agent[Any]:
        inner: Agent[Any] = Agent(
            name="inner", model=ScriptedModel([[assistant_message(f"answer {n}")] for n in (1, 2)])
        )

        async def extractor(result: Any) -> str:
            calls.append("extractor")
            return f"<{result.final_output}>"

        def builder(options: Any) -> str:
            calls.append("builder")
            return f"please: {options['params']['input']}"

        tool = inner.as_tool("ask", "asks", custom_output_extractor=extractor, input_builder=builder)
        return Agent(name="outer", model=model, tools=[tool])

    def script() -> list[Any]:
        return [
            [function_call("ask", {"input": "one"}, call_id="c1")],
            [function_call("ask", {"input": "two"}, call_id="c2")],
            [assistant_message("done")],
        ]

    result = await both(build, script)
    assert calls == ["builder", "extractor"] * 2 * 2
    assert result.steps == [
        "1 model outer",
        "1.1 ask input",
        "1.1 ask/1 model inner",
        "1.1 ask output",
        "2 model outer",
        "2.1 ask input",
        "2.1 ask/1 model inner",
        "2.1 ask output",
        "3 model outer",
    ]


async def test_the_failure_text_of_an_agent_tool_is_made_once() -> None:
    calls: list[str] = []

    def build(model: ScriptedModel) -> Agent[Any]:
        inner: Agent[Any] = Agent(name="inner", model=ScriptedModel(two_turns_of_tools()), tools=[add])

        def failed(context: Any, error: Exception) -> str:
            calls.append(type(error).__name__)
            return "it did not work"

        tool = inner.as_tool("ask", "asks", failure_error_function=failed, max_turns=1)
        return Agent(name="outer", model=model, tools=[tool])

    result = await both(
        build, lambda: [[function_call("ask", {"input": "one"}, call_id="c1")], [assistant_message("done")]]
    )
    assert calls == ["MaxTurnsExceeded"] * 2
    assert "1.1 ask error text" in result.steps


def failing_agent_tool(**kwargs: Any) -> Agent[Any]:
    inner: Agent[Any] = Agent(name="inner", model=ScriptedModel(two_turns_of_tools()), tools=[add])
    model = ScriptedModel([[function_call("ask", {"input": "one"}, call_id="c1")], [assistant_message("done")]])
    return Agent(name="outer", model=model, tools=[inner.as_tool("ask", "asks", max_turns=1, **kwargs)])


async def test_the_default_failure_text_of_an_agent_tool_takes_no_step() -> None:
    def build(model: ScriptedModel) -> Agent[Any]:
        agent = failing_agent_tool()
        agent.model = model
        return agent

    result = await both(
        build, lambda: [[function_call("ask", {"input": "one"}, call_id="c1")], [assistant_message("done")]]
    )
    assert not [step for step in result.steps if "error text" in step]


async def test_one_that_an_earlier_version_has_stored_is_taken_from_there() -> None:
    before = failing_agent_tool(failure_error_function=lambda context, error: "as it was stored")
    begun = await replayed(lambda step: DurableRunner.run(before, "hi", step=step))
    assert "outer/1.1 ask error text" in begun.steps
    agent = failing_agent_tool()
    run = await replayed(lambda step: DurableRunner.run(agent, "hi", step=step), memos=begun.memos)
    outputs = [item.output for item in run.result.new_items if isinstance(item, ToolCallOutputItem)]
    assert outputs == ["as it was stored"]


async def test_a_tool_without_a_failure_function_takes_no_step_for_one() -> None:
    @function_tool(failure_error_function=None)
    def fail() -> str:
        raise ValueError("no more paper")

    def inner(model: ScriptedModel) -> Agent[Any]:
        return Agent(name="inner", model=model, tools=[fail])

    def build(model: ScriptedModel) -> Agent[Any]:
        asked = ScriptedModel([[function_call("fail", {}, call_id="c2")]])
        return Agent(name="outer", model=model, tools=[inner(asked).as_tool("ask", "asks")])

    result = await both(
        build, lambda: [[function_call("ask", {"input": "one"}, call_id="c1")], [assistant_message("done")]]
    )
    assert "1.1 ask/1.1 fail" in result.steps
    assert "1.1 ask/1.1 fail error text" not in result.steps


async def test_formatters_of_unknown_tools_run_once_and_may_fail() -> None:
    calls: list[str] = []

    def formatter(args: Any) -> str | None:
        calls.append(args.kind)
        if args.tool_name == "bad":
            raise ValueError("no text for this one")
        return f"there is no {args.tool_name}"

    config = RunConfig(tool_error_formatter=formatter, tool_not_found_behavior="return_error_to_model")
    result = await both(
        lambda model: Agent(name="a", model=model, tools=[add]),
        lambda: [
            [function_call("missing", {}, call_id="c1"), function_call("bad", {}, call_id="c2")],
            [assistant_message("done")],
        ],
        max_attempts=4,
        run_config=config,
    )
    assert calls == ["tool_not_found"] * 4
    assert result.labels("not found") == ["1.1 missing not found text", "1.2 bad not found text"]
