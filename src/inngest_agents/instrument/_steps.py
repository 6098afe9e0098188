"""A step around one call of the user's code: encoding, record, and errors, the same at each seam."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from inngest_agents import divergence
from inngest_agents.context import StepContext
from inngest_agents.errors import (
    ContextConflictError,
    DivergenceError,
    SandboxLostError,
    StoredVersionError,
    UnsupportedError,
    is_memoized,
    message_of,
    qualified_name,
)
from inngest_agents.journal import Journal, attempt_label
from inngest_agents.memos import codec
from inngest_agents.memos.local_classes import classes_of
from inngest_agents.request.step_request import BilledAttempt, StepRequest, StepScope
from inngest_agents.scope import current_scope
from inngest_agents.stats.memo import memo_of
from inngest_agents.stats.metadata import step_metadata
from inngest_agents.stats.records import TOOL_KINDS, ErrorRecord, StepKind, StepRecord

if TYPE_CHECKING:
    from inngest_agents.instrument.sandbox_session import DurableSandbox


async def run_step(
    journal: Journal,
    label: str,
    kind: StepKind,
    call: Callable[[StepScope], Awaitable[Any]],
    *,
    name: str = "",
    by_name: bool = True,
    by_agent: bool = True,
    call_id: str = "",
    encode: Callable[[Any], Any] = codec.encode,
    decode: Callable[[Any], Any] = codec.decode,
    record: Callable[[StepRecord, Any], Awaitable[StepRecord]] | None = None,
    extra: Callable[[], dict[str, Any] | None] | None = None,
    restore: Callable[[dict[str, Any]], None] | None = None,
    after_save: bool = True,
    max_attempts: int | None = None,
    is_final: Callable[[Exception], bool] | None = None,
    retry_after: Callable[[Exception], float | None] | None = None,
    inputs: Any = None,
    metadata: Callable[[dict[str, Any]], list[dict[str, Any]] | None] | None = None,
    context: Any = None,
    asked: Any = None,
    functions: tuple[Any, ...] = (),
) -> Any:
    """Run `call` as a step of its own, or give back what it returned when it ran.

    Args:
        journal: the durable run.
        label: what the step is, unique in its scope, e.g. "2.1 lookup_order".
        kind: for the statistics.
        call: the work.
        name: what is called: the tool, the guardrail, the model.
        by_name: whether a replay that asks with another name has diverged.
        by_agent: the same of another agent. A step of the run itself comes in the turn of whichever agent has it when
            the run ends, and who cancels a stream may do so earlier on a replay.
        call_id: the id which the model gave to a tool call.
        encode, decode: the value as JSON and back.
        record: completes the step's record from the value.
        extra: further JSON to be stored beside the output, read after the call.
        restore: gets what `extra` gave, on a replay.
        after_save: see `StepRequest.after_save`.
        max_attempts, is_final, retry_after, metadata: see `StepRequest`.
        inputs: JSON for the dashboard.
        context: the run's context wrapper, if the work gets it: what the work changes in the user's context object is
            stored with the step (see `inngest_agents.context`).
        asked: JSON-able input of the work, by default `inputs`: a replay that asks with another one has diverged.
        functions: the user's functions that make the value, through which classes are found that no import finds.

    Returns:
        The decoded value; on the first pass too, so that both passes see the same.

    Raises:
        Exception: what the last attempt raised.
    """
    scope = current_scope()
    step_id = journal.step_id(label)
    hashed_id, planned_id = journal.hashed_ids(step_id)
    order = journal.next_order()
    base: dict[str, Any] = {
        "kind": kind,
        "step_id": step_id,
        "name": name,
        "agent": scope.agent_name,
        "path": scope.names,
        "order": order,
        "call_id": call_id,
    }
    shown: list[dict[str, Any]] = []

    question = inputs if asked is None else asked
    digest = None if question is None else divergence.digest(question)
    carried = StepContext(journal, context, step_id) if context is not None else None

    async def run(step: StepScope) -> dict[str, Any]:
        step.estimates = journal.options.estimate_tokens
        started, start = time.time(), time.perf_counter()
        value, changes = await _call(call, step, carried, scope.sandboxes)
        made = StepRecord(
            **base,
            started_at=round(started, 4),  # a tenth of a millisecond
            duration=round(time.perf_counter() - start, 6),
            attempts=step.attempt + 1,
            nested=tuple(step.nested_usage),
        )
        if record is not None:
            made = await record(made, value)
        elif made.nested and journal.options.prices_on:
            made = await priced(journal, made)
        with classes_of(*functions):
            encoded = encode(value)
        stored = memo_of(made, encoded, digest or "")
        more = extra() if extra is not None else None
        if more:
            stored["extra"] = more
        if changes:
            stored["context"] = changes
        step.record = made
        shown.extend(step_metadata(made))
        return stored

    async def billed(step: StepScope, error: BaseException) -> BilledAttempt | None:
        return await _billed_attempt(journal, journal.step_id(attempt_label(label, attempts + 1)), base, step, error)

    request = StepRequest(
        step_id=step_id,
        about=base,
        hashed_id=hashed_id,
        planned_id=planned_id,
        run=run,
        after_save=after_save,
        max_attempts=max_attempts,
        is_final=is_final,
        retry_after=retry_after,
        opts={"input": [inputs]} if inputs is not None and journal.driver.engine.shows_inputs else None,
        metadata=metadata if metadata is not None else lambda _: shown or None,
        billed=billed,
    )
    try:
        attempts = journal.take_attempts(label, base)
        stored = await journal.step(request)
    except (ContextConflictError, DivergenceError, SandboxLostError, StoredVersionError, UnsupportedError) as error:
        await journal.fail(error)
        raise
    except (Exception, asyncio.CancelledError) as error:
        if isinstance(error, asyncio.CancelledError) and not is_memoized(error):
            raise
        failed = ErrorRecord(qualified_name(error), message_of(error))
        journal.add_record(StepRecord(**base, error=failed))
        raise
    await _take_up(journal, base, digest, stored, carried, by_name=by_name, by_agent=by_agent)
    if restore is not None and "extra" in stored:
        restore(stored["extra"])
    with classes_of(*functions):
        return decode(stored["output"])


async def _take_up(
    journal: Journal,
    base: dict[str, Any],
    digest: str | None,
    stored: dict[str, Any],
    carried: StepContext | None,
    *,
    by_name: bool,
    by_agent: bool,
) -> None:
    """Check that a stored step is the one that was asked for, and make its changes to the user's context."""
    diverged = divergence.check(journal, base, digest, stored, by_name=by_name, by_agent=by_agent)
    if diverged is not None:
        await journal.fail(diverged)
        raise diverged
    if carried is not None and "context" in stored:
        try:
            await carried.apply(stored["context"])
        except ContextConflictError as error:
            await journal.fail(error)
            raise


