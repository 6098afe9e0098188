"""Where the caller is: in which durable run, in which loop of the SDK, in which step.

All of it is found through ContextVars, so that a nested run (an agent as a tool) finds its parent's journal, and code
inside a step finds none: there, a plain `Runner.run` stays plain, and the `StepScope` records what it used.
"""

from __future__ import annotations

import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from inngest_agents.request.resources import restore_resources, use_resources

if TYPE_CHECKING:
    from inngest_agents.budget import Reservation
    from inngest_agents.instrument.model import DurableModel
    from inngest_agents.instrument.sandbox_session import DurableSandbox
    from inngest_agents.journal import Journal
    from inngest_agents.request.step_request import StepScope


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

    def take_back(self, label: str) -> None:
        """What was to have a label was cancelled and comes again under the same one."""
        self.counts[label] -= 1


_journal: contextvars.ContextVar[Journal | None] = contextvars.ContextVar("inngest_agents_journal", default=None)
_scope: contextvars.ContextVar[Scope | None] = contextvars.ContextVar("inngest_agents_scope", default=None)
_step_scope: contextvars.ContextVar[StepScope | None] = contextvars.ContextVar("inngest_agents_step", default=None)
_nested_label: contextvars.ContextVar[str | None] = contextvars.ContextVar("inngest_agents_label", default=None)


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
