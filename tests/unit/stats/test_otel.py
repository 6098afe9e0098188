"""Spans by the GenAI conventions: each once, under the trace of the run."""

from __future__ import annotations

import builtins
from typing import Any

import pytest
import run_samples as samples
from agents import Agent, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from inngest_agents import DurableOptions, DurableRunner
from inngest_agents.stats.otel import SpanRun, export_spans
from inngest_agents.stats.records import ErrorRecord, StepRecord
from inngest_agents.testing import replayed

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
RUN = SpanRun("01K6Z3H8R2T5V9", "Triage", f"00-{TRACE}-00f067aa0ba902b7-01")


def export(run: SpanRun = RUN, records: Any = None) -> list[ReadableSpan]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource({"service.name": "shop"}))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    count = export_spans(samples.records() if records is None else records, run, provider)
    spans = list(exporter.get_finished_spans())
    assert len(spans) == count
    return spans


def named(spans: list[ReadableSpan], name: str) -> ReadableSpan:
    return next(span for span in spans if span.name == name)


def test_each_agent_call_and_tool_has_one_span() -> None:
    spans = export()
    names = [span.name for span in spans]
    assert len(names) == len(samples.records()) + 2
    assert names[:2] == ["invoke_agent Triage", "invoke_agent Research"]
    assert {"chat gpt-4o", "execute_tool find_orders", "execute_tool read_page", "handoff Sales"} <= set(names)
    assert len({span.context.span_id for span in spans}) == len(spans)


def test_spans_hang_below_the_trace_of_the_run() -> None:
    spans = export()
    assert {f"{span.context.trace_id:032x}" for span in spans} == {TRACE}
    root, nested = named(spans, "invoke_agent Triage"), named(spans, "invoke_agent Research")
    assert root.parent is not None
    assert f"{root.parent.span_id:016x}" == "00f067aa0ba902b7"
    assert nested.parent == root.context
    assert named(spans, "execute_tool search").parent == nested.context
    assert named(spans, "execute_tool find_orders").parent == root.context
    assert root.resource.attributes["service.name"] == "shop"


def test_a_model_call_carries_usage_and_cost() -> None:
    span = next(span for span in export() if span.name == "chat gpt-4o")
    attributes = span.attributes or {}
    assert span.kind is SpanKind.CLIENT
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.response.model": "gpt-4o-2024-08-06",
        "gen_ai.agent.name": "Sales",
        "gen_ai.usage.input_tokens": 2910,
        "gen_ai.usage.output_tokens": 240,
        "gen_ai.usage.cache_read.input_tokens": 970,
        "inngest_agents.usage.cost_usd": 0.009675,
        "inngest.run.id": RUN.run_id,
    }
    assert {name: attributes.get(name) for name in expected} == expected
    assert span.start_time == round((samples.START + 2.1) * 1e9)
    assert span.end_time == round((samples.START + 2.1 + 2.6) * 1e9)


def test_a_failed_tool_is_an_error() -> None:
    span = named(export(), "execute_tool send_invoice")
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == "Connection unexpectedly closed"
    assert (span.attributes or {})["error.type"] == "SMTPServerDisconnected"
    assert (span.attributes or {})["inngest_agents.step.attempts"] == 4


async def test_a_step_that_fails_for_good_is_where_the_run_was_and_not_in_1970() -> None:
    @function_tool
    async def shaky() -> str:
        raise OSError("broken")

    model = ScriptedModel([[function_call("shaky", {}, call_id="c1")], [assistant_message("done")]])
    agent: Agent[Any] = Agent(name="a", model=model, tools=[shaky])
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    await replayed(lambda step: DurableRunner.run(agent, "go", step=step, options=DurableOptions(otel=provider)))

    run, asked, failed, told = exporter.get_finished_spans()
    assert failed.status.status_code is StatusCode.ERROR
    assert (run.start_time, failed.start_time, run.end_time) == (asked.start_time, asked.end_time, told.end_time)


def test_steps_that_have_all_failed_are_where_the_run_ends() -> None:
    failed = StepRecord(kind="model", step_id="a/1 model a", error=ErrorRecord("OSError", "broken"))
    assert {span.start_time and span.start_time > samples.START for span in export(records=[failed])} == {True}


def test_the_run_sums_up_its_agents() -> None:
    attributes = named(export(), "invoke_agent Triage").attributes or {}
    assert attributes["gen_ai.usage.input_tokens"] == 11910
    assert attributes["inngest_agents.usage.cost_usd"] == 0.0237135
    assert attributes["inngest_agents.usage.cost_complete"] is False


def test_a_second_export_sends_the_same_spans() -> None:
    first, second = export(), export(records=reversed(samples.records()))
    assert [span.to_json() for span in first] == [span.to_json() for span in second]


@pytest.mark.parametrize(
    "header", ["", "nonsense", f"ff-{TRACE}-00f067aa0ba902b7-01", f"00-{'0' * 32}-00f067aa0ba902b7-01"]
)
def test_without_a_valid_parent_the_run_has_a_trace_of_its_own(header: str) -> None:
    first, second = export(SpanRun("r", traceparent=header)), export(SpanRun("r", traceparent=header))
    assert first[0].parent is None
    assert first[0].context.trace_id == second[0].context.trace_id != export(SpanRun("s"))[0].context.trace_id


def test_a_trace_that_is_not_sampled_gets_no_spans() -> None:
    assert export(SpanRun("r", traceparent=f"00-{TRACE}-00f067aa0ba902b7-00")) == []


def test_no_records_make_no_spans() -> None:
    assert export(records=[]) == []


def test_without_opentelemetry_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def none(name: str, *args: Any) -> Any:
        if name.startswith("opentelemetry"):
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", none)
    assert export_spans(samples.records(), RUN) == 0


def test_without_a_tracer_provider_nothing_happens() -> None:
    assert export_spans(samples.records(), RUN) == 0
