"""A replay that asks for something else than is remembered is noticed."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from agents import Agent, Model, ModelProvider, RunConfig, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call

from inngest_agents import DivergenceError, DurableOptions, DurableRunner, divergence
from inngest_agents.testing import replayed


@function_tool
async def look(what: str) -> str:
    return f"saw {what}"


def looker(name: str = "looker", what: str = "sky", instructions: str | None = None) -> Agent[Any]:
    model: Model = ScriptedModel([[function_call("look", {"what": what}, call_id="c1")], [assistant_message("blue")]])
    return Agent(name=name, model=model, tools=[look], instructions=instructions)


async def first_steps(count: int) -> dict[str, Any]:
    """The memos of the first steps of a run."""
    agent = looker()
    run = await replayed(lambda step: DurableRunner.run(agent, "look up", step=step))
    return dict(list(run.memos.items())[:count])


async def go_on(agent: Agent[Any], text: str, memos: dict[str, Any], **options: Any) -> Any:
    chosen = DurableOptions(**options)
    return await replayed(lambda step: DurableRunner.run(agent, text, step=step, options=chosen), memos=memos)


async def test_the_same_code_goes_on_with_what_is_remembered() -> None:
    agent = looker()
    agent.model = ScriptedModel([[assistant_message("blue")]])
    run = await go_on(agent, "look up", await first_steps(2))

    assert run.result.final_output == "blue"


@pytest.mark.parametrize(
    ("text", "instructions"), [("look down", None), ("look up", "Be quick.")], ids=["input", "instructions"]
)
async def test_another_input_of_a_model_call_ends_the_run(text: str, instructions: str | None) -> None:
    with pytest.raises(DivergenceError, match="looker/1 model looker") as caught:
        await go_on(looker(instructions=instructions), text, await first_steps(1))

    assert caught.value.step_id == "looker/1 model looker"
    assert "with input" in caught.value.expected
    assert caught.value.expected != caught.value.found


class Deployment(ScriptedModel):
    """A scripted model of a name."""

    def __init__(self, script: list[Any], model: str) -> None:
        super().__init__(script)
        self.model = model


class Rotating(ModelProvider):
    """Gives another deployment each time; together they follow one script."""

    def __init__(self) -> None:
        self.script = ScriptedModel([[function_call("look", {"what": "sky"}, call_id="c1")], [assistant_message("ok")]])
        self.given = 0

    def get_model(self, model_name: str | None) -> Model:
        self.given += 1
        deployment = Deployment([], f"deployment-{self.given}")
        deployment.get_response = self.script.get_response  # type: ignore[method-assign]
        return deployment


async def test_a_provider_may_give_another_model_each_time_if_the_agent_names_none() -> None:
    agent, config = Agent(name="looker", tools=[look]), RunConfig(model_provider=Rotating())
    run = await replayed(lambda step: DurableRunner.run(agent, "look up", step=step, run_config=config))

    assert run.result.final_output == "ok"
    first, second = (record.name for record in run.result.stats.timeline if record.kind == "model")
    assert (first, first != second) == ("deployment-1", True)  # the model that was asked is told all the same


@pytest.mark.parametrize("held", [False, True], ids=["a name", "an object"])
async def test_another_model_of_the_agent_ends_the_run(held: bool) -> None:
    config = RunConfig(model_provider=Rotating())

    def named(name: str) -> Any:
        script = [[function_call("look", {"what": "sky"}, call_id="c1")], [assistant_message("ok")]]
        return Deployment(script, name) if held else name

    agent = Agent(name="looker", model=named("small"), tools=[look])
    run = await replayed(lambda step: DurableRunner.run(agent, "look up", step=step, run_config=config))
    agent.model = named("large")
    with pytest.raises(DivergenceError, match=r"'large'.*'small'"):
        await replayed(
            lambda step: DurableRunner.run(agent, "look up", step=step, run_config=config),
            memos=dict(list(run.memos.items())[:2]),
        )


async def test_another_agent_under_the_same_id_ends_the_run() -> None:
    memos = await first_steps(1)
    for memo in memos.values():
        memo["data"].setdefault("record", {})["agent"] = "somebody else"

    with pytest.raises(DivergenceError, match="somebody else"):
        await go_on(looker(), "look up", memos)


async def test_memos_that_nobody_asks_for_end_the_run() -> None:
    agent = looker()
    memos = await first_steps(2)
    # The deployed code answers at once where the old one looked.
    agent.model = ScriptedModel([[assistant_message("no need to look")]])
    model_step, _tool_step = memos
    del memos[model_step]

    with pytest.raises(DivergenceError, match=r"looker/1\.1 look.*not asked for"):
        await go_on(agent, "look up", memos)


async def test_the_options_may_ask_for_a_warning_only(caplog: pytest.LogCaptureFixture) -> None:
    agent = looker()
    agent.model = ScriptedModel([[assistant_message("blue")]])
    with caplog.at_level(logging.WARNING, logger="inngest_agents"):
        run = await go_on(agent, "look down", await first_steps(2), divergence="warn")

    assert run.result.final_output == "blue"
    assert "looker/1 model looker" in caplog.text


async def test_a_divergence_is_not_told_to_the_model_as_a_tool_s_failure() -> None:
    memos = await first_steps(2)
    tool_step = list(memos)[1]
    version, _, *rest = memos[tool_step]["data"]["step"].split(" ")
    memos[tool_step]["data"]["step"] = " ".join([version, "0", *rest])

    with pytest.raises(DivergenceError, match=r"looker/1\.1 look"):
        await go_on(looker(), "look up", memos)


async def test_a_starting_agent_of_another_name_ends_the_run_before_it_does_anything_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(divergence, "PATIENCE_SECONDS", 0.1)
    agent = looker("watcher")
    with pytest.raises(DivergenceError, match=r"looker/1 model looker.*begins a run 'watcher' instead") as caught:
        await go_on(agent, "look up", await first_steps(2))

    assert caught.value.step_id == "looker/1 model looker"
    assert isinstance(agent.model, ScriptedModel)
    assert not agent.model.calls


async def test_a_warning_lets_the_run_of_another_name_do_all_anew(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(divergence, "PATIENCE_SECONDS", 0.1)
    with caplog.at_level(logging.WARNING, logger="inngest_agents"):
        run = await go_on(looker("watcher"), "look up", await first_steps(2), divergence="warn")

    assert run.result.final_output == "blue"
    assert "begins a run 'watcher' instead" in caplog.text


async def test_a_run_beside_it_that_was_begun_before_may_come_later() -> None:
    """An earlier request had a step of it, and was cut before the first one of this run had ended."""
    memos, early, late = await first_steps(2), looker("early"), looker()
    late.model = ScriptedModel([[assistant_message("blue")]])

    async def body(step: Any) -> Any:
        async def later() -> Any:
            await asyncio.sleep(0.2)
            return await DurableRunner.run(late, "look up", step=step)

        return await asyncio.gather(DurableRunner.run(early, "look up", step=step), later())

    run = await replayed(body, memos=memos)

    assert [result.final_output for result in run.result] == ["blue", "blue"]
