"""The steps of one durable run: who asked for what, under which id.

The SDK's loop, instrumented at its seams, runs in an inner task. Each seam asks the journal for a step; the driver
answers. The journal is found through a ContextVar, so that a nested run (an agent as a tool) finds its parent's, and
code inside a step finds none: there, a plain `Runner.run` stays plain, and the `StepScope` records what it used.

Ids must be the same on every replay and differ between concurrent steps. So they are built from the path of the run
(the tool call that started a nested run), the name of the agent, what is done, and the turn (and the place in the
turn) where it is done; the order of the calls plays no part wherever calls can be concurrent.
"""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from inngest_agents import divergence
from inngest_agents._inngest_sdk import hash_step_id
from inngest_agents.errors import StoredVersionError
from inngest_agents.memo_head import SCHEMA_VERSION, version_of
from inngest_agents.resources import restore_resources, use_resources
from inngest_agents.step_ids import planned_id, run_tag

if TYPE_CHECKING:
    from inngest_agents.budget import BudgetLedger, Reservation
    from inngest_agents.decisions import Decision
    from inngest_agents.driver import Driver
    from inngest_agents.instrument.model import DurableModel
    from inngest_agents.instrument.sandbox_session import DurableSandbox
    from inngest_agents.instrument.tracing import SpanLedger
    from inngest_agents.options import DurableOptions
    from inngest_agents.sinks import SinkPump
    from inngest_agents.stats.records import StepRecord, UsageRecord
    from inngest_agents.stats.stats import RunFacts, RunStats

SUMMARY: Final = "run_stats"
"""The label of the step that shows the statistics."""

SPANS: Final = "spans"
"""The label of the step that exports the spans of a run without such a summary."""


@dataclasses.dataclass(slots=True)
class StepScope:
    """What code inside a running step leaves for the step's record: where it runs, and the usage of plain runs."""

    step_id: str
    idempotency_key: str
    attempt: int
    estimates: bool = True
    """Whether tokens are counted here where a provider of a plain run gives none."""
    nested_usage: list[UsageRecord] = dataclasses.field(default_factory=list)
    added_usage: list[tuple[Any, Any]] = dataclasses.field(default_factory=list)
    """What was added to which `Usage` of the SDK."""
    decisions: list[Decision] = dataclasses.field(default_factory=list)
    """The approvals and rejections of tool calls that were made."""
    maybe_repeated: bool = False
    """Whether an earlier attempt may have been cut off in mid-work: only the first new steps of a request can."""
    record: StepRecord | None = None
    """The step's record, once the work is done: see `StepRequest.record`."""


@dataclasses.dataclass(slots=True)
class BilledAttempt:
    """A step of its own that keeps what a failed attempt of another one was billed."""

    step_id: str
    hashed_id: str
    stored: dict[str, Any]
    metadata: list[dict[str, Any]]


@dataclasses.dataclass(slots=True)
class StepRequest:
    """One step, asked for by a seam and answered by the driver."""

    step_id: str
    hashed_id: str
    planned_id: str
    """The hashed id that it has where it is planned; see `inngest_agents.step_ids`."""
    about: dict[str, Any]
    """The fields of the step's record that are known before it runs."""
    run: Callable[[StepScope], Awaitable[dict[str, Any]]]
    """Does the work and gives the JSON object to be stored."""
    after_save: bool
    """Whether all finished steps must be saved before this one starts: a tool may only start once the response that
    ordered it is safe; a model call may start while the tool's result is still being saved."""
    max_attempts: int | None = None
    is_final: Callable[[Exception], bool] | None = None
    """Whether an error can never go better, so that the step fails at once."""
    retry_after: Callable[[Exception], float | None] | None = None
    """The seconds after which the provider wants to be asked again, if it said so."""
    opts: dict[str, Any] | None = None
    """The opcode's options; `input` shows in the dashboard and is not part of the run's state."""
    metadata: Callable[[dict[str, Any]], list[dict[str, Any]] | None] | None = None
    """The dashboard's metadata, made from the stored JSON object."""
    billed: Callable[[StepScope, BaseException], Awaitable[BilledAttempt | None]] | None = None
    """What an attempt that has failed was billed; None if nothing, or if it is not known."""
    context: contextvars.Context | None = None
    span_times: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """When the spans around the step began, for an error, which has no record: to be stored, or as it was stored."""
    record: StepRecord | None = None
    """The step's record, if it has run on this pass: it need not be read from what was stored then. `run` leaves it in
    the step's scope: if it knew its request, only the garbage collector would free a finished step."""


