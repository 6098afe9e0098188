"""A step as it is asked for: by a seam of the SDK, of the driver, with what is known of it before and after it runs."""

from __future__ import annotations

import contextvars
import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inngest_agents.decisions import Decision
    from inngest_agents.stats.records import StepRecord, UsageRecord


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
    planned_id: str
    stored: dict[str, Any]
    metadata: list[dict[str, Any]]


@dataclasses.dataclass(slots=True)
class StepRequest:
    """One step, asked for by a seam and answered by the driver."""

    step_id: str
    hashed_id: str
    planned_id: str
    """The hashed id that it has where it is planned; see `inngest_agents.request.step_ids`."""
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
