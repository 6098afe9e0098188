"""Notices when a replay asks for another step than the one that is remembered.

Inngest looks a memo up by the step's id alone, and ignores memos that nobody asks for; so code that changed under a run
would go on with answers to other questions. Each step therefore stores what it was asked for (kind, agent, name, and a
digest of its input), and a run that ends must have asked for every memo that it has. A run that begins must not take
the place of one that earlier requests have begun: under another name it would do all anew that the other one has done.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from typing import TYPE_CHECKING, Any, Final

from inngest_agents.errors import DivergenceError
from inngest_agents.memos import memo_head

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inngest_agents.journal import Journal

logger = logging.getLogger("inngest_agents")

PATIENCE_SECONDS: Final = 5.0
"""How long a run that begins waits for one that was begun beside it before, and that may come a little later here."""

_POLL_SECONDS: Final = 0.05


def digest(value: Any) -> str:
    """A short digest of a step's input: of its JSON, and of the text of what JSON cannot carry."""
    # Of eight bytes, as in the first versions of what is stored.
    return memo_head.shorten(hashlib.blake2b(_encode(value).encode(), digest_size=8).digest())


def _shown(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return dump(mode="json", exclude_unset=True, warnings=False)
    # The default repr of an object has its address in it, which differs in each process.
    return type(value).__qualname__


_encode: Final = json.JSONEncoder(default=_shown, separators=(",", ":"), sort_keys=True).encode


def check(
    journal: Journal,
    step: Mapping[str, Any],
    asked: str | None,
    stored: dict[str, Any],
    *,
    by_name: bool = True,
    by_agent: bool = True,
) -> DivergenceError | None:
    """Compare what a step is asked for with what its memo was made for.

    Args:
        journal: the durable run.
        step: the fields of the step's record that are known before it runs.
        asked: the digest of its input.
        stored: its memo.
        by_name: whether the name tells what was asked for; else it may differ each time.
        by_agent: the same of the agent.

    Returns:
        The error to end the run with; None if both are the same, or if the options only want a warning.
    """
    head = memo_head.read(stored)
    kind, agent, name = _identity(stored, head)
    was = (kind, agent if by_agent else "", name if by_name else "", head.asked if head is not None else "")
    now = (step["kind"], step["agent"] if by_agent else "", step["name"] if by_name else "", asked or "")
    if was == now or (was[:3] == now[:3] and "" in {was[3], now[3]}):
        return None
    return _report(journal, DivergenceError(step["step_id"], _describe(*was), _describe(*now)))


def unused(journal: Journal) -> DivergenceError | None:
    """Look for steps of a run that has ended which it has not asked for.

    Returns:
        The error to end the run with; None if there are none, or if the options only want a warning (which is given).
    """
    left = journal.unused(f"{journal.name}/")
    if not left:
        return None
    step_id, memo = left[0]
    found = f"nothing ({len(left)} remembered steps were not asked for)"
    return _report(journal, DivergenceError(step_id, _describe(*_identity(memo, None)), found))


async def replaced(journal: Journal) -> DivergenceError | None:
    """Look for another run in the place of one of which nothing is remembered yet, before its first step.

    Runs that follow each other are started in their order, so what is remembered of one that this request has not
    started was made beside this one, or by code that has changed: its agent has another name now.

    Returns:
        The error to end the run with; None if there is none, or if the options only want a warning (which is given).
    """
    if not journal.driver.engine.memo_count:
        return None
    left = [(step_id, memo) for step_id, memo in journal.unused("") if _identity(memo, None)[0] == "model"]
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        started = tuple(f"{name}/" for name in journal.driver.shared.names)
        left = [(step_id, memo) for step_id, memo in left if not step_id.startswith(started)]
        if not left:
            return None
        if time.monotonic() > deadline:
            break
        await asyncio.sleep(_POLL_SECONDS)
    step_id, memo = left[0]
    found = f"nothing, and begins a run {journal.name!r} instead"
    return _report(journal, DivergenceError(step_id, _describe(*_identity(memo, None)), found))


def _identity(memo: Mapping[str, Any], head: memo_head.Head | None) -> tuple[str, str, str]:
    from inngest_agents.stats.memo import identity

    return identity(memo, head) or ("?", "", "")


def _report(journal: Journal, error: DivergenceError) -> DivergenceError | None:
    if journal.options.divergence == "error":
        return error
    logger.warning("run %s diverged: %s", journal.run_id, error)
    return None


def _describe(kind: str, agent: str, name: str, asked: str = "") -> str:
    of = f" of agent {agent!r}" if agent else ""
    what = f" {name!r}" if name else ""
    return f"{kind}{what}{of}" + (f" with input {asked}" if asked else "")