@dataclasses.dataclass(slots=True)
class Scope:
    """One loop of the SDK: the run itself, or a nested one. Its turns are in order, so they can be counted."""

    path: str
    """The beginning of the ids of its steps; "" for the outermost run."""
    names: tuple[str, ...]
    """The same for people and statistics: the agents and tool calls on the way, outermost first."""
    turn: int = 0
    agent_name: str = ""
    places: dict[str, str] = dataclasses.field(default_factory=dict)
    """Where in its turn each tool call was ordered: call id to "turn.place"."""
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    held: dict[str, Reservation] = dataclasses.field(default_factory=dict)
    """What each tool call that was ordered holds of the budget, by its call id."""
    models: dict[int, DurableModel] = dataclasses.field(default_factory=dict)
    """The durable forms of the models that it has asked, by the id of the model."""
    prepared: Any = None
    """What the user's functions said for the turn under way; see `instrument.dynamic`."""
    run_config: Any = None
    """The loop's `RunConfig`, once it has called a model."""
    show_event: Callable[[Any], None] = lambda _: None
    """Gives an event to the consumer of a streamed loop."""
    blocked_message: str | None = None
    """What stands in place of an output that a guardrail has blocked; see `instrument.guardrails`."""
    sandboxes: list[DurableSandbox] = dataclasses.field(default_factory=list)
    """What steps in which code of the user runs find ready; see `instrument.sandbox`."""
    previous: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The last value of each of them, so that an equal one is stored as a marker only."""

    def repeated(self, label: str) -> str:
        """A label that may come several times in this scope, one after the other: "x", "x:1", "x:2", …"""
        count = self.counts.get(label, 0)
        self.counts[label] = count + 1
        return label if count == 0 else f"{label}:{count}"


_journal: contextvars.ContextVar[Journal | None] = contextvars.ContextVar("inngest_agents_journal", default=None)
_scope: contextvars.ContextVar[Scope | None] = contextvars.ContextVar("inngest_agents_scope", default=None)
_step_scope: contextvars.ContextVar[StepScope | None] = contextvars.ContextVar("inngest_agents_step", default=None)
_nested_label: contextvars.ContextVar[str | None] = contextvars.ContextVar("inngest_agents_label", default=None)


Finished: TypeAlias = "StepRecord | tuple[dict[str, Any], dict[str, Any] | None]"
"""A step that has finished: its record, or its memo with what its asker knows of it."""


def _read(finished: Iterable[Finished]) -> list[StepRecord]:
    from inngest_agents.stats.memo import unpack

    return [unpack(*step) if isinstance(step, tuple) else step for step in finished]


class Journal:
    """The steps of one durable run."""

    def __init__(self, driver: Driver, options: DurableOptions, *, name: str, run_id: str, driven: bool = True) -> None:
        self.driver = driver
        self.is_driven = driven
        self.options = options
        self.name = name
        self.tag = run_tag(name)
        self.run_id = run_id
        self._finished: list[Finished] = []
        """The steps that have finished on this pass: a record, or a memo with what its asker knows of it. Memos are
        read when somebody wants the statistics, which a replay that goes on with the next step does not. Until then
        they are kept without the answer, which the SDK's loop has as objects of its own."""
        self._stats: tuple[Any, RunStats] | None = None
        """The last statistics, with what they were made of: the summary and the result show the same."""
        self.ledger: BudgetLedger | None = None
        """The account of the budget, if there is one; nested and parallel calls share it."""
        if options.budget is not None:
            from inngest_agents.budget import BudgetLedger

            self.ledger = BudgetLedger(options.budget, prices=options.prices)
        self.sink: SinkPump | None = None
        """Takes the events of a streamed run."""
        self.spans: SpanLedger | None = None
        """What the trace's processors were told; None until the SDK's loop makes a span."""
        self.handoffs = 0
        """Handoffs of all loops that have ended on this pass."""
        self.has_begun = False
        """Whether the loop of a streamed run has begun: cancelled before that, it does not tell its consumer."""
        self.last_steps: list[Callable[[Exception | None], Awaitable[Any]]] = []
        """What is still to be done when the loop of a streamed run has ended, given its error; each asks for a step."""
        self.finish_cancelled: Callable[[], Awaitable[None]] | None = None
        """Writes what a loop has added to its session, where the user has cancelled it."""
        self._order = 0
        self._is_placed = not driven or driver.plan_only
        """Whether the run is known to be the one that earlier requests have begun here, if there were any."""
        self._placing = asyncio.Lock()
        self.agents: list[Any] = []
        """The agents that loops have started with or that have had a turn, in that order."""

    def next_order(self) -> int:
        """The place of a step in the order in which the run asks."""
        self._order += 1
        return self._order

    def note_agent(self, agent: Any) -> None:
        """A loop starts with an agent, or it has its turn."""
        if all(known is not agent for known in self.agents):
            self.agents.append(agent)

    def stats(self, starting_agent: str, result: Any) -> RunStats:
        """The statistics of the run so far: a pure aggregation."""
        from inngest_agents.stats.stats import RunStats

        facts = self._facts(starting_agent, result)
        if self._stats is None or self._stats[0] != (len(self._finished), facts):
            self._stats = (len(self._finished), facts), RunStats.from_records(self.records(), facts)
        return self._stats[1]

    def stats_later(self, starting_agent: str, result: Any) -> Callable[[], RunStats]:
        """The same, made when it is called: what it is made of is kept, and nothing else of the run."""
        from inngest_agents.stats.stats import RunStats

        facts, finished = self._facts(starting_agent, result), tuple(self._finished)
        if self._stats is not None and self._stats[0] == (len(finished), facts):
            made = self._stats[1]
            return lambda: made
        return lambda: RunStats.from_records(_read(finished), facts)

    def _facts(self, starting_agent: str, result: Any) -> RunFacts:
        from inngest_agents.stats.stats import RunFacts

        final_agent = getattr(result.last_agent, "name", starting_agent)
        return RunFacts(starting_agent=starting_agent, final_agent=final_agent, handoffs=self.handoffs)

    def records(self) -> list[StepRecord]:
        """The records of the steps that have finished on this pass."""
        records = _read(self._finished)
        self._finished = list(records)
        return records

    def take_records(self) -> list[StepRecord]:
        """The same, and forget them: what comes next is of another plain run (see `inngest_agents.steps`)."""
        records = self.records()
        self._finished.clear()
        return records

    async def step(self, request: StepRequest) -> dict[str, Any]:
        """The stored JSON object of a step: from its memo, or by running it.

        Raises:
            StoredVersionError: the memo is of a newer version, or of other code.
            DivergenceError: earlier requests have begun another run in the place of this one.
            Exception: the error of a step that failed for good, with its original type where that is known.
        """
        spans = self.spans
        try:
            memo = self.driver.memo(request)
        except (Exception, asyncio.CancelledError) as error:
            self._is_placed = True
            if isinstance(error, asyncio.CancelledError):
                await self.driver.let_others_ask()
            if spans is not None:
                spans.before_step(is_new=False)
                spans.restore_starts(request.span_times)
            raise
        if memo is not None:
            self._is_placed = True
            _check_version(memo)
            if spans is not None:
                spans.before_step(is_new=False)
                spans.restore_times(memo)
            return self._noted(memo, request)
        if not self._is_placed:
            await self._find_place()
        if spans is not None:
            spans.before_step(is_new=self.driver.asks_for_news)
            _store_times(request, spans)
        request.context = contextvars.copy_context()
        ask = self.driver.ask if self.is_driven else self.driver.ask_undriven
        return self._noted(await ask(request), request)

    async def _find_place(self) -> None:
        """Wait until it is known that the run is in its place; a group of plans waits for nothing.

        Raises:
            DivergenceError: it is in the place of another one.
        """
        async with self._placing:
            if self._is_placed:
                return
            diverged = await divergence.replaced(self)
            if diverged is not None:
                raise diverged
            self._is_placed = True

    def _noted(self, payload: dict[str, Any], request: StepRequest) -> dict[str, Any]:
        if request.record is None:
            self._add_memo(payload, request.step_id, request.about)
        elif not self._ends_run(request.step_id):
            self.add_record(request.record)
        return payload

    def finish(self) -> None:
        """The run has ended, with a result or an error; the request goes on."""
        if self.spans is not None:
            self.spans.finish(is_new=self.driver.makes_news)

    async def fail(self, error: Exception) -> None:
        """End the run with an error that the SDK must not see; comes back only where no loop of the SDK is around."""
        if self.is_driven:
            self.driver.fail(error)
            await asyncio.get_running_loop().create_future()  # until the driver cancels the loop

    def forget(self, *labels: str) -> None:
        """Do not miss such steps of the run itself: an earlier request had other options, and asked for them."""
        for label in labels:
            self.driver.engine.take_memo(*self.hashed_ids(f"{self.name}/{label}"))

    def add_record(self, record: StepRecord) -> None:
        """Note what a step used that has no memo."""
        self._finished.append(record)
        if self.ledger is not None:
            self.ledger.add(record)

    def _add_memo(self, memo: dict[str, Any], step_id: str, about: dict[str, Any] | None) -> None:
        """Note what a step used that has a memo; what ends a run counts for nothing itself."""
        if self._ends_run(step_id):
            return
        if self.ledger is None:
            from inngest_agents.stats.memo import without_answer

            self._finished.append((without_answer(memo), about))
        else:
            from inngest_agents.stats.memo import unpack

            self.add_record(unpack(memo, about))

    def _ends_run(self, step_id: str) -> bool:
        return step_id in (f"{self.name}/{SUMMARY}", f"{self.name}/{SPANS}")

    def take_abandoned(self, path: str) -> None:
        """Count the remembered steps of a run that has failed or was given up, and will not ask for them.

        One that ran beside the step which failed the run is there on a replay, where that one fails it at once.
        """
        for step_id, stored in self.unused(f"{path}/"):
            if not self._ends_run(step_id):
                self.driver.engine.take_memo(*self.hashed_ids(step_id))
                self._add_memo(stored, step_id, None)

    def unused(self, prefix: str) -> list[tuple[str, dict[str, Any]]]:
        """The ids and memos of the remembered steps whose id begins so and that nobody has asked for."""
        from inngest_agents.stats.memo import step_id_of

        return self.driver.engine.unused(prefix, step_id_of)

    def take_attempts(self, label: str, about: dict[str, Any]) -> int:
        """Count what failed attempts of a step were billed, and give their number.

        Raises:
            StoredVersionError: a memo of one is of a newer version, or of other code.
        """
        count = 0
        while True:
            step_id = self.step_id(attempt_label(label, count + 1))
            memo = self.driver.engine.take_memo(hash_step_id(step_id))
            if memo is None:
                return count
            _check_version(memo.value)
            self._add_memo(memo.value, step_id, about)
            count += 1

    def is_done(self, label: str) -> bool:
        """Whether the step of this label in the current scope has a memo that was not asked for yet."""
        return self.driver.engine.has_memo(*self.hashed_ids(self.step_id(label)))

    def hashed_ids(self, step_id: str) -> tuple[str, str]:
        """The ids of a step for the engine: where it runs at once, and where it is planned."""
        hashed_id = hash_step_id(step_id)
        return hashed_id, planned_id(self.tag, hashed_id)

    def step_id(self, label: str) -> str:
        """The full id of a step in the current scope."""
        scope = current_scope()
        base = scope.path or self.name
        return f"{base}/{label}" if base else label


