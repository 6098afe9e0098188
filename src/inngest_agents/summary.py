"""What a durable run leaves when it has ended: its statistics in the dashboard, and its spans for OpenTelemetry.

Both are made once, in a step: a replay finds that step's memo, so nothing is shown or exported again. A run that ends
well has the step `run_stats` for both. One that fails, or has no such step, has a step `spans` of its own, and only
where spans are wanted.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from inngest_agents.errors import is_lasting, qualified_name
from inngest_agents.instrument._steps import run_step
from inngest_agents.journal import SPANS, SUMMARY, Journal
from inngest_agents.request.process_end import in_thread
from inngest_agents.request.step_request import StepScope
from inngest_agents.scope import Scope, inside_journal
from inngest_agents.stats.stats import RunStats

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

logger = logging.getLogger("inngest_agents")


async def summarize(journal: Journal, starting_agent: str, result: Any) -> None:
    """Show and export what a run used that has ended with a result."""
    provider = _tracer_provider(journal)

    async def show(_: StepScope) -> dict[str, Any]:
        stats = journal.stats(starting_agent, result)
        await _export(journal, provider, stats, starting_agent)
        return _for_people(stats.to_dict(timeline=False))

    async def export_only(_: StepScope) -> None:
        await _export(journal, provider, journal.stats(starting_agent, result), starting_agent)

    if journal.options.stats_step:
        await _step(journal, SUMMARY, show)
        journal.forget(SPANS)
    elif provider is not None:
        journal.forget(SUMMARY)
        await _step(journal, SPANS, export_only)
    else:
        journal.forget(SUMMARY, SPANS)


async def report_failure(journal: Journal, starting_agent: str, error: Exception) -> None:
    """Export what a run used that has failed for good; one that the engine retries may end well yet."""
    journal.take_abandoned(journal.name)
    provider = _tracer_provider(journal)
    if provider is None or not is_lasting(error):
        return

    async def export_only(_: StepScope) -> None:
        stats = RunStats.from_records(journal.records())
        await _export(journal, provider, stats, starting_agent, error=qualified_name(error))

    await _step(journal, SPANS, export_only)


async def _step(journal: Journal, label: str, call: Callable[[StepScope], Awaitable[Any]]) -> None:
    with inside_journal(journal, Scope(path="", names=())):
        # Plain JSON for people, as it is: nobody asks for it back.
        await run_step(journal, label, "other", call, name=label, encode=_itself, decode=_itself)


def _itself(value: Any) -> Any:
    return value


def _tracer_provider(journal: Journal) -> TracerProvider | None:
    """Where the spans go; None where the user has set up no OpenTelemetry, or wants none from here."""
    chosen = journal.options.otel
    if chosen is False:
        return None
    if chosen is not True:
        return chosen
    if "opentelemetry.sdk.trace" not in sys.modules:
        return None  # nobody can have set up a provider of it, so there is nothing to import either
    from inngest_agents.stats.otel import global_provider

    return global_provider()


async def _export(
    journal: Journal, provider: TracerProvider | None, stats: RunStats, starting_agent: str, *, error: str = ""
) -> None:
    if provider is None:
        return
    from inngest_agents.stats.otel import SpanRun, export_spans

    engine = journal.driver.engine
    run = SpanRun(
        f"{journal.run_id}/{journal.name}",
        starting_agent,
        traceparent=engine.traceparent,
        error=error,
        engine_run_id=journal.run_id,
        engine_attributes=engine.trace_attributes,
    )
    try:
        # In a thread, as exporters may send what they get at once.
        await in_thread(lambda: export_spans(stats.timeline, run, provider))
    except Exception:
        logger.warning("run %s: its spans could not be exported", journal.run_id, exc_info=True)


def _for_people(stats: dict[str, Any]) -> dict[str, Any]:
    """Statistics whose parts show only what they have: easier to read in a dashboard, and a third of the size.

    Where one agent did all, the sums by agent and by path are the total once more, and are left out; so is what of the
    total stands beside it.
    """
    again = {name for name in ("by_agent", "by_path") if list(stats[name].values()) == [stats["total"]]}
    total = {name: value for name, value in stats["total"].items() if not {name, f"total_{name}"} & stats.keys()}
    kept = ((name, part) for name, part in {**stats, "total": total}.items() if name not in again)
    return {name: _used(part) if isinstance(part, dict) else part for name, part in kept}


def _used(part: dict[str, Any]) -> dict[str, Any]:
    items = ((name, _used(value) if isinstance(value, dict) else value) for name, value in part.items())
    return {name: value for name, value in items if value not in (0, "0", None)}
