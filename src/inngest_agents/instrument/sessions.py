"""Sessions: what a run saw of the history stays the same on each replay, and what it adds is written once.

A run gets a stand-in for the user's session, which shares the session's class and state, so `isinstance` checks and
private methods of the SDK hold. Reading is a step. What is added is kept until the run (or a nested run with the same
session) ends, is interrupted or fails, and is then written in one step, by the same calls and in the same order as by
the plain Runner. Before anything else is asked of the session, it is written first, so nobody who asks through the run
sees a history that is behind. With `DurableOptions(session_writes="turn")` each addition is a step at once, for tools
that read the session by themselves in mid-run. So it is in a run that goes on from a `RunState`: there the SDK notes in
the state what a failed write has left undone, so it must learn of the failure where it asked for the write. And so are
the last additions of a run, with all before them: what the SDK does on a failure there (it redacts errors and notes the
run's data) belongs to the failed write.

Each addition has an id (its run's path and a number). The step of a write stores the ids that it wrote; so on a replay
they are known as written, even if concurrent nested runs come in another order.

A write that may have been cut off before (one of the first new steps of a request that is not the run's first) looks at
the end of the stored history first and adds only what is missing.

Compaction (`run_compaction` of compaction sessions) is a step of its own after the write. The SDK decides on it after
each turn, and where each turn is written, that is done then. Where the run is written as a whole, after a turn with
tool calls that is a judgement only: whether the compaction at the end of a run is forced. It is passed on the history
as it is then, so it is kept among what has been added and passed in the step of the write.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
import dataclasses
import functools
import inspect
import weakref
from collections.abc import Callable
from typing import Any, Final, cast

from agents import ModelResponse, Usage
from agents.exceptions import UserError

from inngest_agents import _agents_sdk as sdk
from inngest_agents.errors import is_memoized
from inngest_agents.instrument._stand_ins import stand_in
from inngest_agents.instrument._steps import run_step
from inngest_agents.journal import Journal
from inngest_agents.request.step_request import StepScope
from inngest_agents.scope import current_journal, current_scope
from inngest_agents.stats.answers import usage_from_response
from inngest_agents.stats.records import UsageRecord

_KNOWN_TAIL: Final = 20
"""How many items before a write are looked at to tell whether it has happened already."""


@dataclasses.dataclass(slots=True)
class _Addition:
    """One call of `add_items` that has not been written yet."""

    id: str
    items: list[Any]
    kwargs: dict[str, Any]


@dataclasses.dataclass(slots=True)
class _Judgement:
    """The SDK's question after a turn with tool calls whether the next compaction is forced."""

    id: str
    ask: Callable[[], Any]

    @property
    def failed_id(self) -> str:
        return f"{self.id} failed"


