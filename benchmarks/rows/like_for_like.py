"""Durable runs beside what has the same wait before it, and the same saving.

Two figures of a durable run have something in them that is not the price of making it durable. Before its start an
event waits in the engine's queue, as it would for any function. And what the SDK works out anew in each turn to
identify the function calls so far is kept, which saves the more the longer the run is (see
`inngest_agents.instrument.invocations`). Here the first is told apart by a function that runs the plain `Runner`, the
second by a plain `Runner` that keeps the identities, too.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest import mock

from benchmarks import measure
from benchmarks.workloads import LENGTHS, Workload
from inngest_agents.instrument import invocations
from inngest_agents.scope import current_journal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.measure import Plan

STARTS = 15
"""How often each of the two functions is started; where a queue is looked into now and then, that varies much."""


async def starts(durable: Any, plain: Any) -> None:
    """Start the function that runs durably, and the one that runs the plain `Runner`, in turns."""
    workload = Workload(1, 1)
    for repeat in range(STARTS):
        for mode, run in (("plain", plain), ("durable", durable)):
            timed = await measure.sample(run, workload)
            measure.emit("start", mode=mode, repeat=repeat, start=timed.start)


async def steps(durable: Any, plan: Plan) -> None:
    """Compare runs of all lengths with plain ones that keep the identities of function calls as durable ones do."""
    for workload in (w for w in LENGTHS if w in plan.workloads):
        for _ in range(plan.repeats):
            with identities_kept():
                plain = await measure.sample(measure.plain, workload)
            timed = await measure.sample(durable, workload)
            measure.emit("kept", workload=workload.name, plain=plain.span, durable=timed.span)


@dataclass
class Kept:
    """What stands in for a durable run's journal, of which the instrument looks into nothing else."""

    identities: dict[Any, Any] = field(default_factory=dict)


@contextlib.contextmanager
def identities_kept() -> Iterator[Kept]:
    """Let the plain runs in it keep the identities of their function calls; durable ones do so anyway."""
    kept = Kept()

    def journal() -> Any:
        return current_journal() or kept

    with mock.patch.object(invocations, "current_journal", journal):
        yield kept
