"""What users need to test their own durable agents without any engine.

`replayed` runs a handler as an engine without checkpointing does: from the top for every step, with all that is stored
passed through JSON. If a run comes to the same result here as under the plain `Runner`, it survives being cut anywhere.

Example:
    ```python
    async def test_refund() -> None:
        run = await replayed(lambda step: DurableRunner.run(agent, "Refund order 7", step=step))
        assert run.result.final_output == "Refunded."
        assert run.steps == ["triage/1 model triage", "triage/1.1 refund", "triage/2 model triage"]
    ```
"""

from __future__ import annotations

import copy
import dataclasses
import json
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import inngest

from inngest_agents._inngest_sdk import Opcode, ResponseInterrupt, StepResponse, make_step
from inngest_agents.journal import SUMMARY

__all__ = ["ReplayedRun", "UnsupportedStepError", "replayed"]

T = TypeVar("T")


class UnsupportedStepError(RuntimeError):
    """The handler asked the engine for something that `replayed` does not do, such as waiting for an event."""


@dataclasses.dataclass
class ReplayedRun(Generic[T]):
    """What a replayed handler did."""

    result: T
    steps: list[str]
    """The ids of the finished steps, in the order in which they finished; without the summary (`…/run_stats`) that
    every durable run ends with."""
    requests: int
    """How often the handler was called from the top."""
    memos: dict[str, Any]
    """The stored JSON by hashed step id, as an engine would hold it."""


async def replayed(
    handler: Callable[[Any], Awaitable[T]], *, max_attempts: int = 1, memos: dict[str, Any] | None = None
) -> ReplayedRun[T]:
    """Call `handler(step)` from the top for every step until it returns.

    Args:
        handler: gets the `step` object of one request.
        max_attempts: how often a failing step is tried, without any wait.
        memos: the stored JSON of finished steps to begin with.

    Raises:
        Exception: what the handler raises.
        UnsupportedStepError: the handler needs a real engine.
    """
    client = inngest.Inngest(app_id="replayed", is_production=False)
    run: ReplayedRun[Any] = ReplayedRun(None, [], 0, dict(memos or {}))
    run_id = uuid.uuid4().hex
    targets: list[str | None] = [None]
    attempt = 0
    while True:
        target = targets.pop(0)
        run.requests += 1
        step = make_step(
            client,
            copy.deepcopy(run.memos),
            run_id=run_id,
            attempt=attempt,
            max_attempts=max_attempts,
            target=target,
        )
        try:
            result = await handler(step)
        except ResponseInterrupt as interrupt:
            outcomes = [_store(run, response, targets) for response in interrupt.responses]
            if False in outcomes:  # the step failed and is to be tried again
                attempt += 1
                targets.insert(0, target)
                continue
        except inngest.RetryAfterError:
            attempt += 1
            if attempt >= max_attempts:
                raise
            targets.insert(0, target)
            continue
        else:
            run.result = result
            return run
        attempt = 0
        if not targets:
            targets.append(None)


def _store(run: ReplayedRun[Any], response: StepResponse, targets: list[str | None]) -> bool:
    step = response.step
    if step.op == Opcode.PLANNED:
        if step.id not in targets:
            targets.append(step.id)
        return True
    if step.op == Opcode.STEP_ERROR:
        return False
    if step.op == Opcode.STEP_RUN:
        run.memos[step.id] = {"data": json.loads(json.dumps(response.output))}
    elif step.op == Opcode.STEP_FAILED:
        error: Any = response.original_error
        run.memos[step.id] = {"error": {"name": error.name, "message": str(error), "stack": error.stack}}
    else:
        raise UnsupportedStepError(f"step {step.display_name!r} needs a real engine ({step.op.value})")
    if not step.display_name.endswith(f"/{SUMMARY}"):
        run.steps.append(step.display_name)
    return True
