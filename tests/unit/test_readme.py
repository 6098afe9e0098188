"""The examples of the README run as they stand there."""

from __future__ import annotations

import re
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import inngest
import pytest
from agents import Agent, function_tool, set_tracing_disabled
from agents.testing import ScriptedModel, assistant_message, function_call

import inngest_agents
from inngest_agents import DurableRunner
from inngest_agents.local import LocalEngine
from inngest_agents.testing import replayed

README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def block(containing: str) -> str:
    """The only example with this text in it."""
    [found] = [code for code in BLOCKS if containing in code]
    return str(found)


@pytest.fixture(autouse=True)
def no_tracing() -> Any:
    """Spans would go to the real OpenAI."""
    set_tracing_disabled(True)
    yield
    set_tracing_disabled(False)


def names(answer: str = "Refunded.", times: int = 1) -> dict[str, Any]:
    """What the examples take for granted: a client, an agent, a prompt."""
    usage_free = ScriptedModel([[assistant_message(answer)] for _ in range(times)])
    return {
        "client": inngest.Inngest(app_id="readme", is_production=False),
        "agent": Agent(name="helper", model=usage_free),
        "inngest": inngest,
        "DurableRunner": DurableRunner,
        "prompt": "Refund order 7",
    }


async def run_inside(code: str, namespace: dict[str, Any], step: Any) -> Any:
    """Run an example that stands for the inside of an Inngest function."""
    exec(f"async def example(ctx):\n{textwrap.indent(code, '    ')}", namespace)
    context = type("Context", (), {"step": step, "event": inngest.Event(name="x", data={"prompt": "hi", "id": 7})})
    return await namespace["example"](context)


def test_every_example_is_python() -> None:
    assert len(BLOCKS) >= 8
    for code in BLOCKS:
        compile(f"async def example():\n{textwrap.indent(code, '    ')}", "README.md", "exec")


def test_the_first_example_runs_on_the_embedded_engine_as_the_testing_example_says() -> None:
    namespace = names()
    exec(block('fn_id="run-agent", trigger'), namespace)
    exec(block("with LocalEngine() as engine"), {**namespace, "LocalEngine": LocalEngine})


def test_the_flask_example_is_a_function_that_runs() -> None:
    namespace = {**names(), "__name__": __name__}  # Flask looks for its files beside the module
    exec(block("import flask"), namespace)

    with LocalEngine() as engine:
        engine.serve(namespace["client"], [namespace["run_agent_sync"]])
        run = engine.run("agent/run-sync", {"prompt": "Refund order 7"})

    assert run.output["final_output"] == "Refunded."


def test_the_fastapi_example_serves() -> None:
    namespace = names()
    exec(block('fn_id="run-agent", trigger'), namespace)
    exec(block("import fastapi"), namespace)

    assert "/api/inngest" in {getattr(route, "path", "") for route in namespace["app"].routes}


@pytest.mark.parametrize("approved", [True, False])
def test_the_approval_example_goes_on_when_the_decision_comes(approved: bool) -> None:
    paid: list[int] = []
    asked: list[list[str]] = []

    @function_tool(needs_approval=True)
    def pay(amount: int) -> str:
        paid.append(amount)
        return "paid"

    async def ask_the_boss(calls: list[str]) -> None:
        asked.append(calls)

    model = ScriptedModel([[function_call("pay", {"amount": 5}, call_id="c1")], [assistant_message("done")]])
    accountant: Agent[Any] = Agent(name="accountant", model=model, tools=[pay])
    namespace = {**names(), "accountant": accountant, "ask_the_boss": ask_the_boss}
    exec(block('fn_id="pay-invoice"'), namespace)

    with LocalEngine() as engine:
        engine.serve(namespace["client"], [namespace["pay_invoice"]])
        run_id = engine.send("invoice/received", {"id": 7, "text": "5 dollars, please"})
        wait_until(lambda: any(step.name == "decision" for step in engine.steps(run_id)))
        assert (asked, paid) == ([['pay {"amount":5}']], [])
        engine.send_event("invoice/decided", {"id": 8, "approved": not approved})
        engine.send_event("invoice/decided", {"id": 7, "approved": approved})
        run = engine.wait(run_id)

    assert (run.output["final_output"], paid) == ("done", [5] if approved else [])
    assert len(asked) == 1


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline, "it did not come to this"
        time.sleep(0.02)


