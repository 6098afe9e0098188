"""Carries the changes that tools, hooks and guardrails make to the user's context object.

The context is an object of the user's code: each request of the engine may start with a new one. So what a step changed
in it is stored with the step, and on a replay the same change is made, in place, to the object that the code gave, in
the order in which the run asks for its steps.

Parallel steps that change different fields (of dicts, dataclasses, pydantic models and plain objects, at any depth) are
merged. Items that they add to the same list are put one after the other. The same increment of the same number, made by
steps that did not see each other's, counts for each of them, as that is what a counter does. Different values of the
same field are a conflict, which ends the run with a `ContextConflictError`. Steps that overlap in time in one process
share the object itself; there the last one to write wins, as under the plain Runner, and nobody could tell who wrote
what.

What a tool adds to `context.usage` is carried in the same way, and so are its approvals and rejections of tool calls.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import weakref
from typing import Any, Final

from inngest_agents import _agents_sdk as sdk
from inngest_agents import context_changes as changes
from inngest_agents.context_changes import Change, Path
from inngest_agents.decisions import make_again
from inngest_agents.errors import ContextConflictError
from inngest_agents.journal import Journal
from inngest_agents.memos import codec, response_codec
from inngest_agents.request.step_request import StepScope
from inngest_agents.scope import current_step

logger = logging.getLogger("inngest_agents")

_NUMBERS: Final = (int, float)
_ENCODED: Final = "context"
_ASKING_TURNS: Final = 16
"""Turns of the event loop in which the steps of one batch are asked for."""


@dataclasses.dataclass(slots=True, eq=False)
class _Work:
    """One step at work."""

    seen: int
    """How many changed steps it may have seen when it was asked for; what came later is concurrent to it."""
    alone: bool = True
    """Whether no other step was at work in this process at the same time, so that all changes are its own."""


@dataclasses.dataclass(slots=True)
class _Made:
    """A change that was made to the context."""

    change: Change
    seen: int
    number: int
    alone: bool

    def is_concurrent(self, seen: int, number: int) -> bool:
        """Whether neither of two steps can have seen the other's changes."""
        return self.number > seen and number > self.seen


