"""OpenTelemetry spans of a run, by the semantic conventions for generative AI, made from its records.

Spans are made once, from the records of the finished run, in its last step (see `inngest_agents.summary`) and not
while it goes: a durable run is replayed, and spans that are opened on the way would be sent again with every replay.
Their ids are derived from the run's and the step's id, so that even a process that dies in that last step sends the
same spans again and not new ones.

The names are those of the conventions ("gen_ai.*"; operations "invoke_agent", "chat", "execute_tool"); what they have
no name for is under "inngest_agents.*". Needs the extra `otel`; `export_spans` does nothing where
OpenTelemetry is not installed.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from inngest_agents.stats.breakdown import Breakdown
from inngest_agents.stats.records import StepRecord
from inngest_agents.stats.stats import RunStats

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.trace import SpanContext

SCOPE: Final = "inngest_agents"
_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$")
_NANO: Final = 1_000_000_000
# Where the conventions have another name than LiteLLM.
_PROVIDERS: Final = {
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "bedrock_converse": "aws.bedrock",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}


@dataclass(frozen=True, slots=True)
class SpanRun:
    """What the spans have to know about the run."""

    run_id: str
    agent: str = ""
    """The starting agent."""
    traceparent: str = ""
    """The W3C header of Inngest's trace of the run; its span is the parent. "" starts a trace of its own."""
    conversation_id: str = ""
    error: str = ""
    """The type of the error with which the run failed."""
    engine_run_id: str = ""
    """The engine's id of the run, where `run_id` says more than that (which of its durable runs)."""
    engine_attributes: Mapping[str, str] = field(default_factory=dict)
    """What Inngest's own endpoint for spans wants to find in each, so that the dashboard can show them."""

    @property
    def attributes(self) -> dict[str, str]:
        """What every span says of the run."""
        return {"inngest.run.id": self.engine_run_id or self.run_id, **self.engine_attributes}