def _check_version(memo: Any) -> None:
    """Look at the version before anything else of a memo is read: a newer one may mean something else by any field."""
    version = version_of(memo)
    if version is None or version > SCHEMA_VERSION:
        raise StoredVersionError(version, SCHEMA_VERSION)


def attempt_label(label: str, number: int) -> str:
    """The label of the step that keeps what the k-th billed attempt of another one had used before it failed."""
    return f"{label} failed attempt {number}"


def _store_times(request: StepRequest, spans: SpanLedger) -> None:
    """Store when the spans around a step started; see `instrument.tracing`."""
    times = spans.times_to_store()
    if not times:
        return
    run, request.span_times = request.run, times

    async def run_and_add(scope: StepScope) -> dict[str, Any]:
        memo = await run(scope)
        return {**memo, "spans": spans.as_stored(times, memo)}

    request.run = run_and_add


def current_journal() -> Journal | None:
    """The journal of the durable run around the caller; None outside of one and inside a step."""
    return _journal.get()


def current_scope() -> Scope:
    """The loop of the SDK around the caller.

    Raises:
        LookupError: there is none (this cannot happen below a seam).
    """
    scope = _scope.get()
    if scope is None:
        raise LookupError("no durable run is under way here")
    return scope


def is_in_loop() -> bool:
    """Whether a loop of the SDK is around the caller; a streamed run is checked and set up outside of one."""
    return _scope.get() is not None