class Carrier:
    """Carries the changes of one context object in one durable run. Get it with `carrier_of`."""

    def __init__(self, journal: Journal, value: Any) -> None:
        options = journal.options
        self.value = value
        self._encode, self._decode = options.context_encode, options.context_decode
        self._known: changes.Picture | None = None
        """What the object was like when a step last began or ended."""
        self._number = 0
        self._made: list[_Made] = []
        self._at_work: set[_Work] = set()

    @property
    def seen(self) -> int:
        """How many changed steps there were so far."""
        return self._number

    def begin(self, seen: int) -> _Work:
        """A step that was asked for after `seen` changed steps starts to work."""
        work = _Work(seen, alone=not self._at_work)
        if work.alone:
            # What the run's own code did outside of steps, it will do again on a replay.
            self._known = changes.take(self._root())
        for other in self._at_work:
            other.alone = False
        self._at_work.add(work)
        return work

    def abandon(self, work: _Work) -> None:
        """The step has failed."""
        self._at_work.discard(work)

    def end(self, work: _Work, step_id: str) -> dict[str, Any] | None:
        """The step has ended: what it changed, as JSON; None if nothing.

        Raises:
            ContextConflictError: a parallel step has changed the same field to another value.
        """
        self._at_work.discard(work)
        root = self._root()
        now = changes.take(root)
        assert self._known is not None
        found, lost = changes.differences(self._known, now, root)
        self._known = now
        for path in lost:
            self._warn(path, step_id)
        if not found:
            return None
        number = self._number + 1
        for change in found:
            if work.alone and not _may_repeat(change):
                self._check(change, work.seen, number, step_id)
        self._note(found, work.seen, number, alone=work.alone)
        return {
            "seen": work.seen,
            "number": number,
            "alone": work.alone,
            "changes": [change.to_json() for change in found],
        }

    def apply(self, stored: dict[str, Any], step_id: str) -> None:
        """Make the changes of a remembered step.

        Raises:
            ContextConflictError: a parallel step has changed the same field to another value.
        """
        seen, number, alone = stored["seen"], stored["number"], stored["alone"]
        found = [Change.from_json(change) for change in stored["changes"]]
        root = self._root()
        for change in found:
            self._apply(root, change, seen, number, alone, step_id)
            if self._known is not None and self._at_work:
                # It is not the doing of the steps that are at work here.
                changes.graft(self._known, change.path, changes.look(root, change.path))
        if self._decode is not None:
            self._decode(self.value, root[_ENCODED])
        self._note(found, seen, number, alone=alone)

    def _note(self, found: list[Change], seen: int, number: int, *, alone: bool) -> None:
        self._number = max(self._number, number)
        self._made.extend(_Made(change, seen, number, alone) for change in found)

    def _apply(self, root: Any, change: Change, seen: int, number: int, alone: bool, step_id: str) -> None:
        before = changes.mark(changes.look(root, change.path))
        others = [made for made in self._made if made.change.path == change.path and made.is_concurrent(seen, number)]
        if before == change.before:
            if alone:
                self._check(change, seen, number, step_id, deeper_only=True)
            _make(root, change)
        elif change.how == "add":
            _make_added(root, change, merged=bool(others))
        elif before == change.after:
            step = _increment(change)
            if step is not None and any(other.change.before == change.before for other in others):
                changes.put(root, change.path, changes.find(root, change.path) + step)
        elif not (alone and all(other.alone for other in others)):
            if all(other.number < number for other in others):  # they shared the object: the last one wins
                _make(root, change)
        elif any(other.change.before == change.after for other in others):
            pass  # a parallel change was made upon this one
        elif others and not any(other.change.after == change.before for other in others):
            raise self._conflict(change.path, step_id)
        else:
            _make(root, change)

    def _check(self, change: Change, seen: int, number: int, step_id: str, *, deeper_only: bool = False) -> None:
        """Refuse a change where a concurrent step has changed the same field, or one inside it or around it."""
        for made in self._made:
            path = made.change.path
            same = path == change.path
            if not made.alone or not made.is_concurrent(seen, number) or (same and deeper_only):
                continue
            around = path[: len(change.path)] == change.path or change.path[: len(path)] == path
            if (same and made.change.after != change.after) or (around and not same):
                raise self._conflict(change.path, step_id)

    def _root(self) -> Any:
        """The object whose parts are carried: the user's own, or the JSON that the user's function makes of it."""
        if self._encode is None:
            return self.value
        # A copy through JSON: the function may give parts of the object itself.
        return {_ENCODED: json.loads(json.dumps(self._encode(self.value)))}

    def _warn(self, path: Path, step_id: str) -> None:
        where = (type(self.value), path)
        if where in _warned:
            return
        _warned.add(where)
        logger.warning(
            "step %r changed %s of the context (%s) to a value that cannot be stored as JSON, so a later request of "
            "the run will not see it. Keep plain data in the context, or tell how to store it: "
            "DurableOptions(context_encode=…, context_decode=…).",
            step_id,
            self._field(path),
            type(self.value).__name__,
        )

    def _conflict(self, path: Path, step_id: str) -> ContextConflictError:
        return ContextConflictError(
            f"step {step_id!r} and a parallel step changed the field {self._field(path)!r} of the context to different "
            "values. Let each write a field (or a key of a dict) of its own, let them add to a list, or let the model "
            "call one tool at a time: ModelSettings(parallel_tool_calls=False)."
        )

    def _field(self, path: Path) -> str:
        return ".".join(path if self._encode is None else path[1:]) or "the object itself"


_warned: set[tuple[type[Any], Path]] = set()
_carriers: weakref.WeakKeyDictionary[Journal, dict[int, Carrier]] = weakref.WeakKeyDictionary()


def carrier_of(journal: Journal, value: Any) -> Carrier | None:
    """The carrier of a context object; None if there is nothing to carry."""
    if value is None:
        return None
    carriers = _carriers.setdefault(journal, {})
    carrier = carriers.get(id(value))
    if carrier is None:
        carrier = carriers[id(value)] = Carrier(journal, value)
    return carrier


