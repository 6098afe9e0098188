"""The steps of one durable run: who asked for what, under which id.

The SDK's loop, instrumented at its seams, runs in an inner task. Each seam asks the journal for a step; the driver
answers. How a seam finds the journal is in `inngest_agents.scope`.

Ids must be the same on every replay and differ between concurrent steps. So they are built from the path of the run
(the tool call that started a nested run), the name of the agent, what is done, and the turn (and the place in the
turn) where it is done; the order of the calls plays no part wherever calls can be concurrent.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from inngest_agents import divergence
from inngest_agents._inngest_sdk import hash_step_id
from inngest_agents.errors import StoredVersionError
from inngest_agents.memos.memo_head import SCHEMA_VERSION, version_of
from inngest_agents.request.step_ids import planned_id, run_tag
from inngest_agents.scope import current_scope

if TYPE_CHECKING:
    from inngest_agents.budget import BudgetLedger
    from inngest_agents.instrument.tracing import SpanLedger
    from inngest_agents.options import DurableOptions
    from inngest_agents.request.driver import Driver
    from inngest_agents.request.step_request import StepRequest, StepScope
    from inngest_agents.sinks import SinkPump
    from inngest_agents.stats.records import StepRecord
    from inngest_agents.stats.stats import RunFacts, RunStats

SUMMARY: Final = "run_stats"
"""The label of the step that shows the statistics."""

SPANS: Final = "spans"
"""The label of the step that exports the spans of a run without such a summary."""


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
        self.identities: dict[tuple[Any, ...], Any] = {}
        """Those of the function calls; see `instrument.invocations`."""
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

        final_agent = getattr(getattr(result, "last_agent", None), "name", starting_agent)
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
            await self.driver.until_driven(request.step_id)
            if spans is not None:
                spans.before_step(is_new=False)
                spans.restore_times(memo)
            return self._noted(memo, request)
        if not self._is_placed:
            await self._find_place()
        request.context = context = contextvars.copy_context()
        if spans is not None:
            _store_times(request, spans)

            def tell(is_new: bool) -> None:
                context.run(spans.before_step, is_new=is_new)

            self.driver.lead_up_to(request, tell)
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
            memo = self.driver.engine.take_memo(*self.hashed_ids(step_id))
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
