"""Tracing: one trace for a durable run, each span of it once, whatever number of requests the run takes.

Spans inside a step are made when the step runs, and only then: they are left alone. The spans around steps (the
trace, the agents, turns, tool calls, handoffs, guardrails) are made by the SDK's loop again on each replay. They get
ids derived from the run's id, so that a span is the same one on every pass, and its children inside steps hang on it.
What the processors are told of them is held back until a step shows whether it is new:

- A step that has a memo was asked for by an earlier request, which told of all that led to it.
- A step that is asked for the first time makes what led to it new: the starts of the spans around it, and whatever has
  ended below the innermost of them, or before it where they come one after the other (turns and agents; tool calls may
  be parallel).
- The end of the run makes the rest new.

So the start of a span is told by the request that first works inside it, and its end by the request that goes on from
there; a targeted request and a repeated attempt tell nothing of their own. The time of the start is stored with the
first step inside the span.

Limits: a trace that the user's function opens around the run itself is opened on each request; with an id of its own,
made of the run's, it is one trace all the same, and the spans below it come once. Providers that do not
build on `DefaultTraceProvider` get random ids and every pass. The start (not the end) of a tool call may be told again
where a parallel call ends the request before it: by failing, or, without checkpointing, in any way. In `group.parallel`
the end of a run without a last step of its own (it failed, or has `stats_step=False`) may be told again by each process
that the function goes on in. What a process was killed over is lost.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from agents.tracing import Span, Trace, TracingProcessor, get_current_span

from inngest_agents import _agents_sdk as sdk
from inngest_agents.journal import Journal
from inngest_agents.memos import memo_head
from inngest_agents.scope import current_journal

NO_OP_ID: Final = "no-op"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

SEQUENTIAL: Final = frozenset({"agent", "turn", "task"})
"""Types of spans of which one begins, below the same parent, only when the one before has ended."""

ENDS_LIMIT: Final = 1000
"""How many ends of runs are remembered."""

_told_ends: OrderedDict[str, None] = OrderedDict()
"""The runs whose end this process has told of, the last one last. What runs beside a run in `group.parallel` makes
further requests, and none of them can see in its memos whether an earlier one has come to that run's end."""


