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

import asyncio
import copy
import dataclasses
import json
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Final, Generic, TypeVar

import inngest

from inngest_agents._inngest_sdk import Opcode, ResponseInterrupt, StepResponse, make_step
from inngest_agents.journal import SPANS, SUMMARY
from inngest_agents.request.resources import all_closed
from inngest_agents.request.step_ids import OVERTAKEN

__all__ = ["ReplayedRun", "UnsupportedStepError", "replayed"]

T = TypeVar("T")

QUICK_SECONDS: Final = 0.5
"""How long `replayed` gives a planned step before it starts the next one beside it."""


class UnsupportedStepError(RuntimeError):
    """The handler asked the engine for something that `replayed` does not do, such as waiting for an event."""


@dataclasses.dataclass
class ReplayedRun(Generic[T]):
    """What a replayed handler did."""

    result: T
    steps: list[str]
    """The ids of the finished steps, in the order in which they finished; without the one (`…/run_stats`, `…/spans`)
    that a durable run ends with."""
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
    engine = _Engine(handler, max_attempts, dict(memos or {}))
    try:
        while True:
            if await engine.request(None) or await engine.run_planned():
                return engine.run
    finally:
        await all_closed()


class _Engine(Generic[T]):
    """The requests of one run."""

    def __init__(self, handler: Callable[[Any], Awaitable[T]], max_attempts: int, memos: dict[str, Any]) -> None:
        self.run: ReplayedRun[Any] = ReplayedRun(None, [], 0, memos)
        self._handler = handler
        self._max_attempts = max_attempts
        self._client = inngest.Inngest(app_id="replayed", is_production=False)
        self._run_id = uuid.uuid4().hex
        self._planned: list[str | None] = []

    async def run_planned(self) -> bool:
        """Run the planned steps, each in a request of its own; whether the handler itself has ended meanwhile.

        They come one after the other as long as each is quick, so that a test may pass the same objects (a `RunState`,
        say) to all of them; one that waits, for another one perhaps, is overlapped with the next, as by an engine that
        sends all these requests at once.
        """
        requests: list[asyncio.Task[bool]] = []
        try:
            while self._planned or not all(request.done() for request in requests):
                if self._planned:
                    requests.append(asyncio.create_task(self.request(self._planned.pop(0))))
                    await asyncio.wait(requests[-1:], timeout=QUICK_SECONDS)
                else:
                    waiting = [request for request in requests if not request.done()]
                    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if any(request.done() and request.result() for request in requests):
                    return True
        finally:
            for request in requests:
                request.cancel()
            await asyncio.gather(*requests, return_exceptions=True)
        return False

    async def request(self, target: str | None) -> bool:
        """Call the handler until its step has ended, or been planned; whether the handler itself has ended."""
        for attempt in range(self._max_attempts):
            self.run.requests += 1
            step = make_step(
                self._client,
                copy.deepcopy(self.run.memos),
                run_id=self._run_id,
                attempt=attempt,
                max_attempts=self._max_attempts,
                target=target,
            )
            try:
                result = await self._handler(step)
            except ResponseInterrupt as interrupt:
                outcomes = [_store(self.run, response, self._planned) for response in interrupt.responses]
                if False not in outcomes:  # else the step failed and is to be tried again
                    return False
            except inngest.RetryAfterError:
                if attempt + 1 >= self._max_attempts:
                    raise
            else:
                self.run.result = result
                return True
        raise RuntimeError("a step was neither finished nor failed for good after its last attempt")


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
    if not step.display_name.endswith((f"/{SUMMARY}", f"/{SPANS}")) and response.output != OVERTAKEN:
        run.steps.append(step.display_name)
    return True
