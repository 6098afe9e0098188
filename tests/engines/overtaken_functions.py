"""Functions in which a guardrail trips beside the model call of its run, so that one planned step may not be needed.

Each takes a `Call`, and what it returns and how often its parts ran is the same in whatever order its steps come.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any

from agents import (
    Agent,
    GuardrailFunctionOutput,
    InputGuardrail,
    InputGuardrailTripwireTriggered,
    ModelSettings,
    RunConfig,
    function_tool,
)
from agents.testing import ScriptedModel, assistant_message, function_call

from inngest_agents import DurableOptions, DurableRunner

QUIET = RunConfig(tracing_disabled=True)


@dataclasses.dataclass
class Call:
    """One call of a function: what it gets from the engine, and what counts what it does."""

    step: Any
    group: Any
    counts: collections.Counter[str]
    agents: dict[str, Agent[Any]]
    """The agents of the run so far: their scripted models go on where the last request has stopped."""
    checkpoint: bool = True
    streamed: bool = False

    async def run(self, agent: Agent[Any], name: str) -> str:
        """Run an agent durably."""
        options = DurableOptions(checkpoint=self.checkpoint, name=name)
        if self.streamed:
            streamed = DurableRunner.run_streamed(agent, "go", step=self.step, run_config=QUIET, options=options)
            return str((await streamed.wait()).final_output)
        result = await DurableRunner.run(agent, "go", step=self.step, run_config=QUIET, options=options)
        return str(result.final_output)

    async def working(self, name: str) -> str:
        """Run an agent that calls two tools at once and is done."""
        return await self.run(self._agent(name, lambda: self._worker(name)), name)

    async def tripping(self, name: str) -> str:
        """Run an agent whose guardrail trips, and catch that."""
        try:
            return await self.guarded(name)
        except InputGuardrailTripwireTriggered:
            return f"{name} tripped"

    async def guarded(self, name: str) -> str:
        """Run an agent whose guardrail trips."""
        return await self.run(self._agent(name, lambda: self._guarded(name)), name)

    async def own(self, name: str) -> str:
        """A step of the user's own."""

        async def work() -> str:
            self.counts[name] += 1
            return name

        value: str = await self.step.run(name, work)
        return value

    def _agent(self, name: str, make: Callable[[], Agent[Any]]) -> Agent[Any]:
        if name not in self.agents:
            self.agents[name] = make()
        return self.agents[name]

    def _worker(self, name: str) -> Agent[Any]:
        @function_tool
        async def work(part: str) -> str:
            self.counts[f"{name} {part}"] += 1
            await asyncio.sleep(0.01)
            return part

        calls = [function_call("work", {"part": part}, call_id=f"{name}{part}") for part in "xy"]
        return Agent(name=name, model=self._model(name, [calls, [assistant_message(f"{name} done")]]), tools=[work])

    def _guarded(self, name: str) -> Agent[Any]:
        async def strict(context: Any, agent: Any, given: Any) -> GuardrailFunctionOutput:
            self.counts[f"{name} guardrail"] += 1
            return GuardrailFunctionOutput(output_info="no", tripwire_triggered=True)

        guardrail = InputGuardrail(strict, name="strict", run_in_parallel=True)
        model = self._model(name, [[assistant_message("never seen")] for _ in range(5)])
        return Agent(name=name, model=model, input_guardrails=[guardrail])

    def nesting(self, name: str) -> Agent[Any]:
        """An agent that calls, side by side, an agent whose guardrail trips and one that works."""

        def make() -> Agent[Any]:
            inner = self._guarded("inner").as_tool("ask_inner", "Ask.")
            worker = self._worker("helper").as_tool("ask_helper", "Ask.")
            calls = [function_call(f"ask_{n}", {"input": "go"}, call_id=n) for n in ("inner", "helper")]
            model = self._model(name, [calls, [assistant_message(f"{name} done")]])
            return Agent(name=name, model=model, tools=[inner, worker], model_settings=ModelSettings())

        return self._agent(name, make)

    def _model(self, name: str, turns: list[Any]) -> Any:
        counts = self.counts

        class Model(ScriptedModel):
            async def get_response(self, *args: Any, **kwargs: Any) -> Any:
                counts[f"{name} model"] += 1
                await asyncio.sleep(0.02)
                return await super().get_response(*args, **kwargs)

            async def stream_response(self, *args: Any, **kwargs: Any) -> Any:
                counts[f"{name} model"] += 1
                async for event in super().stream_response(*args, **kwargs):
                    yield event

        return Model(turns)