def current_step() -> StepScope | None:
    """The step that runs the caller; None outside of one."""
    return _step_scope.get()


def idempotency_key() -> str:
    """The key of the running step, the same on every retry of it: give it to services that take one.

    Outside of a durable step the key is new on each call, as nothing will be retried under it.
    """
    scope = _step_scope.get()
    if scope is not None:
        return scope.idempotency_key
    import uuid

    return str(uuid.uuid4())


@contextmanager
def inside_run(journal: Journal) -> Iterator[None]:
    """Make `journal` the one that the seams find."""
    token, resources_token = _journal.set(journal), use_resources(journal.driver.resources)
    try:
        yield
    finally:
        _journal.reset(token)
        restore_resources(resources_token)


@contextmanager
def outermost_scope() -> Iterator[None]:
    """Ask for a step of the run itself, whichever of its loops needs it."""
    token = _scope.set(Scope(path="", names=()))
    try:
        yield
    finally:
        _scope.reset(token)


@contextmanager
def inside_journal(journal: Journal, scope: Scope) -> Iterator[None]:
    """Make `journal` and `scope` the current ones, for one step outside of a loop."""
    token, scope_token = _journal.set(journal), _scope.set(scope)
    try:
        yield
    finally:
        _journal.reset(token)
        _scope.reset(scope_token)


