"""A process that ends while a request is under way in one of its threads, as under Flask or gunicorn's threads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = """
import asyncio, collections, concurrent.futures, json, sys, time
from agents import Agent, RunConfig, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call
from checkpoint_api import Api, Engine
from inngest_agents import DurableOptions, DurableRunner, tool_options

counts = collections.Counter()

def told(_context, error):
    counts["told"] += 1
    return f"failed: {error}"

@function_tool(failure_error_function=told)
def charge() -> str:
    counts["charged"] += 1
    return "charged"

charge = tool_options(charge, max_attempts=1)
call = function_call("charge", {}, call_id="c")
agent = Agent(name="shop", model=ScriptedModel([[call], [assistant_message("done")]]), tools=[charge])

async def handler(step):
    quiet = RunConfig(tracing_disabled=True)
    options = DurableOptions(checkpoint=sys.argv[1] == "checkpointed")
    return (await DurableRunner.run(agent, "go", step=step, options=options, run_config=quiet)).final_output

def request():
    while True:  # until the main thread has ended
        try:
            threads.submit(int)
        except RuntimeError:
            break
        time.sleep(0.01)
    api = Api()
    api.url = "http://localhost:9"  # a name, which is looked up in a thread
    engine = Engine(api, max_attempts=3)
    output = asyncio.run(engine.run(handler))
    print(json.dumps([*engine.answers, {**counts, "final_output": output}]))

threads = concurrent.futures.ThreadPoolExecutor(2)
threads.submit(request).add_done_callback(lambda done: done.result())
"""


@pytest.fixture(scope="module", params=["checkpointed", "step by step"])
def answers(request: pytest.FixtureRequest) -> list[Any]:
    """What each request was answered, and last what was counted."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, request.param],
        cwd=Path(__file__).parent,
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout, done.stderr
    answers: list[Any] = json.loads(done.stdout)
    return answers


def told(answers: list[Any], label: str) -> list[list[str]]:
    return [step for answer in answers[:-1] for step in answer if label in step[1]]


def test_what_can_not_be_saved_is_answered(answers: list[Any]) -> None:
    assert told(answers, "run_stats") == [["StepRun", "shop/run_stats"]]


def test_a_model_call_is_not_lost_because_no_thread_looks_up_its_price(answers: list[Any]) -> None:
    assert told(answers, "model") == [["StepRun", "shop/1 model shop"], ["StepRun", "shop/2 model shop"]]


def test_a_sync_tool_that_the_ending_process_does_not_start_has_not_failed(answers: list[Any]) -> None:
    # It would be tried once only if it had; the model is told when the engine does not try the request again.
    assert told(answers, "charge") == [
        ["StepError", "shop/1.1 charge"],
        ["StepError", "shop/1.1 charge"],
        ["StepFailed", "shop/1.1 charge"],
        ["StepRun", "shop/1.1 charge error text"],
    ]
    assert answers[-1] == {"told": 1, "final_output": "done"}