class _Store:
    """What one durable run knows of one session."""

    def __init__(self, session: Any, journal: Journal) -> None:
        self.session = session
        self._journal_ref = weakref.ref(journal)
        self.stand_in: Any = None
        self.pending: list[_Addition | _Judgement] = []
        self._forced: str | None = None
        """The response for which the next compaction is forced; the session keeps that in its memory only."""
        self.compactions: list[Callable[[], Any]] = []
        self.compaction_due = False
        self._compaction_wrapper: Any = None
        self._written: set[str] = set()
        self._ends_with: list[str] | None = None
        """Fingerprints of the last items of the history as far as this run knows them; None: it never read them."""
        self._is_whole = False
        """Whether those are all items."""
        self.writes_at_once = journal.options.session_writes == "turn"
        """Whether the user wants it so, or a run goes on from a `RunState`: the SDK keeps in it what a failed write has
        left undone, so it must see each write fail or succeed where it asks for it."""
        self.is_claiming = False
        """Whether the run reads the history for which its compaction is, later."""
        self._is_guarded = False
        """Whether this pass has read it, so that `_generation` is known."""
        self._generation: int | None = None
        """The session's count of changes, as far as they are the run's own; None after another's."""
        self._is_cut_off = False
        """Whether a write was begun and cancelled, so that the session may have some of it."""
        self._lock = asyncio.Lock()

    @property
    def journal(self) -> Journal:
        journal = self._journal_ref()
        assert journal is not None
        return journal

    async def get_items(self, *args: Any, **kwargs: Any) -> Any:
        """The history, as it was when this was asked for the first time."""
        async with self._lock:
            await self._flush()

            read = sdk.generation_reader(self.session) if self.is_claiming else None

            async def call(_: StepScope) -> Any:
                if read is None:
                    return await _awaited(self.session.get_items(*args, **kwargs))
                items, self._generation = await read(lambda: self.session.get_items(*args, **kwargs))
                self._is_guarded = True
                return items

            items = await self._step("session read", call, kwargs)
            # A remembered one takes no time, and the consumer of a stream has yet to see the event that came before it.
            await asyncio.sleep(0)
            self._note_read(items, args, kwargs)
            return items

    async def add_items(self, items: list[Any], **kwargs: Any) -> None:
        """Keep items to be written; see the module."""
        scope = current_scope()
        addition = _Addition(f"{scope.path}/{scope.repeated('session add')}", copy.deepcopy(items), kwargs)
        if addition.id in self._written:
            self._note_written(addition.items)
            return
        self.pending.append(addition)
        if self.writes_at_once or _at_end.get():
            try:
                await self.flush()
            except asyncio.CancelledError:
                if len(self.pending) == 1 and self.pending[0] is addition:
                    self.pending.clear()  # under the plain runner, too, it is this write that was cancelled
                raise

    async def other(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """`pop_item` or `clear_session`, after what was added before."""
        async with self._lock:
            await self._flush()

            async def call(_: StepScope) -> Any:
                return await _awaited(getattr(self.session, method)(*args, **kwargs))

            self._ends_with, self._is_guarded = None, False
            return await self._step(f"session {method}", call, kwargs)

    async def flush(self, *, at_end: bool = False) -> None:
        """Write what has been added; at the end of a run, carry out what only defers compaction, too.

        Raises:
            Exception: what the session raised on the last attempt.
        """
        async with self._lock:
            await self._flush(at_end=at_end)
            if at_end:  # the run's own count means nothing to a compaction by the user
                sdk.forget_compaction_generation(self._compaction_wrapper)

    async def compact(self) -> None:
        """Carry out what the SDK has decided on compaction so far."""
        async with self._lock:
            await self._flush(at_end=True)

    async def _flush(self, *, at_end: bool = False) -> None:
        while self.pending:
            await self._write()
        if self.compaction_due or (at_end and self.compactions):
            await self._compact()

    async def _write(self) -> None:
        batch = list(self.pending)
        additions = [entry for entry in batch if isinstance(entry, _Addition)]

        async def call(step: StepScope) -> list[str]:
            maybe_written, self._is_cut_off = step.maybe_repeated or self._is_cut_off, True
            skip = await self._count_written(additions) if maybe_written and additions else 0
            done: list[str] = []
            for entry in batch:
                if isinstance(entry, _Judgement):
                    done.append(entry.id if await _is_passed(entry) else entry.failed_id)
                    continue
                missing = entry.items[skip:]
                skip = max(0, skip - len(entry.items))
                if missing or not entry.items:
                    await self._append(missing, entry.kwargs)
                done.append(entry.id)
            self._is_cut_off = False
            return done

        try:
            written = await self._step("session write", call, additions[0].kwargs if additions else {})
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and not is_memoized(error):
                # The loop was cancelled: what it has added so far the plain runner has written by then, too.
                current_scope().take_back("session write")
                raise
            self._is_cut_off = False
            self.pending = [entry for entry in self.pending if entry not in batch]  # it is not tried again
            raise
        self._written.update(written)
        done = [entry for entry in self.pending if entry.id in self._written]
        failed = [entry for entry in self.pending if isinstance(entry, _Judgement) and entry.failed_id in self._written]
        # It is passed again in the step of the compaction, which may fail by itself.
        self.compactions += [entry.ask for entry in failed]
        self.pending = [entry for entry in self.pending if entry not in done and entry not in failed]
        for entry in done:
            if isinstance(entry, _Addition):
                self._note_written(entry.items)

    async def _append(self, items: list[Any], kwargs: dict[str, Any]) -> None:
        add = sdk.generation_adder(self.session) if self._is_guarded else None
        if add is None:
            await _awaited(self.session.add_items(items, **kwargs))
            return
        expected = self._generation
        self._generation = await add(lambda: self.session.add_items(items, **kwargs), expected_generation=expected)

    async def _compact(self) -> None:
        decisions, self.compactions, self.compaction_due = self.compactions, [], False

        async def call(step: StepScope) -> None:
            await self._claim_history()
            sdk.force_compaction(self.session, self._forced)
            for decide in decisions:
                await decide()
            step.nested_usage.extend(self._billed(usage) for _, usage in step.added_usage)

        self._ends_with = None
        await self._step("session compaction", call, {"wrapper": self._compaction_wrapper})
        self._forced = None

    async def _claim_history(self) -> None:
        """Tell the SDK's guard of a compaction whether somebody else has changed the history since the run read it.

        The guard counts changes in the memory of one process. So it works where this pass has read and written, and
        lets a compaction through where another one has; a run that never read the history is not to compact it.
        """
        wrapper, read = self._compaction_wrapper, sdk.generation_reader(self.session)
        if read is None or sdk.compaction_generation(wrapper) is None:
            return
        if not self._is_guarded:
            _, self._generation = await read(_nothing)
            self._is_guarded = True
        sdk.set_compaction_generation(wrapper, self._generation)

    def _billed(self, usage: Usage) -> UsageRecord:
        """What the provider bills for a compaction, for the statistics."""
        model = str(getattr(self.session, "model", ""))
        response = ModelResponse(output=[], usage=usage, response_id=None)
        return dataclasses.replace(usage_from_response(response, requested_model=model), origin="compaction")

    def add_compaction(self, decide: Callable[[], Any], wrapper: Any, *, now: bool) -> None:
        """Keep a decision of the SDK on compaction; `now`: it may compact, and is carried out after the next write."""
        self._compaction_wrapper = wrapper
        if now or self.writes_at_once:
            self.compactions.append(decide)
            self.compaction_due = self.compaction_due or now
            return
        scope = current_scope()
        judgement = _Judgement(f"{scope.path}/{scope.repeated('session judgement')}", decide)
        if judgement.failed_id in self._written:
            self.compactions.append(decide)
        elif judgement.id not in self._written:
            self.pending.append(judgement)

    async def _step(self, label: str, call: Callable[[StepScope], Any], kwargs: dict[str, Any]) -> Any:
        return await run_step(
            self.journal,
            current_scope().repeated(label),
            "session",
            call,
            name=type(self.session).__name__,
            by_agent=False,
            extra=lambda: _memory_of(self.session),
            restore=self._remember,
            is_final=lambda error: isinstance(error, UserError),
            context=kwargs.get("wrapper"),
        )

    def _remember(self, memory: dict[str, Any]) -> None:
        self._forced = memory.get("forced_compaction") or self._forced
        sdk.set_conversation_id(self.session, memory.get("conversation_id"))

    def _fingerprints(self, items: list[Any]) -> list[str]:
        return [sdk.item_fingerprint(self.session, item) for item in items]

    def _note_read(self, items: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        limit = args[0] if args else kwargs.get("limit")
        if limit is None:
            limit = getattr(getattr(self.session, "session_settings", None), "limit", None)
        self._is_whole = limit is None or len(items) < limit
        self._keep_tail(self._fingerprints(items[-_KNOWN_TAIL - 1 :]))

    def _note_written(self, items: list[Any]) -> None:
        if self._ends_with is not None:
            self._keep_tail(self._ends_with + self._fingerprints(items))

    def _keep_tail(self, fingerprints: list[str]) -> None:
        self._is_whole = self._is_whole and len(fingerprints) <= _KNOWN_TAIL
        self._ends_with = fingerprints[-_KNOWN_TAIL:]

    async def _count_written(self, batch: list[_Addition]) -> int:
        """How many of the batch's items an earlier attempt has written before it was cut off.

        The items after what this run knows of the history decide. A session that changes what it stores (adds ids,
        say) cannot be looked at like that; then everything is written again.
        """
        new = self._fingerprints([item for addition in batch for item in addition.items])
        known = self._ends_with or []
        limit: dict[str, Any] = {"limit": len(known) + len(new) + 1}
        if "limit" not in _signature(self.session.get_items).parameters:
            limit = {}
        stored = await _awaited(self.session.get_items(**limit, **batch[0].kwargs))
        found = self._fingerprints(stored)
        for count in range(len(new), 0, -1):
            expected = known + new[:count]
            if (not self._is_whole or len(found) == len(expected)) and found[-len(expected) :] == expected:
                return count
        return 0


_at_end: contextvars.ContextVar[bool] = contextvars.ContextVar("inngest_agents_session_end", default=False)
"""Whether the SDK saves the last items of a run."""

_stores: weakref.WeakKeyDictionary[Journal, dict[int, _Store]] = weakref.WeakKeyDictionary()


def durable_session(journal: Journal, session: Any, *, is_resumed: bool = False) -> Any:
    """A stand-in for `session` whose reads and writes are steps of the durable run.

    All loops of one durable run that were given the same session share what has been added to it.
    """
    if session is None or isinstance(getattr(type(session), _STORE, None), _Store):
        return session
    store = _store_of(journal, session)
    store.writes_at_once = store.writes_at_once or is_resumed
    if store.stand_in is None:
        store.stand_in = stand_in(session, {_STORE: store, **_methods(store), **_generation_methods(store)})
    return store.stand_in


async def finish_session(journal: Journal, session: Any) -> None:
    """Write what a loop has added to its session: it has ended, failed or was interrupted.

    Raises:
        Exception: what the session raised on the last attempt.
    """
    if session is not None:
        await _store_of(journal, real_session(session)).flush(at_end=True)


def real_session(session: Any) -> Any:
    """The user's session behind a stand-in."""
    store = getattr(type(session), _STORE, None)
    return store.session if isinstance(store, _Store) else session


def _store_of(journal: Journal, session: Any) -> _Store:
    stores = _stores.setdefault(journal, {})
    store = stores.get(id(session))
    if store is None:
        store = stores[id(session)] = _Store(session, journal)
    return store


@sdk.around(
    "agents.run_internal.session_persistence",
    "_apply_post_write_compaction",
    ("session", "response_id", "has_local_tool_outputs", "wrapper"),
)
async def _compact_after_write(
    original: Callable[..., Any], session: Any, *, has_local_tool_outputs: bool, wrapper: Any = None, **kwargs: Any
) -> None:
    store = getattr(type(session), _STORE, None)
    if current_journal() is None or not isinstance(store, _Store):
        await original(session, has_local_tool_outputs=has_local_tool_outputs, wrapper=wrapper, **kwargs)
        return
    if not kwargs.get("response_id") or not callable(getattr(store.session, "run_compaction", None)):
        return
    decide = functools.partial(
        original, store.session, has_local_tool_outputs=has_local_tool_outputs, wrapper=wrapper, **kwargs
    )
    store.add_compaction(decide, wrapper, now=not has_local_tool_outputs)
    if store.writes_at_once:
        await store.compact()


@sdk.around("agents.run_internal.agent_runner_helpers", "save_final_turn_items_after_guardrails", ("session", "items"))
async def _save_at_end(original: Callable[..., Any], **kwargs: Any) -> Any:
    token = _at_end.set(True)
    try:
        return await original(**kwargs)
    finally:
        _at_end.reset(token)


_STORE: Final = "__durable_store__"


def _methods(store: _Store) -> dict[str, Any]:
    """The steps in place of the session's methods, with their signatures: the SDK looks for `wrapper` in them."""

    def like(name: str, call: Callable[..., Any]) -> Any:
        original = getattr(store.session, name, None)
        if original is None:
            return call

        @functools.wraps(original)
        async def method(*args: Any, **kwargs: Any) -> Any:
            return await call(*args, **kwargs)

        cast("Any", method).__signature__ = _signature(original)
        return staticmethod(method)

    return {
        "get_items": like("get_items", store.get_items),
        "add_items": like("add_items", store.add_items),
        "pop_item": like("pop_item", functools.partial(store.other, "pop_item")),
        "clear_session": like("clear_session", functools.partial(store.other, "clear_session")),
    }


def _generation_methods(store: _Store) -> dict[str, Any]:
    """The SDK's guard of a compaction against changes by others; see `_Store._claim_history`."""
    if sdk.generation_reader(store.session) is None:
        return {}

    async def read(read_items: Callable[[], Any]) -> tuple[Any, int]:
        store.is_claiming = True
        try:
            return await read_items(), 0
        finally:
            store.is_claiming = False

    async def add(write_items: Callable[[], Any], *, expected_generation: int | None) -> int | None:
        await write_items()
        return expected_generation

    return dict(zip(sdk.GENERATION_METHODS, (staticmethod(read), staticmethod(add)), strict=True))


async def _nothing() -> list[Any]:
    return []


def _signature(function: Any) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except Exception:  # noqa: BLE001  the SDK, too, takes any failure for "it has no wrapper parameter"
        return inspect.Signature()


def _memory_of(session: Any) -> dict[str, Any] | None:
    """What a session keeps of a step in its memory, which the next step may not find there."""
    found = {"conversation_id": sdk.conversation_id(session), "forced_compaction": sdk.forced_compaction(session)}
    return {name: value for name, value in found.items() if value is not None} or None


async def _is_passed(judgement: _Judgement) -> bool:
    try:
        await judgement.ask()
    except Exception:  # noqa: BLE001  raised by the step of the compaction, which asks again
        return False
    return True


async def _awaited(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value
