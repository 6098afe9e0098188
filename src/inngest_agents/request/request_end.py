"""The end of a request of the engine: decided once, raised in the frame of each durable run that is under way.

Mostly something is to be reported: a step that has failed, a plan, what could not be saved. Then nothing new starts,
what is in flight is finished and saved, and all of it goes into one answer.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NoReturn

import inngest

from inngest_agents import _inngest_sdk as sdk
from inngest_agents.request.bodies import Bodies
from inngest_agents.request.checkpoint import SaveOutcome

if TYPE_CHECKING:
    from inngest_agents.request.asked import Asked
    from inngest_agents.request.checkpoint import Checkpointer


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
        self.asker: Checkpointer | None = None
        """Asks whose the run is, where nothing is saved and the request is old."""
        self.run_is_over = False
        """Whether the run itself has ended, so that no later request will go on with it."""
        self.running: set[Asked] = set()
        self.bodies = Bodies(self)
        self.rest: Callable[[], Awaitable[tuple[list[sdk.StepResponse], bool]]]
        """Plans the steps that are asked for and have not started, where the engine is to wait for something, too. Says
        whether they are to end before the engine waits for it."""
        self.settle: Callable[[], Awaitable[None]]
        """Waits until the loops ask for nothing more."""
        self.skip: Callable[[], None]
        """Called where `ctx.step` was asked for another step than the one that the request is for."""
        self.retry: inngest.RetryAfterError | None = None
        """Tells the engine when to try a failed step again, where it may not be now."""
        self.go_on: Callable[[], None]
        """Begins what was held back for an end that is not due any more."""
        self.untold: dict[str, Callable[[bool], None]] = {}
        """By the hashed id of each step that was asked for too late for this request, what tells of what led to it."""
        self.planned_ids: dict[str, str] = {}
        """By the hashed id of each step that has ended, the one under which it would be planned."""
        self._answers: list[sdk.StepResponse] | None = None
        self._beside: list[sdk.StepResponse] = []
        """What `ctx.step` has ended the request with beside a loop of the SDK."""
        self._error: inngest.RetryAfterError | None = None
        self._concluding: asyncio.Task[None] | None = None

    @property
    def is_near(self) -> bool:
        """Whether nothing new may start."""
        return self._answers is not None or bool(self._beside)

    @property
    def only_waits(self) -> bool:
        """Whether nothing is to be reported that leads to the next request at once."""
        answers = (*(self._answers or ()), *self._beside)
        return self._error is None and all(waits(one) or one.step.op == sdk.Opcode.STEP_ERROR for one in answers)

    @property
    def is_answered(self) -> bool:
        """Whether there is an answer already, other than what `ctx.step` waits for."""
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

    def wait_for(self, *responses: sdk.StepResponse) -> None:
        """The same, with what `ctx.step` has ended the request with beside a loop of the SDK.

        If the engine is to wait for something before it sends the next request, perhaps for days, the steps that have
        not started, or are to be tried again, are planned: they need not wait for it, too.
        """
        self._beside += responses
        self.conclude()

    def wait_no_more(self, *responses: sdk.StepResponse) -> None:
        """Who waited was cancelled before the request has ended: nobody asks for that any more.

        The SDK does so where a step beside it has failed for good. What the function does then is not to wait for it.
        """
        if self.is_over or not responses:
            return
        has_ended = (sdk.Opcode.STEP_RUN, sdk.Opcode.STEP_FAILED)
        gone = [id(response) for response in responses if response.step.op not in has_ended]
        self._beside = [response for response in self._beside if id(response) not in gone]
        if not self.is_near:
            self.go_on()

    def tell_of(self, hashed_id: str) -> None:
        """A step is taken up by this request after all, or by a repeated attempt of it: tell of what led to it."""
        tell = self.untold.pop(hashed_id, None)
        if tell is not None:
            tell(True)

    def try_again(self, error: inngest.RetryAfterError) -> None:
        """The same as `answer`, with an error by which the engine is to try the whole function again."""
        self._error = error
        self.answer()

    def at_once(self, end: BaseException) -> None:
        """End the request with an interrupt or an error, whatever is in flight."""
        if self._answers is None:
            self._answers = []
        self.untold.clear()  # each leads to its run, and so here
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
        if self._is_due and self._concluding is None:
            self._concluding = self.loop.create_task(self._conclude())

    @property
    def _is_due(self) -> bool:
        return self.is_near and not self.is_over and not self.running and not self.bodies.are_busy

    async def _conclude(self) -> None:
        try:
            await self._give_answer()
        except Exception as error:  # noqa: BLE001  of a middleware: the request must end all the same
            self.at_once(error)
        finally:
            self._concluding = None  # its context leads to the run, and so here
        self.conclude()  # of what has come up meanwhile

    async def _give_answer(self) -> None:
        if self._error is not None or any(one.step.op == sdk.Opcode.STEP_ERROR for one in self._answers or ()):
            await self.settle()  # what has just ended may lead to a step that the next attempt would take for told
        rest, is_early = await self.rest() if any(map(waits, self._beside)) else ([], False)
        unsaved: list[sdk.StepResponse] = []
        if self._is_due and self.saver is not None:
            await self.saver.flush()
            unsaved = self.saver.unsaved
            told = [*(self._answers or ()), *self._beside]
            if not unsaved and (self._error is not None or not all(map(is_saved, told))):
                # An engine that was held up may have sent this request once more. It takes the answers of both, and the
                # run would go on from a failure here, and from the step's result there.
                await self.saver.confirm()
        if not self._is_due:
            return  # if something has begun meanwhile: concluded once more when that has ended
        answers = [*(self._answers or ()), *self._beside]
        retried = [answer for answer in answers if answer.step.op == sdk.Opcode.STEP_ERROR]
        ended = [answer for answer in answers if answer.step.op != sdk.Opcode.STEP_ERROR]
        is_waiting = any(map(waits, self._beside)) and self._error is None and not is_early
        if is_waiting and not unsaved and all(map(waits, ended)):
            rest += [sdk.planned_again(answer) for answer in retried if any(answer is one for one in self._beside)]
        else:
            # What has ended leads to the next request at once, which finds what is to be waited for again. The run
            # would go on only after both.
            ended = [answer for answer in ended if not waits(answer) or answer.step.op == sdk.Opcode.PLANNED]
            rest = rest if is_early else []
        known = {answer.step.id for answer in ended}
        ended += [planned for planned in rest if planned.step.id not in known]
        if unsaved or ended:
            # A step that is to be retried is found again by the next request; one that has ended must not be.
            if len(unsaved) + len(ended) > 1:
                unsaved = [self._as_new(response) for response in unsaved]
            self.at_once(sdk.ResponseInterrupt(sdk.with_join(await self._transformed([*unsaved, *ended]))))
            return
        for hashed_id in list(self.untold):
            self.tell_of(hashed_id)  # to a repeated attempt it is nothing new
        if self._error is not None:
            self.at_once(self._error)
        elif retried and self.retry is not None:
            self.at_once(sdk.retry_later(retried[0], self.retry))
        elif retried:
            self.at_once(sdk.ResponseInterrupt(retried[:1]))
        else:
            self.at_once(RuntimeError("the request ended without anything to report; please report this bug"))

    def _as_new(self, response: sdk.StepResponse) -> sdk.StepResponse:
        """A step that is answered beside others, under an id that the server has no memo of.

        It waits for all steps of such an answer, and for one that it has already it would wait for ever. The run finds
        either memo.
        """
        planned_id = self.planned_ids.get(response.step.id)
        if planned_id is None or self.saver is None or not self.saver.maybe_saved(response):
            return response
        return sdk.under_id(response, planned_id)

    async def _transformed(self, responses: list[sdk.StepResponse]) -> list[sdk.StepResponse]:
        """Responses as they are to be answered: the SDK shows them to the middleware where there is only one."""
        if len(responses) < 2:
            return responses
        is_plan = [response.step.op == sdk.Opcode.PLANNED for response in responses]
        return [
            response if is_planned else await self._engine.transformed(response)
            for response, is_planned in zip(responses, is_plan, strict=True)
        ]


def is_saved(response: sdk.StepResponse) -> bool:
    """Whether a response only asks for the next request: its step was saved, so the run belonged to this one then."""
    return str(response.step.op) == sdk.GO_ON


def waits(response: sdk.StepResponse) -> bool:
    """Whether a response is of something that has yet to come, as an event, and not of a step that has ended."""
    at_once = (sdk.Opcode.STEP_RUN, sdk.Opcode.STEP_ERROR, sdk.Opcode.STEP_FAILED, sdk.GO_ON)
    return response.step.op not in at_once