class StepContext:
    """The context of one step: what it changes in the user's object, adds to the usage of the run, and decides."""

    def __init__(self, journal: Journal, context: Any, step_id: str) -> None:
        self._journal = journal
        self._context = context
        self._step_id = step_id
        self._carrier = carrier_of(journal, getattr(context, "context", None))
        self._seen = self._carrier.seen if self._carrier is not None else 0
        self._work: _Work | None = None
        self._has_run = False

    def begin(self) -> None:
        """The step starts to work in this process."""
        self._has_run = True
        if self._carrier is not None:
            self._work = self._carrier.begin(self._seen)

    def abandon(self) -> None:
        """The step has failed."""
        if self._carrier is not None and self._work is not None:
            self._carrier.abandon(self._work)

    def end(self, step: StepScope) -> dict[str, Any] | None:
        """What the step changed, as JSON; None if nothing.

        Raises:
            ContextConflictError: a parallel step has changed the same field to another value.
        """
        stored: dict[str, Any] = {}
        if self._carrier is not None and self._work is not None:
            stored = self._carrier.end(self._work, self._step_id) or {}
        usage = getattr(self._context, "usage", None)
        added = [response_codec.encode_usage(other) for target, other in step.added_usage if target is usage]
        if added:
            stored["usage"] = added
        decided = [
            decision.to_json(self._journal, self._step_id)
            for decision in step.decisions
            if sdk.share_decisions(decision.context, self._context)
        ]
        kept = [decision for decision in decided if decision is not None]
        if kept:
            stored["decisions"] = kept
        return stored or None

    async def apply(self, stored: dict[str, Any]) -> None:
        """Make the changes of a remembered step; nothing, if it ran in this process.

        Steps that are asked for in parallel are answered one by one from their memos. They must not count as
        having seen each other's changes, so the loop gets some turns to ask for the others first.

        Raises:
            ContextConflictError: a parallel step has changed the same field to another value.
        """
        if self._has_run:
            return
        for _ in range(_ASKING_TURNS):
            await asyncio.sleep(0)
        if self._carrier is not None and "changes" in stored:
            self._carrier.apply(stored, self._step_id)
        for usage in stored.get("usage", ()):
            self._context.usage.add(response_codec.decode_usage(usage))
        for decision in stored.get("decisions", ()):
            make_again(decision, self._context, self._journal, self._step_id)


@sdk.around("agents.usage", "Usage.add", ("self", "other"))
def _note_usage(original: Any, self: Any, other: Any) -> None:
    original(self, other)
    step = current_step()
    if step is not None:
        step.added_usage.append((self, other))


def _make(root: Any, change: Change) -> None:
    if change.how == "del":
        changes.remove(root, change.path)
    elif change.how == "add":
        changes.find(root, change.path).extend(codec.decode(change.stored))
    else:
        changes.put(root, change.path, codec.decode(change.stored))


def _make_added(root: Any, change: Change, *, merged: bool) -> None:
    """Add items to a list that is not what it was: others have added to it, or it is older than the run."""
    try:
        current = changes.find(root, change.path)
    except LookupError:
        current = None
    if not isinstance(current, list):
        changes.put(root, change.path, codec.decode(change.stored))
        return
    end = change.length + len(change.stored)
    kept = changes.mark(changes.Leaf(codec.encode(current[: change.length]))) == change.before
    if not merged and kept and codec.encode(current[change.length : end]) == change.stored:
        del current[end:]  # an object that outlives requests has what later steps will add again
    else:
        current.extend(codec.decode(change.stored))


def _may_repeat(change: Change) -> bool:
    """Whether a change upon a parallel one is nothing but the next of its kind: a list or a counter grows."""
    return change.how == "add" or _increment(change) is not None


def _increment(change: Change) -> Any:
    if change.how != "set" or type(change.stored) not in _NUMBERS:
        return None
    try:
        before = json.loads(change.before)
    except ValueError:
        return None
    return change.stored - before if type(before) in _NUMBERS else None


__all__ = ["Carrier", "StepContext", "carrier_of"]
