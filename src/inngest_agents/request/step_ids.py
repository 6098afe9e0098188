"""The ids under which the engine knows steps: forty hexadecimal digits each, as the specification has it.

A step that runs where it is found has the SHA-1 of its readable id. One that is planned comes back as the target of a
request of its own, which may get to another place than the request that planned it: where a guardrail has tripped
meanwhile, nobody asks for the model call that was planned beside it. So the id of a planned step begins with a mark and
with digits of its durable run. They tell whose step a target is, and so when nobody will ask for it any more.

What is stored may be under either id, as each request decides anew whether a step is run at once or planned.
"""

from __future__ import annotations

from typing import Final

from inngest_agents._inngest_sdk import hash_step_id

_MARK: Final = hash_step_id("inngest-agents")[:8]
"""How the ids of planned steps begin. One of the user's own steps in four thousand million begins like this, too."""

_TAG_LENGTH: Final = len(_MARK) + 8

OVERTAKEN: Final = {"overtaken": True}
"""What is stored for a planned step that its run did not need when its turn came. Where the run needs it after all, as
the step was only late, it is asked for under another id."""


def run_tag(name: str) -> str:
    """How the ids of a durable run's planned steps begin; "" is the name of the steps à la carte."""
    return _MARK + hash_step_id(name)[: _TAG_LENGTH - len(_MARK)]


def planned_id(tag: str, hashed_id: str) -> str:
    """The id that a step has where it is planned.

    Args:
        tag: of its run.
        hashed_id: what it has where it runs at once.
    """
    return tag + hashed_id[_TAG_LENGTH:]


def tag_of(hashed_id: str) -> str | None:
    """The tag of the run that has planned a step; None if that was no durable run (or one of an earlier version)."""
    return hashed_id[:_TAG_LENGTH] if hashed_id.startswith(_MARK) else None


def id_after(step_id: str, overtaken_id: str) -> str:
    """The hashed id of a step that was taken for overtaken, and is needed after all."""
    return hash_step_id(f"{step_id} after {overtaken_id}")