async def test_the_replayed_example_runs() -> None:
    namespace = names()
    exec(block("from inngest_agents.testing import replayed"), namespace)
    await namespace["test_refund"]()


async def test_the_tool_example_marks_the_tool() -> None:
    namespace: dict[str, Any] = {}
    exec(block("tool_options(charge_card"), namespace)

    options = inngest_agents.DurableOptions().for_tool(namespace["charge_card"], "charge_card")
    assert options.max_attempts == 1


@pytest.mark.parametrize("answered", [True, False])
def test_the_tool_that_waits_goes_on_when_the_answer_comes_or_the_time_is_over(answered: bool) -> None:
    asked: list[str] = []

    async def send_question(call: str, question: str) -> None:
        asked.append(f"{call} {question}")

    namespace = {**names(), "send_question": send_question}
    exec(block("tool_options(ask_boss"), namespace)
    call = function_call("ask_boss", {"question": "pay?"}, call_id="c1")
    model = ScriptedModel([[call], [assistant_message("done")]])
    namespace["agent"] = Agent(name="helper", model=model, tools=[namespace["ask_boss"]])
    exec(block('fn_id="run-agent", trigger'), namespace)

    with LocalEngine() as engine:
        engine.serve(namespace["client"], [namespace["run_agent"]])
        run_id = engine.send("agent/run", {"prompt": "Pay."})
        wait_until(lambda: any(step.name == "answer c1" for step in engine.steps(run_id)))
        if answered:
            engine.send_event("boss/answered", {"call": "c0", "text": "no"})
            engine.send_event("boss/answered", {"call": "c1", "text": "yes"})
        else:
            engine.fast_forward()
        run = engine.wait(run_id)

    assert run.output["final_output"] == "done"
    assert asked == ["c1 pay?"]
    asked_with: Any = model.calls[1].input
    told = [item["output"] for item in asked_with if item.get("type") == "function_call_output"]
    assert told == ["yes" if answered else "No answer: decide yourself."]


async def test_the_budget_example_runs() -> None:
    namespace = names()
    agent = Agent(name="helper", model=ScriptedModel([[assistant_message("fine")]]))
    agent.model.model = "my-model"  # type: ignore[union-attr]
    namespace["agent"] = agent

    await replayed(lambda step: run_inside(block("max_cost_usd=0.50"), namespace, step))


async def test_the_streaming_example_runs() -> None:
    sent: list[Any] = []
    namespace = {**names(), "send_to_client": sent.append, "DurableOptions": inngest_agents.DurableOptions}

    run = await replayed(lambda step: run_inside(block("run_streamed("), namespace, step))

    assert run.result["final_output"] == "Refunded."
    assert sent


async def test_the_example_of_the_steps_a_la_carte_runs() -> None:
    @function_tool
    async def charge_card(amount: int) -> str:
        return f"charged {amount}"

    async def load_customer(number: int) -> str:
        return f"customer {number}"

    # A plain run asks the model again on each replay: once before the tool's step, and in the two requests after it.
    charge: list[Any] = [function_call("charge_card", {"amount": 5}, call_id="c1")]
    paid: list[Any] = [assistant_message("paid")]
    model = ScriptedModel([charge, charge, paid, charge, paid])
    code = block("finalize_run, set_step").replace('name="cashier",', 'name="cashier", model=model,')
    namespace = {**names(), "charge_card": charge_card, "load_customer": load_customer, "model": model}
    exec(code, namespace)
    context = type("Context", (), {"event": inngest.Event(name="x", data={"id": 7})})

    async def handler(step: Any) -> Any:
        context.step = step  # type: ignore[attr-defined]
        return await namespace["run_agent"](context)

    run = await replayed(handler)

    assert run.result["final_output"] == "paid"
    assert run.steps[:2] == ["load-customer", "charge_card"]