@sdk.around("agents.tracing.provider", "DefaultTraceProvider.create_trace", ("self", "name", "trace_id"))
def _create_trace(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    trace = original(*args, **kwargs)
    journal = current_journal()
    if journal is not None and journal.is_driven and trace.trace_id != NO_OP_ID:
        named = kwargs.get("trace_id", args[2] if len(args) > 2 else None)
        _ledger(journal).adopt_trace(trace, has_own_id=bool(named))
    return trace


@sdk.around("agents.tracing.provider", "DefaultTraceProvider.create_span", ("self", "span_data", "span_id"))
def _create_span(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    span = original(*args, **kwargs)
    journal = current_journal()
    if journal is not None and journal.is_driven and span.span_id != NO_OP_ID:
        named = kwargs.get("span_id", args[2] if len(args) > 2 else None)
        _ledger(journal).adopt_span(span, has_own_id=bool(named))
    return span


def _ledger(journal: Journal) -> SpanLedger:
    if journal.spans is None:
        journal.spans = SpanLedger(f"{journal.run_id}/{journal.name}")
    return journal.spans


class _Node:
    """A span, or the trace, of this pass."""

    __slots__ = (
        "children",
        "ended",
        "is_timed",
        "parent",
        "processor",
        "started",
        "subject",
        "untold_end",
        "untold_start",
    )

    def __init__(self, subject: Any, processor: TracingProcessor | None, parent: _Node | None) -> None:
        self.subject = subject
        self.processor = processor
        self.parent = parent
        self.children: list[_Node] = []
        self.started = self.ended = 0
        """When, in the order of all starts and ends; 0 for not yet."""
        self.untold_start = self.untold_end = False
        self.is_timed = False
        """Whether the time of its start is that of the first pass, or is being stored."""

    @property
    def type(self) -> str:
        return self.subject.span_data.type if isinstance(self.subject, Span) else ""

    def came_before(self, sibling: _Node | None) -> bool:
        """Whether this span, which has ended, ended before a sibling began, or (None) before a step of its parent.

        The order of this pass says little: what was parallel comes out of memos one after the other.
        """
        if sibling is None:
            return self.type != "guardrail"  # an input guardrail may run beside the model
        return sibling.type in SEQUENTIAL and self.ended < sibling.started


class SpanLedger:
    """The spans around the steps of one durable run, and what the processors were told of them.

    Args:
        key: makes the ids; the same on every pass, and another for each durable run.
    """

    def __init__(self, key: str) -> None:
        self._key = key
        self._root = _Node(None, None, None)
        self._nodes: dict[str, _Node] = {}
        self._counts: dict[str, int] = {}
        self._clock = itertools.count(1)

    def adopt_trace(self, trace: Trace, *, has_own_id: bool) -> None:
        """Give a trace its id, and hold back what its processors are told."""
        if not has_own_id:
            sdk.set_trace_id(trace, f"trace_{self._digest('trace')[:32]}")
        sdk.set_processor(trace, _HeldBack(self, sdk.processor_of(trace)))

    def adopt_span(self, span: Span[Any], *, has_own_id: bool) -> None:
        """Give a span its id, and hold back what its processors are told."""
        if not has_own_id:
            data = span.span_data
            label = f"{span.parent_id}/{data.type}/{getattr(data, 'name', '')}"
            sdk.set_span_id(span, f"span_{self._digest(label)[:24]}")
        sdk.set_processor(span, _HeldBack(self, sdk.processor_of(span)))

    def _digest(self, label: str) -> str:
        count = self._counts.get(label, 0)
        self._counts[label] = count + 1
        return hashlib.sha256(f"{self._key}/{label}/{count}".encode()).hexdigest()

    def start(self, subject: Any, processor: TracingProcessor) -> None:
        """A span or a trace starts."""
        if isinstance(subject, Trace):
            node = _Node(subject, processor, self._root)
            self._nodes[subject.trace_id] = node
        else:
            above = subject.parent_id or subject.trace_id
            node = _Node(subject, processor, self._nodes.get(above, self._root))
            self._nodes[subject.span_id] = node
        assert node.parent is not None
        node.parent.children.append(node)
        node.started = next(self._clock)
        node.untold_start = True

    def end(self, subject: Any) -> None:
        """A span or a trace ends. Where the request ends with it, no step follows, and nobody is told."""
        node = self._nodes.get(subject.trace_id if isinstance(subject, Trace) else subject.span_id)
        if node is not None and not node.ended:
            node.ended = next(self._clock)
            node.untold_end = True

    def before_step(self, *, is_new: bool) -> None:
        """A step is asked for: for the first time, or its memo was found."""
        innermost = self._current()
        told: list[_Node] = []
        below: _Node | None = None
        for node in _upwards(innermost):
            told.append(node)
            for child in list(node.children):
                if child.ended and child.came_before(below):
                    node.children.remove(child)
                    self._take(child, node, told)
            below = node
        self._tell(told, is_new=is_new)

    def finish(self, *, is_new: bool) -> None:
        """The run has ended, with a result or an error."""
        self._tell(list(_all_below(self._root)), is_new=is_new and _tells_end_first(self._key))
        # Spans and what is known of them hold each other, and each span leads here: only a collection would free them.
        for node in (self._root, *self._nodes.values()):
            node.children.clear()
            node.parent = None
        self._nodes.clear()

    def times_to_store(self) -> dict[str, str]:
        """The starts of the spans around the current step that no step has stored yet, by span id."""
        times: dict[str, str] = {}
        for node in _upwards(self._current()):
            if isinstance(node.subject, Span) and not node.is_timed and node.subject.started_at is not None:
                node.is_timed = True
                times[node.subject.span_id] = node.subject.started_at
        return times

    def as_stored(self, times: Mapping[str, str], memo: Mapping[str, Any]) -> dict[str, int]:
        """The starts in microseconds after the start of the step itself, by the end of the span's id."""
        began = _began(memo)
        return {_short(span_id): (datetime.fromisoformat(at) - began) // _MICROSECOND for span_id, at in times.items()}

    def restore_times(self, memo: Mapping[str, Any]) -> None:
        """Give the spans around the current step the starts that they had on the first pass."""
        times: Mapping[str, int | str] = memo.get("spans", {})
        if not times:
            return
        began = _began(memo)

        def start_of(span_id: str) -> str | None:
            started = times.get(_short(span_id), times.get(span_id))
            if started is None or isinstance(started, str):
                return started  # version 1 of the stored form had the text itself, under the whole id
            return (began + started * _MICROSECOND).isoformat()

        self._restore(start_of)

    def restore_starts(self, times: Mapping[str, str]) -> None:
        """The same for a step that has failed: its error has them as text, under the whole ids."""
        if times:
            self._restore(times.get)

    def _restore(self, start_of: Callable[[str], str | None]) -> None:
        for node in _upwards(self._current()):
            if isinstance(node.subject, Span) and (started := start_of(node.subject.span_id)) is not None:
                node.is_timed = True
                sdk.set_started_at(node.subject, started)

    def _take(self, node: _Node, heir: _Node, told: list[_Node]) -> None:
        """Take out a span that has ended, with all below it; what has not ended yet passes on to `heir`."""
        told.append(node)
        for child in node.children:
            if child.ended:
                self._take(child, heir, told)
            else:
                child.parent = heir
                heir.children.append(child)

    def _current(self) -> _Node:
        span = get_current_span()
        if span is not None and span.span_id in self._nodes:
            return self._nodes[span.span_id]
        traces = [node for node in self._root.children if isinstance(node.subject, Trace) and not node.ended]
        return traces[-1] if traces else self._root

    def _tell(self, nodes: list[_Node], *, is_new: bool) -> None:
        news: list[tuple[int, bool, _Node]] = []
        for node in nodes:
            if node.untold_start:
                node.untold_start = False
                news.append((node.started, True, node))
            if node.untold_end:
                node.untold_end = False
                news.append((node.ended, False, node))
        if not is_new:
            return
        for _, is_start, node in sorted(news, key=lambda item: item[0]):
            processor = node.processor
            assert processor is not None
            if isinstance(node.subject, Trace):
                (processor.on_trace_start if is_start else processor.on_trace_end)(node.subject)
            else:
                (processor.on_span_start if is_start else processor.on_span_end)(node.subject)


def _tells_end_first(key: str) -> bool:
    """Whether this process has not told of a run's end yet; from now on it has."""
    is_first = key not in _told_ends
    _told_ends[key] = None
    if len(_told_ends) > ENDS_LIMIT:
        _told_ends.popitem(last=False)
    return is_first


def _short(span_id: str) -> str:
    """Enough of an id to tell a span from those around it."""
    return span_id[-6:]


def _began(memo: Mapping[str, Any]) -> datetime:
    """When the step of a memo began."""
    head = memo_head.read(memo)
    assert head is not None
    return _EPOCH + round(head.started_at * 1_000_000) * _MICROSECOND


def _upwards(node: _Node | None) -> Iterator[_Node]:
    while node is not None:
        yield node
        node = node.parent


def _all_below(node: _Node) -> Iterator[_Node]:
    for child in node.children:
        yield child
        yield from _all_below(child)


class _HeldBack(TracingProcessor):
    """Stands in for the provider's processor at one span or trace."""

    def __init__(self, ledger: SpanLedger, processor: TracingProcessor) -> None:
        self._ledger = ledger
        self._processor = processor

    def on_trace_start(self, trace: Trace) -> None:
        self._ledger.start(trace, self._processor)

    def on_trace_end(self, trace: Trace) -> None:
        self._ledger.end(trace)

    def on_span_start(self, span: Span[Any]) -> None:
        self._ledger.start(span, self._processor)

    def on_span_end(self, span: Span[Any]) -> None:
        self._ledger.end(span)

    def shutdown(self) -> None:
        self._processor.shutdown()

    def force_flush(self) -> None:
        self._processor.force_flush()