async def _call(
    call: Callable[[StepScope], Awaitable[Any]],
    step: StepScope,
    carried: StepContext | None,
    sandboxes: list[DurableSandbox],
) -> tuple[Any, dict[str, Any] | None]:
    """What the work returned, and what it changed in the user's context."""
    if carried is None:
        return await call(step), None
    for sandbox in sandboxes:
        await sandbox.ready()
    carried.begin()
    try:
        value = await call(step)
    except BaseException:
        carried.abandon()
        raise
    return value, carried.end(step)


async def _billed_attempt(
    journal: Journal, step_id: str, base: dict[str, Any], step: StepScope, error: BaseException
) -> BilledAttempt | None:
    """What an attempt that failed was billed, as a step of its own; None if nothing was."""
    if not step.nested_usage:
        return None
    record = StepRecord(
        **{**base, "kind": "attempt", "step_id": step_id, "name": base["name"] if base["kind"] in TOOL_KINDS else ""},
        started_at=round(time.time(), 4),
        nested=tuple(step.nested_usage),
    )
    if journal.options.prices_on:
        record = await priced(journal, record)
    output = f"{qualified_name(error)}: {message_of(error)}"
    return BilledAttempt(step_id, *journal.hashed_ids(step_id), memo_of(record, output), step_metadata(record))


async def priced(journal: Journal, record: StepRecord) -> StepRecord:
    """A record whose nested usages have their prices."""
    from inngest_agents.stats.pricing import with_price

    nested = [await with_price(usage, journal.options.prices) for usage in record.nested]
    return dataclasses.replace(record, nested=tuple(nested))
