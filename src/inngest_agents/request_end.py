"""The end of a request of the engine: decided once, raised in the frame of each durable run that is under way.

Mostly something is to be reported: a step that has failed, a plan, what could not be saved. Then nothing new starts,
what is in flight is finished and saved, and all of it goes into one answer.
"""

from __future__ import annotations

import asyncio
import copy
from typing import TYPE_CHECKING, NoReturn

import inngest

from inngest_agents import _inngest_sdk as sdk
from inngest_agents.checkpoint import SaveOutcome

if TYPE_CHECKING:
    from inngest_agents.asked import Asked
    from inngest_agents.checkpoint import Checkpointer


class RequestEnd:
    """How one request ends.

    Args:
        engine: the request.
    """

    def __init__(self, engine: sdk.EngineRequest) -> None:
        self._engine = engine
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[BaseException] = self.loop.create_future()
        """What is raised in the user's frame, once it is known."""
        self.saver: Checkpointer | None = None
        """Saves finished steps while the request is open; None without checkpointing."""
        self.run_is_over = False
        """Whether the run itself has ended, so that no later request will go on with it."""
        self.running: set[Asked] = set()
        self.retry: inngest.RetryAfterError | None = None
        """Tells the engine when to try a failed step again, where it may not be now."""
        self._answers: list[sdk.StepResponse] | None = None
        self._concluding: asyncio.Task[None] | None = None

    @property
    def is_near(self) -> bool:
        """Whether nothing new may start."""
        return self._answers is not None

    @property
    def is_over(self) -> bool:
        """Whether the request has ended."""
        return self.future.done()

    async def reached(self) -> NoReturn:
        """Wait for the end, in the user's frame.

        Raises:
            ResponseInterrupt, SkipInterrupt: Inngest's own.
        """
        if not self.is_over:
            await asyncio.wait((self.future,))
        end = self.future.result()
        # The frames through which an interrupt leaves lead here: the same object in both would be a cycle, and all that
        # the request has held would wait for the garbage collector.
        raise copy.copy(end) if isinstance(end, (sdk.ResponseInterrupt, sdk.SkipInterrupt)) else end

    def answer(self, *responses: sdk.StepResponse) -> None:
        """Start nothing more; end the request with `responses` once what is in flight has finished."""
        self._answers = [*(self._answers or ()), *responses]
        self.conclude()

    def at_once(self, end: BaseException) -> None:
        """End the request with an interrupt or an error, whatever is in flight."""
        if self._answers is None:
            self._answers = []
        if not self.future.done():
            self.future.set_result(end)

    def lost(self, outcome: SaveOutcome) -> None:
        """The run has ended or belongs to another worker: stop at once, start nothing, report nothing."""
        self.run_is_over = outcome is SaveOutcome.OVER
        self._answers = []
        for asked in list(self.running):
            if asked.task is not None:
                asked.is_withdrawn = True
                asked.task.cancel()
        self.at_once(sdk.end_quietly())

    def conclude(self) -> None:
        """End the request if that is due and nothing runs any more."""
        if self.is_near and not self.running and not self.is_over and self._concluding is None:
            self._concluding = self.loop.create_task(self._conclude())

    async def _conclude(self) -> None:
        try:
            await self._give_answer()
        except Exception as error:  # noqa: BLE001  of a middleware: the request must end all the same
            self.at_once(error)
        finally:
            self._concluding = None  # its context leads to the run, and so here

    async def _give_answer(self) -> None:
        answers = self._answers or []
        retried = [answer for answer in answers if answer.step.op == sdk.Opcode.STEP_ERROR]
        ended = [answer for answer in answers if answer.step.op != sdk.Opcode.STEP_ERROR]
        unsaved: list[sdk.StepResponse] = []
        if self.saver is not None:
            await self.saver.flush()
            unsaved = self.saver.unsaved
        if self.is_over:
            return
        if unsaved or ended:
            # A step that is to be retried is found again by the next request; one that has ended must not be.
            self.at_once(sdk.ResponseInterrupt(sdk.with_join(await self._transformed([*unsaved, *ended]))))
        elif retried and self.retry is not None:
            self.at_once(sdk.retry_later(retried[0], self.retry))
        elif retried:
            self.at_once(sdk.ResponseInterrupt(retried[:1]))
        else:
            self.at_once(RuntimeError("the request ended without anything to report; please report this bug"))

    async def _transformed(self, responses: list[sdk.StepResponse]) -> list[sdk.StepResponse]:
        """Responses as they are to be answered: the SDK shows them to the middleware where there is only one."""
        if len(responses) < 2:
            return responses
        is_plan = [response.step.op == sdk.Opcode.PLANNED for response in responses]
        return [
            response if is_planned else await self._engine.transformed(response)
            for response, is_planned in zip(responses, is_plan, strict=True)
        ]
