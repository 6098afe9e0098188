"""`DurableRunner`: the front door."""

from __future__ import annotations

from typing import Any, Final, TypeVar

from agents import Agent, RunConfig, RunHooks, Runner, RunResultStreaming, RunState, Session, TResponseInputItem
from agents.run import DEFAULT_MAX_TURNS
from agents.run_error_handlers import RunErrorHandlers

from inngest_agents import _agents_sdk as sdk
from inngest_agents import divergence, instrument
from inngest_agents._inngest_sdk import CONTEXT_TYPES, STEP_TYPES
from inngest_agents.errors import is_lasting, non_retriable, with_stats
from inngest_agents.journal import Journal
from inngest_agents.options import DurableOptions
from inngest_agents.request._http import close_connections
from inngest_agents.request.driver import Driver
from inngest_agents.request.rewind import Rewind
from inngest_agents.request.thread_loop import run_in_thread_loop
from inngest_agents.result import DurableRunResult
from inngest_agents.scope import current_journal, current_step, inside_run
from inngest_agents.stats.stats import RunStats
from inngest_agents.streamed import DurableRunResultStreaming, as_durable_result, start_streamed
from inngest_agents.summary import report_failure, summarize
from inngest_agents.unsupported import refuse_unsupported

__all__ = ["DurableRunner"]

instrument.install()

TContext = TypeVar("TContext")
T = TypeVar("T")

_plain_run: Final = Runner.run
"""Bound now: whoever replaces `Runner.run` by `DurableRunner.run` does not make it call itself."""

_plain_run_streamed: Final = Runner.run_streamed

_HOW = "await DurableRunner.run(agent, input, step=ctx.step)"
_HOW_SYNC = "DurableRunner.run_sync(agent, input, step=ctx.step)"
_HOW_STREAMED = "DurableRunner.run_streamed(agent, input, step=ctx.step)"
_HOW_SUNK = "await DurableRunner.run_streamed(agent, input, step=ctx.step, options=options).wait()"
_HOW_STREAMED_SYNC = f"{_HOW_SYNC} (a synchronous function has no frame that could consume a stream)"