@dataclasses.dataclass(frozen=True)
class Function:
    """A function, what it returns, and how often its parts run."""

    body: Callable[[Call], Awaitable[Any]]
    output: Any
    counts: dict[str, int]
    """Without the models of agents that trip: each of them runs once or not at all."""


FUNCTIONS: dict[str, Function] = {}


def _function(output: Any, **counts: int) -> Callable[[Callable[[Call], Awaitable[Any]]], None]:
    def add(body: Callable[[Call], Awaitable[Any]]) -> None:
        known = {name.replace("_", " "): count for name, count in counts.items()}
        FUNCTIONS[body.__name__] = Function(body, output, known)

    return add


def _works(name: str) -> dict[str, int]:
    return {f"{name}_model": 2, f"{name}_x": 1, f"{name}_y": 1}


@_function(["before", "g tripped", "a", "b"], before=1, g_guardrail=1, a=1, b=1)
async def own_steps_follow(call: Call) -> Any:
    return [await call.own("before"), await call.tripping("g"), await call.own("a"), await call.own("b")]


@_function(["g tripped", "w done", "h tripped", "a"], g_guardrail=1, h_guardrail=1, a=1, **_works("w"))
async def other_runs_follow(call: Call) -> Any:
    return [await call.tripping("g"), await call.working("w"), await call.tripping("h"), await call.own("a")]


@_function(["g tripped", "a", "b", "c"], g_guardrail=1, a=1, b=1, c=1)
async def own_parallel_steps_follow(call: Call) -> Any:
    tripped = await call.tripping("g")
    both = await call.group.parallel((lambda: call.own("a"), lambda: call.own("b")))
    return [tripped, *both, await call.own("c")]


@_function(["a", "g tripped", "w done", "b", "after"], g_guardrail=1, a=1, b=1, after=1, **_works("w"))
async def a_group_of_runs_and_own_steps(call: Call) -> Any:
    parts = (
        lambda: call.own("a"),
        lambda: call.tripping("g"),
        lambda: call.working("w"),
        lambda: call.own("b"),
    )
    return [*await call.group.parallel(parts), await call.own("after")]


@_function([["g tripped", "a"], ["h tripped", "w done"], "b"], g_guardrail=1, h_guardrail=1, a=1, b=1, **_works("w"))
async def a_group_whose_parts_go_on(call: Call) -> Any:
    async def then_own() -> Any:
        return [await call.tripping("g"), await call.own("a")]

    async def then_run() -> Any:
        return [await call.tripping("h"), await call.working("w")]

    return list(await call.group.parallel((then_own, then_run, lambda: call.own("b"))))


@_function(["w done", "a", "g tripped", "v done"], g_guardrail=1, a=1, **_works("w"), **_works("v"))
async def a_group_after_a_run_and_before_one(call: Call) -> Any:
    first = await call.working("w")
    both = await call.group.parallel((lambda: call.own("a"), lambda: call.tripping("g")))
    return [first, *both, await call.working("v")]


@_function(["g tripped", "w done", "h tripped", "a"], g_guardrail=1, h_guardrail=1, a=1, **_works("w"))
async def runs_gathered(call: Call) -> Any:
    three = await asyncio.gather(call.tripping("g"), call.working("w"), call.tripping("h"))
    return [*three, await call.own("a")]


@_function(
    [["g tripped", "w done"], ["v done", "h tripped"]], g_guardrail=1, h_guardrail=1, **_works("w"), **_works("v")
)
async def chains_of_runs_gathered(call: Call) -> Any:
    async def chain(*parts: Callable[[], Awaitable[str]]) -> list[str]:
        return [await part() for part in parts]

    first = chain(lambda: call.tripping("g"), lambda: call.working("w"))
    second = chain(lambda: call.working("v"), lambda: call.tripping("h"))
    return list(await asyncio.gather(first, second))


@_function(["o done", "a"], o_model=2, inner_guardrail=1, a=1, **_works("helper"))
async def a_nested_agent_trips(call: Call) -> Any:
    return [await call.run(call.nesting("o"), "o"), await call.own("a")]
