"""OpenTelemetry spans of whole runs: without any code of the user, each once, however often the run is replayed."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
from agents import Agent, RunConfig, Usage, function_tool
from agents.exceptions import MaxTurnsExceeded
from agents.testing import ScriptedModel, assistant_message, function_call
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from inngest_agents import Budget, BudgetExceeded, DurableOptions, DurableRunner
from inngest_agents.testing import ReplayedRun, replayed

QUIET = RunConfig(tracing_disabled=True)
DONE: Any = [assistant_message("done")]


class Counting(ScriptedModel):
    """A scripted model that says what it used, and has a price."""

    model = "gpt-4o"

    async def get_response(self, *args: Any, **kwargs: Any) -> Any:
        response = await super().get_response(*args, **kwargs)
        response.usage = Usage(requests=1, input_tokens=100, output_tokens=10, total_tokens=110)
        return response


class Watch:
    """A tracer provider, and what it was given."""

    def __init__(self, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(**options)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    @property
    def names(self) -> list[str]:
        return [span.name for span in self.exporter.get_finished_spans()]

    def attributes(self, name: str) -> dict[str, Any]:
        (span,) = [span for span in self.exporter.get_finished_spans() if span.name == name]
        return dict(span.attributes or {})


def agents() -> Agent[Any]:
    inner: Agent[Any] = Agent(name="researcher", model=Counting([DONE] * 9))

    @function_tool
    async def look() -> str:
        return "seen"

    calls: Any = [function_call("research", {"input": "q"}, call_id="c1"), function_call("look", {}, call_id="c2")]
    return Agent(name="boss", model=Counting([calls, DONE]), tools=[inner.as_tool("research", "asks"), look])


async def run(agent: Agent[Any], *, memos: Any = None, max_turns: int = 10, **options: Any) -> ReplayedRun[Any]:
    chosen = DurableOptions(**options)
    return await replayed(
        lambda step: DurableRunner.run(agent, "hi", step=step, options=chosen, run_config=QUIET, max_turns=max_turns),
        memos=memos,
    )


EXPECTED = Counter(
    ["invoke_agent boss", "invoke_agent researcher", "execute_tool look"] + ["chat gpt-4o"] * 3,
)


@pytest.mark.parametrize("stats_step", [True, False])
async def test_a_run_that_is_replayed_for_each_step_exports_each_span_once(stats_step: bool) -> None:
    watch = Watch()
    done = await run(agents(), otel=watch.provider, stats_step=stats_step)
    assert done.requests > 5
    assert Counter(watch.names) == EXPECTED
    boss = watch.attributes("invoke_agent boss")
    assert boss["gen_ai.operation.name"] == "invoke_agent"
    assert boss["gen_ai.usage.input_tokens"] == 300
    assert boss["inngest_agents.usage.cost_usd"] == pytest.approx(done.result.stats.total_cost_usd)

    await run(agents(), otel=watch.provider, stats_step=stats_step, memos=done.memos)
    assert Counter(watch.names) == EXPECTED


async def test_the_provider_of_the_process_is_used_if_the_user_has_set_one_up(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: watch.provider)
    await run(agents())
    assert Counter(watch.names) == EXPECTED
    await run(agents(), otel=False)
    assert Counter(watch.names) == EXPECTED


async def test_a_run_that_fails_for_good_exports_its_spans_with_the_error_once() -> None:
    watch = Watch()
    for _ in range(2):
        with pytest.raises(MaxTurnsExceeded):
            await run(agents(), otel=watch.provider, max_turns=1)
        assert watch.attributes("invoke_agent boss")["error.type"] == "agents.exceptions.MaxTurnsExceeded"
        watch.exporter.clear()


async def test_a_run_over_budget_exports_what_it_had_used() -> None:
    watch = Watch()
    with pytest.raises(BudgetExceeded):
        await run(agents(), otel=watch.provider, budget=Budget(max_model_calls=2))
    boss = watch.attributes("invoke_agent boss")
    assert boss["error.type"] == "inngest_agents.budget.BudgetExceeded"
    assert boss["gen_ai.usage.input_tokens"] == 200


async def test_options_that_change_while_a_run_is_under_way_are_no_divergence() -> None:
    watch = Watch()
    done = await run(agents(), otel=watch.provider, stats_step=False)
    again = await run(agents(), otel=False, stats_step=False, memos=done.memos)
    assert again.result.final_output == "done"
    again = await run(agents(), otel=watch.provider, stats_step=True, memos=done.memos)
    assert again.result.final_output == "done"
    silent = await run(agents(), otel=False, stats_step=False, memos=again.memos)
    assert silent.result.final_output == "done"


async def test_a_streamed_run_exports_its_spans_once() -> None:
    watch, agent = Watch(), agents()

    async def handler(step: Any) -> Any:
        options = DurableOptions(otel=watch.provider)
        result = DurableRunner.run_streamed(agent, "hi", step=step, options=options, run_config=QUIET)
        return (await result.wait()).final_output

    assert (await replayed(handler)).result == "done"
    assert len(watch.names) == sum(EXPECTED.values())


async def test_the_provider_s_sampler_decides() -> None:
    watch = Watch(sampler=ALWAYS_OFF)
    await run(agents(), otel=watch.provider)
    assert watch.names == []


async def test_an_exporter_that_fails_harms_no_run(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(SpanExporter):
        def export(self, spans: Any) -> Any:
            raise OSError("no collector")

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Broken()))
    assert (await run(agents(), otel=provider)).result.final_output == "done"
    assert "no collector" in caplog.text


def test_nothing_is_imported_where_nobody_has_set_up_opentelemetry() -> None:
    code = """
import asyncio, sys
from agents import Agent, RunConfig
from agents.testing import ScriptedModel, assistant_message
from inngest_agents import DurableRunner
from inngest_agents.testing import replayed
before = "opentelemetry.sdk.trace" in sys.modules
agent = Agent(name="a", model=ScriptedModel([[assistant_message("done")]]))
quiet = RunConfig(tracing_disabled=True)
asyncio.run(replayed(lambda step: DurableRunner.run(agent, "hi", step=step, run_config=quiet)))
assert not before
assert "opentelemetry.sdk.trace" not in sys.modules
assert "inngest_agents.stats.otel" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