@contextmanager
def inside_scope() -> Iterator[Scope]:
    """Open the scope of a loop: the outermost one, or that of a nested run under the current tool call."""
    journal = _journal.get()
    assert journal is not None
    parent = _scope.get()
    if parent is None:
        scope = Scope(path="", names=())
    else:
        label = _nested_label.get() or parent.repeated(f"{parent.agent_name} nested run")
        base = parent.path or journal.name
        label = parent.repeated(label)
        scope = Scope(path=f"{base}/{label}", names=(*parent.names, parent.agent_name, label))
    token, label_token = _scope.set(scope), _nested_label.set(None)
    try:
        yield scope
    except Exception:
        if scope.path:
            journal.take_abandoned(scope.path)
        raise
    finally:
        if scope.path and not scope.sandboxes:  # a streamed loop closes these when it has ended
            journal.driver.leave_path(scope.path)
        _scope.reset(token)
        _nested_label.reset(label_token)


@contextmanager
def inside_call(label: str) -> Iterator[None]:
    """Put the steps of a tool call that is none itself under its label; for the statistics they are its agent's."""
    journal, parent = _journal.get(), current_scope()
    assert journal is not None
    path = f"{parent.path or journal.name}/{label}"
    token = _scope.set(Scope(path=path, names=parent.names, turn=parent.turn, agent_name=parent.agent_name))
    try:
        yield
    finally:
        _scope.reset(token)


@contextmanager
def nested_under(label: str) -> Iterator[None]:
    """Name the tool call under which a nested run starts."""
    token = _nested_label.set(label)
    try:
        yield
    finally:
        _nested_label.reset(token)


def nested_label() -> str | None:
    """The tool call under which the caller runs an agent; None anywhere else."""
    return _nested_label.get()


@contextmanager
def inside_step(scope: StepScope) -> Iterator[None]:
    """Make the current context that of a running step: no journal, but a scope that records."""
    token, journal_token, scope_token = _step_scope.set(scope), _journal.set(None), _scope.set(None)
    try:
        yield
    finally:
        _step_scope.reset(token)
        _journal.reset(journal_token)
        _scope.reset(scope_token)