def global_provider() -> TracerProvider | None:
    """The tracer provider that the process has set up; None if it is none of the SDK, which alone takes spans."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    provider = trace.get_tracer_provider()
    return provider if isinstance(provider, TracerProvider) else None


def export_spans(records: Iterable[StepRecord], run: SpanRun, tracer_provider: TracerProvider | None = None) -> int:
    """Hand the spans of a run to the span processors of a tracer provider.

    Args:
        records: of the run's steps.
        run: facts of the run.
        tracer_provider: the global one by default.

    Returns:
        How many spans were handed over: 0 where OpenTelemetry is not installed or not set up, or where the caller's
        trace is not sampled.
    """
    try:
        provider = global_provider() if tracer_provider is None else tracer_provider
    except ImportError:
        return 0
    if provider is None:
        return 0
    from opentelemetry.sdk.trace import Tracer

    tracer = provider.get_tracer(SCOPE)
    if not isinstance(tracer, Tracer):
        return 0  # OTEL_SDK_DISABLED
    spans = build_spans(records, run, provider)
    for span in spans:
        tracer.span_processor.on_end(span)  # `start_span` would give each a new id
    return len(spans)


def build_spans(records: Iterable[StepRecord], run: SpanRun, provider: TracerProvider) -> list[ReadableSpan]:
    """Make the spans of a run, parents first. Needs OpenTelemetry.

    The run's starting agent has a span over everything, each nested agent one below it, and each step one below its
    agent's.
    """
    ordered = list(_with_times(sorted(records, key=lambda record: (record.order, record.step_id))))
    parent = _parent(run.traceparent)
    trace_id = parent.trace_id if parent else _number(16, "trace", run.engine_run_id or run.run_id)
    if not ordered or not _is_sampled(provider, parent, trace_id):
        return []
    maker = _Maker(run, provider, parent, trace_id)
    groups: dict[tuple[str, ...], list[StepRecord]] = {(): ordered}
    for record in ordered:
        for depth in range(2, len(record.path) + 1):
            groups.setdefault(record.path[:depth], []).append(record)
    for path in sorted(groups, key=len):
        maker.agent(path, groups[path])
    for record in ordered:
        maker.step(record)
    return maker.spans


def _with_times(records: Sequence[StepRecord]) -> Iterator[StepRecord]:
    """Records in their order, those without a time of their own at the end of what the run had done before them.

    The engine keeps no times of a step that has failed for good: its span, and those around it, would begin in 1970.
    """
    now = min((record.started_at for record in records if record.started_at), default=time.time())
    for record in records:
        if not record.started_at:
            yield replace(record, started_at=now)
            continue
        now = max(now, record.ended_at)
        yield record


class _Maker:
    def __init__(self, run: SpanRun, provider: TracerProvider, parent: SpanContext | None, trace_id: int) -> None:
        self.spans: list[ReadableSpan] = []
        self._run, self._provider, self._parent = run, provider, parent
        self._trace_id = trace_id
        self._agents: dict[tuple[str, ...], SpanContext] = {}

    def agent(self, path: tuple[str, ...], records: Sequence[StepRecord]) -> None:
        """The span of an agent: of the whole run for an empty path."""
        own = [record.agent for record in records if len(record.path) == max(len(path), 1) and record.agent]
        name = (self._run.agent if not path else "") or next(iter(own), path[-1].split("#")[0] if path else "agent")
        stats = RunStats.from_records(records)
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.name": name,
            "gen_ai.conversation.id": self._run.conversation_id,
            "gen_ai.provider.name": next(filter(None, map(_provider_of, records)), ""),
            "error.type": self._run.error if not path else "",
            **_usage(stats.total),
        }
        self._agents[path] = self._add(
            f"invoke_agent {name}",
            ("agent", *path),
            self._agents[self._above(path[:-1])] if path else self._parent,
            min(record.started_at for record in records),
            max(record.ended_at for record in records),
            attributes,
        )

    def step(self, record: StepRecord) -> None:
        """The span of one step."""
        if record.kind == "agent_tool":
            return  # its agent has a span already
        total = Breakdown()
        for usage in record.usages:
            total.add_usage(usage)
        attributes: dict[str, Any] = {
            "gen_ai.agent.name": record.agent,
            "inngest_agents.step.id": record.step_id,
            "inngest_agents.step.kind": record.kind,
            "inngest_agents.step.attempts": record.attempts,
            "error.type": record.error.type if record.error else "",
            **(_usage(total) if record.usages else {}),
        }
        name = record.name or record.kind
        kind = "INTERNAL"
        if record.kind == "model":
            kind = "CLIENT"
            name = f"chat {self._chat(record, attributes)}"
        elif record.is_tool_call:
            attributes |= {
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": name,
                "gen_ai.tool.call.id": record.call_id,
                "gen_ai.tool.type": "extension" if record.kind == "mcp" else "function",
            }
            name = f"execute_tool {name}"
        else:
            name = f"{record.kind} {record.name}".strip()
        parent = self._agents[self._above(record.path)]
        message = record.error.message if record.error else ""
        self._add(name, ("step", record.step_id), parent, record.started_at, record.ended_at, attributes, kind, message)

    @staticmethod
    def _chat(record: StepRecord, attributes: dict[str, Any]) -> str:
        usage = record.usage
        requested = (usage.requested_model if usage else "") or record.name or (usage.model if usage else "")
        attributes |= {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": requested,
            "gen_ai.response.id": record.response_id,
            "gen_ai.response.finish_reasons": record.finish_reasons,
        }
        if usage is not None:
            attributes |= {
                "gen_ai.provider.name": _provider_of(record),
                "gen_ai.response.model": usage.model,
                "inngest_agents.usage.estimated": usage.estimated,
            }
        return requested or "model"

    def _above(self, path: tuple[str, ...]) -> tuple[str, ...]:
        """The agent's span to which a path belongs; the outermost agent's is that of the run."""
        return path if len(path) > 1 else ()

    def _add(
        self,
        name: str,
        identity: tuple[str, ...],
        parent: SpanContext | None,
        start: float,
        end: float,
        attributes: dict[str, Any],
        kind: str = "INTERNAL",
        message: str = "",
    ) -> SpanContext:
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

        context = SpanContext(
            self._trace_id,
            _number(8, self._run.run_id, *identity),
            is_remote=False,
            trace_flags=TraceFlags(TraceFlags.SAMPLED),
        )
        failed = bool(attributes.get("error.type"))
        attributes = self._run.attributes | attributes
        span = ReadableSpan(
            name=name,
            context=context,
            parent=parent,
            resource=self._provider.resource,
            attributes={key: value for key, value in attributes.items() if value not in ("", (), None)},
            kind=SpanKind[kind],
            instrumentation_scope=InstrumentationScope(SCOPE),
            status=Status(StatusCode.ERROR, message or None) if failed else Status(StatusCode.UNSET),
            start_time=round(start * _NANO),
            end_time=round(end * _NANO),
        )
        self.spans.append(span)
        return context


def _usage(total: Breakdown) -> dict[str, Any]:
    cost = total.cost_usd if total.priced or total.unpriced else None
    return {
        "gen_ai.usage.input_tokens": total.input_tokens,
        "gen_ai.usage.output_tokens": total.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": total.cached_tokens,
        "gen_ai.usage.cache_creation.input_tokens": total.cache_write_tokens,
        "gen_ai.usage.reasoning.output_tokens": total.reasoning_tokens,
        "inngest_agents.usage.cost_usd": cost,
        "inngest_agents.usage.cost_complete": total.cost_complete if cost is not None else None,
    }


def _provider_of(record: StepRecord) -> str:
    provider = record.usage.provider if record.usage else ""
    return _PROVIDERS.get(provider, provider)


def _is_sampled(provider: TracerProvider, parent: SpanContext | None, trace_id: int) -> bool:
    """What the provider's sampler says: by default what whoever started the trace has decided."""
    from opentelemetry.sdk.trace.sampling import Decision
    from opentelemetry.trace import NonRecordingSpan, set_span_in_context

    above = set_span_in_context(NonRecordingSpan(parent)) if parent is not None else None
    decision = provider.sampler.should_sample(above, trace_id, "invoke_agent").decision
    return decision is Decision.RECORD_AND_SAMPLE


def _number(size: int, *parts: str) -> int:
    """An id of `size` bytes that is always the same for the same parts, and never 0 (which is no valid id)."""
    text = "\x00".join(parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:size], "big") or 1


def _parent(traceparent: str) -> SpanContext | None:
    """Read a W3C `traceparent`; None for one that is not valid, as the recommendation asks for."""
    from opentelemetry.trace import SpanContext, TraceFlags

    match = _TRACEPARENT.match(traceparent.strip().lower())
    if match is None or match[1] == "ff":
        return None
    context = SpanContext(
        int(match[2], 16), int(match[3], 16), is_remote=True, trace_flags=TraceFlags(int(match[4], 16))
    )
    return context if context.is_valid else None
