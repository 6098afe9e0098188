"""`inngest-agents show`, `runs` and `costs` on runs of each engine: what the page says, and that the sums are right."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import inngest
import pytest
from agents import Agent, RunConfig, Usage, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call
from typer.testing import CliRunner

from inngest_agents import DurableOptions, DurableRunner
from inngest_agents.cli import app
from inngest_agents.history import server
from inngest_agents.stats.pricing import ModelPrices

from .harness import EmbeddedEngine, EngineUnderTest

if TYPE_CHECKING:
    from pathlib import Path

QUIET = RunConfig(tracing_disabled=True)
HOSTILE = "</pre></details><script>document.title='pwned'</script>"
PRICE: ModelPrices = {"input_cost_per_token": 1e-6, "output_cost_per_token": 4e-6}


class Model(ScriptedModel):
    """A scripted model that tells what it used."""

    model = "priced-model"

    async def get_response(self, *args: Any, **kwargs: Any) -> Any:
        response = await super().get_response(*args, **kwargs)
        response.usage = Usage(requests=1, input_tokens=100, output_tokens=10, total_tokens=110)
        return response


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("INNGEST_API_KEY", "INNGEST_SIGNING_KEY", "INNGEST_ENV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")


def functions(engine: EngineUnderTest) -> None:
    """An agent with parallel tools (one fails at first) and a handoff, between steps of the engine's own; and a
    function without agents."""

    def agents() -> Agent[Any]:
        tries: list[int] = []

        @function_tool
        async def look(what: str) -> str:
            await asyncio.sleep(0.05)
            return f"{what} {HOSTILE}"

        @function_tool
        async def flaky() -> str:
            tries.append(1)
            if len(tries) < 2:
                raise TimeoutError("the warehouse sleeps")
            return "at last"

        model = Model(
            [
                [function_call("look", {"what": HOSTILE}, call_id="c1"), function_call("flaky", {}, call_id="c2")],
                [function_call("transfer_to_sales", {}, call_id="c3")],
                [assistant_message("done")],
            ]
        )
        sales = Agent(name="sales", model=model)
        return Agent(name="triage", model=model, tools=[look, flaky], handoffs=[sales])

    first = agents()

    @engine.client.create_function(fn_id="agents", trigger=inngest.TriggerEvent(event="go"), retries=3)
    async def run(ctx: inngest.Context) -> Any:
        options = DurableOptions(prices={"priced-model": PRICE, "Model": PRICE})
        result = await DurableRunner.run(first, HOSTILE, step=ctx.step, options=options, run_config=QUIET)
        await ctx.step.sleep("nap", timedelta(milliseconds=10))

        async def own() -> dict[str, int]:
            return {"mine": 7}

        await ctx.step.run("my own step", own)
        return result.to_dict()

    @engine.client.create_function(fn_id="plain", trigger=inngest.TriggerEvent(event="plain"), retries=0)
    async def plain(ctx: inngest.Context) -> Any:
        async def own() -> int:
            return 41

        async def bad() -> None:
            raise ValueError("never works")

        await ctx.step.run("without agents", own)
        await ctx.step.run("bad step", bad)

    @engine.client.create_function(fn_id="long", trigger=inngest.TriggerEvent(event="long"), retries=0)
    async def long(ctx: inngest.Context) -> None:
        await ctx.step.sleep("a long nap", timedelta(hours=1))

    engine.serve([run, plain, long])


def where(engine: EngineUnderTest) -> list[str]:
    return ["--db", str(engine.folder / "state.db")] if isinstance(engine, EmbeddedEngine) else ["--url", engine.url]


def call(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.output
    return done.stdout


def settled(engine: EngineUnderTest, run_id: str) -> None:
    """The server writes its traces a moment after a run has ended."""
    if isinstance(engine, EmbeddedEngine):
        return
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        done = CliRunner().invoke(app, ["show", run_id, *where(engine)])
        if done.exit_code == 0 and any(mark in done.stdout.splitlines()[0] for mark in ("completed", "failed")):
            return
        time.sleep(0.1)


def numbers(run: Any) -> tuple[Any, ...]:
    total = run["stats"]["total"]
    names = ("model_calls", "tool_calls", "input_tokens", "output_tokens", "total_tokens", "cost_usd_exact")
    return tuple(total[name] for name in names)


def test_a_run_of_agents_has_a_page_with_all_of_its_steps(engine: EngineUnderTest, tmp_path: Path) -> None:
    functions(engine)
    run_id = engine.send("go", {"prompt": HOSTILE})
    assert engine.wait(run_id, 60).status == "Completed"
    settled(engine, run_id)
    file = tmp_path / "run.html"
    call("show", run_id, "--html", str(file), *where(engine))
    page = file.read_text(encoding="utf-8")

    for shown in ("triage/1.1 look", "triage/1.2 flaky", "1 model triage", "3 model sales", "nap", "my own step"):
        assert shown in page
    assert ">sleep<" in page
    assert "TimeoutError: the warehouse sleeps" in page
    assert "at last" in page
    assert "&quot;mine&quot;: 7" in page
    assert "1 handoff" in page
    assert "<b>$0.000420</b>" in page  # 300 in at 1e-6, 30 out at 4e-6
    assert "<script" not in page
    assert "&lt;/pre&gt;&lt;/details&gt;&lt;script&gt;" in page
    # Each step has one line, whatever the engine makes of its attempts.
    titles = [part.partition("<")[0] for part in page.split('class="label" title="')[1:]]
    assert len([title for title in titles if title.startswith("triage/1.2 flaky")]) == 1
    assert page.count('<details class="step') == 8
    assert page.count('class="attempts"') == 1
    assert titles[0].startswith("triage/1 model")


def test_the_terminal_shows_the_steps_and_lists_the_runs(engine: EngineUnderTest) -> None:
    functions(engine)
    run_id = engine.send("go")
    engine.wait(run_id, 60)
    settled(engine, run_id)
    shown = call("show", run_id, *where(engine))
    for expected in ("1.2 flaky", "1 failed attempt", "nap", "my own step", run_id):
        assert expected in shown
    assert "running" not in shown
    (line,) = [line for line in call("runs", *where(engine)).splitlines() if run_id in line]
    assert "completed" in line.lower()
    assert run_id in call("show", "last", *where(engine))


def test_a_run_without_agents_is_shown_too(engine: EngineUnderTest, tmp_path: Path) -> None:
    functions(engine)
    run_id = engine.send("plain")
    assert engine.wait(run_id, 60).status == "Failed"
    settled(engine, run_id)
    file = tmp_path / "run.html"
    call("show", run_id, "--html", str(file), *where(engine))
    page = file.read_text(encoding="utf-8")
    assert "without agents" in page
    assert "<pre>41</pre>" in page
    assert "never works" in page
    assert "bad step" in page


def test_a_run_under_way_is_shown_as_such(engine: EngineUnderTest, tmp_path: Path) -> None:
    functions(engine)
    run_id = engine.send("long")
    file, deadline, shown = tmp_path / "run.html", time.monotonic() + 15, ""
    while "a long nap" not in shown and time.monotonic() < deadline:
        time.sleep(0.2)
        done = CliRunner().invoke(app, ["show", run_id, "--html", str(file), *where(engine)])
        shown = file.read_text(encoding="utf-8") if done.exit_code == 0 else ""
    assert "a long nap" in shown
    assert '<span class="status running">running</span>' in shown


def test_the_sums_are_those_of_the_results(
    engine: EngineUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "PAGE_SIZE", 1)  # two runs are two pages
    functions(engine)
    ids = [engine.send("go"), engine.send("plain")]
    outcomes = [engine.wait(run_id, 60) for run_id in ids]
    for run_id in ids:
        settled(engine, run_id)
    result = outcomes[0].output
    result = json.loads(result) if isinstance(result, str) else result
    fields = ("model_calls", "tool_calls", "input_tokens", "output_tokens", "total_tokens", "cost_usd")

    done = CliRunner().invoke(app, ["costs", "--by", "function", "--csv", "-", *where(engine)])
    assert done.exit_code == 0, done.output
    assert "left out: 1 run without durable steps" in done.stderr
    (row,) = rows_of(done.stdout)
    assert row["function"] == "test-agents"
    assert tuple(kind(row[name]) for kind, name in zip((int,) * 5 + (str,), fields, strict=True)) == numbers(result)
    assert row["cost_usd"] == "0.00042"

    agents = {row["agent"]: row for row in rows_of(call("costs", "--by", "agent", "--csv", "-", *where(engine)))}
    for name, part in result["stats"]["by_agent"].items():
        assert (int(agents[name]["model_calls"]), int(agents[name]["total_tokens"])) == (
            part["model_calls"],
            part["total_tokens"],
        )
        assert agents[name]["cost_usd"] == part["cost_usd_exact"]

    table, plot = tmp_path / "costs.csv", tmp_path / "costs.svg"
    shown = call("costs", "--csv", str(table), "--plot", str(plot), "--since", "1d", *where(engine))
    assert "$0.000420" in shown
    assert table.read_text().count("\n") == 2
    assert plot.read_text().startswith("<svg")
    none = CliRunner().invoke(app, ["costs", "--until", "2020-01-01", *where(engine)])
    assert "no runs with durable steps" in none.stdout


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture
def unreachable() -> Iterator[str]:
    import socket

    with socket.socket() as held:  # bound and not listening: nobody answers, and nobody else gets it
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def test_what_cannot_be_read_is_said(engine: EngineUnderTest, unreachable: str) -> None:
    missing = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
    done = CliRunner().invoke(app, ["show", missing, *where(engine)])
    assert done.exit_code == 1
    assert f"no run {missing}" in done.stderr
    for command in (["runs"], ["show", "last"], ["costs"]):
        done = CliRunner().invoke(app, [*command, "--url", unreachable])
        assert done.exit_code == 1
        assert f"can't reach {unreachable}" in done.stderr
