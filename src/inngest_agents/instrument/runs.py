"""Each loop of the SDK opens a scope: the durable run itself, and every run that is nested in it.

A nested run (an agent as a tool) is a plain `Runner.run` inside the SDK; it finds the journal of its parent here. A
plain run inside a step is left alone; what its model calls use is noted for the step's record, see
`instrument.accounting`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from agents import HandoffOutputItem, RunState

from inngest_agents._agents_sdk import around
from inngest_agents.instrument.hooks import durable_hooks
from inngest_agents.instrument.sessions import durable_session, finish_session
from inngest_agents.journal import Journal
from inngest_agents.scope import current_journal, inside_scope


@around("agents.run", "AgentRunner.run", ("self", "starting_agent", "input", "kwargs"))
async def _run(original: Callable[..., Any], self: Any, starting_agent: Any, input: Any, **kwargs: Any) -> Any:
    journal = current_journal()
    if journal is not None:
        journal.note_agent(starting_agent)
        with inside_scope():
            kwargs["hooks"] = durable_hooks(journal, kwargs.get("hooks"))
            result = await _with_session(journal, original, self, starting_agent, input, kwargs)
        journal.handoffs += sum(isinstance(item, HandoffOutputItem) for item in result.new_items)
        return result
    return await original(self, starting_agent, input, **kwargs)


async def _with_session(
    journal: Journal, original: Callable[..., Any], self: Any, starting_agent: Any, input: Any, kwargs: dict[str, Any]
) -> Any:
    """Run with a stand-in for the session, and write what was added to it, also if the run fails.

    Not if it is cancelled: that is how a request ends, and the next one comes here again.
    """
    session = kwargs.get("session")
    if session is None:
        return await original(self, starting_agent, input, **kwargs)
    kwargs["session"] = durable_session(journal, session, is_resumed=isinstance(input, RunState))
    try:
        result = await original(self, starting_agent, input, **kwargs)
    except (Exception, asyncio.CancelledError) as error:
        if isinstance(error, Exception) or not journal.driver.is_cut:  # the user's own code may raise a CancelledError
            await finish_session(journal, session)
        raise
    await finish_session(journal, session)
    return result
