"""The front door: which arguments it takes, and what it says to wrong ones."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import Any

import inngest
import pytest
from agents import Agent, AgentHooks, Runner, RunResult, SQLiteSession, UserError
from agents.testing import ScriptedModel, assistant_message
from openai import OpenAIError

from inngest_agents import DurableOptions, DurableRunner
from inngest_agents.testing import replayed

ASYNC = "await DurableRunner.run(agent, input, step=ctx.step)"
SYNC = "DurableRunner.run_sync(agent, input, step=ctx.step)"
STREAMED = "DurableRunner.run_streamed(agent, input, step=ctx.step)"


def agent() -> Agent[None]:
    return Agent(name="a", model=ScriptedModel([[assistant_message("hi")]]))


async def a_step() -> Any:
    async def handler(step: Any) -> Any:
        return step

    return (await replayed(handler)).result


WRONG: dict[str, Callable[[Any], Any]] = {
    "the context": lambda step: types.SimpleNamespace(step=step),
    "a method": lambda step: step.run,
    "its class": type,
    "a text": lambda _: "step",
    "true": lambda _: True,
}


@pytest.mark.parametrize("make", WRONG.values(), ids=WRONG.keys())
async def test_a_wrong_step_is_an_error_that_shows_the_right_call_and_is_not_retried(make: Any) -> None:
    wrong = make(await a_step())
    with pytest.raises(TypeError, match="step must be the step of the Inngest function's context, not") as caught:
        await DurableRunner.run(agent(), "go", step=wrong)
    assert ASYNC in str(caught.value)
    assert isinstance(caught.value, inngest.NonRetriableError)
    with pytest.raises(TypeError) as caught:
        DurableRunner.run_sync(agent(), "go", step=wrong)
    assert str(caught.value).endswith(f"Write: {SYNC}")
    with pytest.raises(TypeError) as caught:
        DurableRunner.run_streamed(agent(), "go", step=wrong)
    assert STREAMED in str(caught.value)


async def test_the_context_in_place_of_its_step_is_told_without_its_events() -> None:
    context: Any = inngest.Context.__new__(inngest.Context)
    with pytest.raises(TypeError, match="is the Inngest function's context itself: pass its step") as caught:
        await DurableRunner.run(agent(), "go", step=context)
    assert ASYNC in str(caught.value)
    assert isinstance(caught.value, inngest.NonRetriableError)


async def test_a_missing_step_is_an_error_that_shows_the_right_call_and_is_not_retried() -> None:
    with pytest.raises(TypeError, match="step is missing") as caught:
        await DurableRunner.run(agent(), "go")
    assert ASYNC in str(caught.value)
    assert isinstance(caught.value, inngest.NonRetriableError)
    with pytest.raises(TypeError, match="step is missing") as caught:
        DurableRunner.run_sync(agent(), "go")
    assert str(caught.value).endswith(f"Write: {SYNC}")


async def test_the_step_of_an_async_function_in_run_sync_is_told_from_others() -> None:
    with pytest.raises(TypeError, match="of an async Inngest function") as caught:
        DurableRunner.run_sync(agent(), "go", step=await a_step())
    assert ASYNC in str(caught.value)


async def test_a_sink_for_a_run_without_events_is_refused_before_its_first_step() -> None:
    options = DurableOptions(stream=print)

    async def handler(step: Any) -> Any:
        return await DurableRunner.run(agent(), "go", step=step, options=options)

    with pytest.raises(ValueError, match=r"run_streamed\(.*\)\.wait\(\)") as caught:
        await replayed(handler)
    assert isinstance(caught.value, inngest.NonRetriableError)


async def test_options_of_another_type_are_named() -> None:
    wrong: Any = {"checkpoint": False}
    with pytest.raises(TypeError, match=r"options must be DurableOptions\(…\), not {'checkpoint': False}"):
        await DurableRunner.run(agent(), "go", step=await a_step(), options=wrong)


@pytest.mark.parametrize("wrong", [{"hooks": AgentHooks()}, {"run_config": "fast"}], ids=["hooks", "run_config"])
async def test_a_wrong_argument_is_the_error_of_runner_and_not_retried(wrong: dict[str, Any]) -> None:
    with pytest.raises(TypeError) as theirs:
        await Runner.run(agent(), "go", **wrong)
    with pytest.raises(TypeError) as mine:
        await replayed(lambda step: DurableRunner.run(agent(), "go", step=step, **wrong))
    assert str(mine.value) == str(theirs.value)
    assert isinstance(mine.value, inngest.NonRetriableError)


async def test_a_missing_key_is_the_error_of_the_client_and_not_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY"):
        monkeypatch.delenv(name, raising=False)
    keyless = Agent(name="a", model="gpt-4.1")
    with pytest.raises(OpenAIError, match="Missing credentials") as caught:
        await replayed(lambda step: DurableRunner.run(keyless, "go", step=step))
    assert isinstance(caught.value, inngest.NonRetriableError)


REFUSED: dict[str, dict[str, Any]] = {
    "two memories": {"session": SQLiteSession("s"), "conversation_id": "c"},
    "another kind of hooks": {"hooks": AgentHooks()},
    "an unknown setting": {"run_config": {"modell": "gpt-5"}},
}


@pytest.mark.parametrize("name", ["run", "run_streamed"])
@pytest.mark.parametrize("wrong", REFUSED.values(), ids=REFUSED.keys())
async def test_what_the_sdk_refuses_before_the_first_step_is_not_retried(name: str, wrong: dict[str, Any]) -> None:
    async def handler(step: Any) -> Any:
        started = getattr(DurableRunner, name)(agent(), "go", step=step, **wrong)
        return await (started if name == "run" else started.wait())

    with pytest.raises((UserError, TypeError)) as caught:
        await replayed(handler)
    assert isinstance(caught.value, inngest.NonRetriableError)
    assert caught.value.stats.total_model_calls == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["run", "run_streamed"])
def test_all_arguments_of_runner_are_taken_in_the_same_way(name: str) -> None:
    theirs = inspect.signature(getattr(Runner, name)).parameters
    mine = inspect.signature(getattr(DurableRunner, name)).parameters
    own = {"step", "options"}
    assert {key: value.default for key, value in mine.items() if key not in own} == {
        key: value.default for key, value in theirs.items()
    }
    assert {key: value.kind for key, value in mine.items() if key not in own} == {
        key: value.kind for key, value in theirs.items()
    }
    assert all(mine[key].kind is inspect.Parameter.KEYWORD_ONLY for key in own)


async def test_a_result_is_one_of_runner_with_stats_besides() -> None:
    assert issubclass(DurableRunner, Runner)
    run = await replayed(lambda step: DurableRunner.run(agent(), "go", step=step))
    assert isinstance(run.result, RunResult)
    assert run.result.to_dict() == {"final_output": "hi", "stats": run.result.stats.to_dict()}


async def test_a_run_that_the_user_names_like_a_repeated_one_keeps_ids_of_its_own() -> None:
    async def handler(step: Any) -> list[str]:
        outputs = []
        for name in ("shop:1", "shop", "shop"):
            agent = Agent(name="shop", model=ScriptedModel([[assistant_message("done")]]))
            options = DurableOptions(name=name, stats_step=False)
            outputs.append((await DurableRunner.run(agent, "go", step=step, options=options)).final_output)
        return outputs

    run = await replayed(handler)
    assert run.steps == ["shop:1/1 model shop", "shop/1 model shop", "shop:1:1/1 model shop"]