class DurableRunner(Runner):
    """`Runner`, inside an Inngest function: every model call and every tool call is a memoized step.

    The arguments are those of `Runner`, plus `step` (the `ctx.step` of the Inngest function) and `options`. So are the
    results and the exceptions; the result has `stats` and `to_dict()` besides.
    """

    @classmethod
    async def run(
        cls,
        starting_agent: Agent[TContext],
        input: str | list[TResponseInputItem] | RunState[TContext],
        *,
        step: Any = None,
        options: DurableOptions | None = None,
        context: TContext | None = None,
        max_turns: int | None = DEFAULT_MAX_TURNS,
        hooks: RunHooks[TContext] | None = None,
        run_config: RunConfig | dict[str, Any] | None = None,
        error_handlers: RunErrorHandlers[TContext] | None = None,
        previous_response_id: str | None = None,
        auto_previous_response_id: bool = False,
        conversation_id: str | None = None,
        session: Session | None = None,
    ) -> DurableRunResult:
        """Run an agent durably. See `Runner.run` for the arguments that both have.

        Args:
            starting_agent: the agent to start with.
            input: the user's message, a list of input items, or a `RunState` to go on with.
            step: the `step` of the Inngest function's context.
            options: how the run is made durable.
            context, max_turns, hooks, run_config, error_handlers: as for `Runner.run`.
            previous_response_id, auto_previous_response_id, conversation_id, session: as for `Runner.run`.

        Returns:
            What `Runner.run` returns, with `stats` and `to_dict()`.

        Raises:
            TypeError: `step` is missing or not the `step` of an async Inngest function; not retried.
            ValueError: `options` have a `stream`, which is for `run_streamed`; not retried.
            UnsupportedError: something that cannot be made durable; raised before the first step.
            Exception: what `Runner.run` would raise; at the same time an `inngest.NonRetriableError` where a retry can
                never go better.
        """
        _check_step(step, sync=False)
        return await cls._run_here(
            starting_agent,
            input,
            step=step,
            options=options,
            context=context,
            max_turns=max_turns,
            hooks=hooks,
            run_config=run_config,
            error_handlers=error_handlers,
            previous_response_id=previous_response_id,
            auto_previous_response_id=auto_previous_response_id,
            conversation_id=conversation_id,
            session=session,
        )

    @classmethod
    def run_sync(
        cls,
        starting_agent: Agent[TContext],
        input: str | list[TResponseInputItem] | RunState[TContext],
        *,
        step: Any = None,
        options: DurableOptions | None = None,
        **kwargs: Any,
    ) -> DurableRunResult:
        """`run` for a synchronous Inngest function (Flask, Django): `ctx.step` is a `StepSync` there.

        Args:
            starting_agent: the agent to start with.
            input: the user's message, a list of input items, or a `RunState` to go on with.
            step: the `step` of the Inngest function's context.
            options: how the run is made durable.
            **kwargs: the other arguments of `Runner.run_sync`.

        Raises:
            TypeError: `step` is missing or not the `step` of a synchronous Inngest function; not retried.
            Exception: see `run`.
        """
        _check_step(step, sync=True)

        async def main() -> DurableRunResult:
            try:
                return await cls._run_here(starting_agent, input, step=step, options=options, **kwargs)
            finally:
                await close_connections()

        try:
            return run_in_thread_loop(main)
        except Exception as error:
            if sdk.is_data_redacted(error):
                error.__context__ = None  # as `Runner.run_sync` does, which `Runner.run` does not
            raise

    @classmethod
    def run_streamed(
        cls,
        starting_agent: Agent[TContext],
        input: str | list[TResponseInputItem] | RunState[TContext],
        context: TContext | None = None,
        max_turns: int | None = DEFAULT_MAX_TURNS,
        hooks: RunHooks[TContext] | None = None,
        run_config: RunConfig | dict[str, Any] | None = None,
        previous_response_id: str | None = None,
        auto_previous_response_id: bool = False,
        conversation_id: str | None = None,
        session: Session | None = None,
        *,
        step: Any = None,
        options: DurableOptions | None = None,
        error_handlers: RunErrorHandlers[TContext] | None = None,
    ) -> DurableRunResultStreaming:
        """Run an agent durably and stream its events. See `Runner.run_streamed` for the arguments that both have.

        The run goes on only while `stream_events()` of the result is consumed, or `wait()` of it is awaited.

        Example:
            ```python
            result = DurableRunner.run_streamed(agent, input, step=ctx.step, options=DurableOptions(stream=sink))
            await result.wait()
            return result.to_dict()
            ```

        Args:
            starting_agent, input, context, max_turns, hooks, run_config: as for `Runner.run_streamed`.
            previous_response_id, auto_previous_response_id, conversation_id, session: as for `Runner.run_streamed`.
            step: the `step` of the Inngest function's context.
            options: how the run is made durable; `stream` names where the events go besides the caller.
            error_handlers: as for `Runner.run_streamed`.

        Returns:
            What `Runner.run_streamed` returns, with `wait()`, `stats` and `to_dict()`.

        Raises:
            TypeError: `step` is missing or not the `step` of an async Inngest function; not retried.
            UnsupportedError: something that cannot be made durable; raised before the first step.
            Exception: what `Runner.run_streamed` would raise at once; at the same time an `inngest.NonRetriableError`
                where a retry can never go better.
        """
        _check_step(step, sync=False, how=(_HOW_STREAMED, _HOW_STREAMED_SYNC))

        def start() -> RunResultStreaming:
            return _plain_run_streamed(
                starting_agent,
                input,
                context,
                max_turns,
                hooks,
                run_config,
                previous_response_id,
                auto_previous_response_id,
                conversation_id,
                session,
                error_handlers=error_handlers,
            )

        if current_journal() is not None or current_step() is not None:
            return as_durable_result(start(), None)
        refuse_unsupported(starting_agent, input)
        chosen = _chosen(options)
        driver = Driver.for_step(step, checkpoint=chosen.checkpoint, max_runtime=chosen.max_runtime)
        journal = Journal(
            driver,
            chosen,
            name=driver.unique_name(chosen.name or starting_agent.name),
            run_id=driver.engine.run_id,
        )
        if (before := Rewind.of(input, context)) is not None:
            driver.rewinds.append(before)
        return start_streamed(start, driver=driver, journal=journal, starting_agent=starting_agent.name)

    @classmethod
    async def _run_here(
        cls,
        starting_agent: Any,
        input: Any,
        *,
        step: Any,
        options: DurableOptions | None,
        **kwargs: Any,
    ) -> DurableRunResult:
        if current_journal() is not None or current_step() is not None:
            # Inside another durable run: its journal (or the step around this call) makes this one durable already.
            return DurableRunResult.of(await _plain_run(starting_agent, input, **kwargs), RunStats)
        refuse_unsupported(starting_agent, input)
        chosen = _chosen(options)
        if chosen.stream is not None:
            raise non_retriable(ValueError(f"options.stream gets events, and this run has none. Write: {_HOW_SUNK}"))
        driver = Driver.for_step(step, checkpoint=chosen.checkpoint, max_runtime=chosen.max_runtime)
        journal = Journal(
            driver,
            chosen,
            name=driver.unique_name(chosen.name or starting_agent.name),
            run_id=driver.engine.run_id,
        )

        async def main() -> Any:
            with inside_run(journal):
                try:
                    result = await _plain_run(starting_agent, input, **kwargs)
                except Exception as error:
                    await report_failure(journal, starting_agent.name, error)
                    raise
                await summarize(journal, starting_agent.name, result)
                return result

        if (before := Rewind.of(input, kwargs.get("context"))) is not None:
            driver.rewinds.append(before)
        failure: Exception | None = None
        try:
            result = await driver.drive(main, journal.tag)
        except BaseException as error:
            if driver.has_ended:
                driver.rewind()
            else:
                journal.finish()
            if not isinstance(error, Exception) or not is_lasting(error):
                raise
            failure = error
        if failure is not None:
            # The steps that led here are memoized: the next try would come to the same end. Raised outside of the
            # handler, where Python would make `error` the context of its own twin.
            so_far = journal.stats_later(starting_agent.name, getattr(failure, "run_data", None))
            raise with_stats(non_retriable(failure), so_far)
        journal.finish()
        diverged = divergence.unused(journal)
        if diverged is not None:
            raise diverged
        return DurableRunResult.of(result, journal.stats_later(starting_agent.name, result))


def _check_step(step: Any, *, sync: bool, how: tuple[str, str] = (_HOW, _HOW_SYNC)) -> None:
    shown, other = how[::-1] if sync else how
    wanted, unwanted = STEP_TYPES if not sync else STEP_TYPES[::-1]
    if isinstance(step, wanted):
        return
    if step is None:
        told = f"step is missing: pass the step of the Inngest function's context. Write: {shown}"
    elif isinstance(step, unwanted):
        told = f"this step is of {'an async' if sync else 'a synchronous'} Inngest function. Write: {other}"
    elif isinstance(step, CONTEXT_TYPES):  # whose repr has the events in it
        told = f"step is the Inngest function's context itself: pass its step. Write: {shown}"
    else:
        told = f"step must be the step of the Inngest function's context, not {step!r}. Write: {shown}"
    raise non_retriable(TypeError(told))


def _chosen(options: DurableOptions | None) -> DurableOptions:
    if options is None:
        return DurableOptions()
    if not isinstance(options, DurableOptions):
        raise non_retriable(TypeError(f"options must be DurableOptions(…), not {options!r}"))
    return options
