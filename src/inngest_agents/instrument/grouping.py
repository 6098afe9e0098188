"""The key under which a provider caches the prompts of a run: the same in each of its requests.

The SDK makes one up for a run that has no conversation, session or group. A new one on each replay would miss the cache
of the turns before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from inngest_agents import _agents_sdk as sdk
from inngest_agents.scope import current_journal, current_scope, is_in_loop


@sdk.around("agents.run_internal.run_grouping", "resolve_run_grouping", ("conversation_id", "session", "group_id"))
def _grouping(original: Callable[..., Any], **kwargs: Any) -> tuple[str, str]:
    kind, value = original(**kwargs)
    journal = current_journal()
    if journal is None or kind != "run":
        return kind, value
    place = journal.name
    if is_in_loop():
        scope = current_scope()
        place = f"{scope.path or place}/{scope.repeated('grouping')}"
    named = f"{journal.run_id}/{place}"
    return kind, hashlib.sha256(named.encode()).hexdigest()[: len(value)]
