"""A planned step that its run no longer needs when its turn comes, in whatever order the turns come.

A guardrail and the model call beside it are planned together. Where the guardrail has tripped before the model call has
its turn, nobody asks for that one; the engine waits for it all the same.
"""

from __future__ import annotations

import collections
import copy
import json
import random
import uuid
from typing import Any

import inngest
import pytest
from inngest._internal.step_lib import Group

from inngest_agents._inngest_sdk import NoOpStepInfo, Opcode, ResponseInterrupt, make_step

from .harness import EngineUnderTest
from .overtaken_functions import FUNCTIONS, Call, Function


def _check(function: Function, output: Any, counts: collections.Counter[str]) -> None:
    maybe = {f"{name.split()[0]} model" for name in counts if name.endswith("guardrail")}
    assert output == function.output
    assert {name: count for name, count in counts.items() if name not in maybe} == function.counts
    assert all(counts[name] <= 1 for name in maybe)


@pytest.mark.parametrize("streamed", [False, True], ids=["", "streamed"])
@pytest.mark.parametrize("checkpoint", [True, False], ids=["checkpointed", "step by step"])
@pytest.mark.parametrize("limit", [1, None], ids=["one at a time", "all at once"])
def test_a_run_goes_on_without_a_step_that_it_no_longer_needs(
    engine: EngineUnderTest, limit: int | None, checkpoint: bool, streamed: bool
) -> None:
    counts: dict[str, collections.Counter[str]] = {name: collections.Counter() for name in FUNCTIONS}
    agents: dict[str, dict[str, Any]] = collections.defaultdict(dict)

    def served(name: str, function: Function) -> Any:
        @engine.client.create_function(
            fn_id=name,
            trigger=inngest.TriggerEvent(event=f"go/{name}"),
            retries=1,
            concurrency=[inngest.Concurrency(limit=limit)] if limit else None,
        )
        async def fn(ctx: inngest.Context) -> Any:
            call = Call(ctx.step, ctx.group, counts[name], agents[name], checkpoint, streamed)
            return await function.body(call)

        return fn

    engine.serve([served(name, function) for name, function in FUNCTIONS.items()])
    runs = {name: engine.send(f"go/{name}") for name in FUNCTIONS}
    outputs = {name: engine.wait(run, timeout=60).output for name, run in runs.items()}

    assert outputs == {name: function.output for name, function in FUNCTIONS.items()}
    for name, function in FUNCTIONS.items():
        _check(function, outputs[name], counts[name])


class RandomOrder:
    """An engine that gives planned steps their turns in an order of its own, one after the other.

    Args:
        seed: of the order.
        is_stale: whether a step's request may hold the memos of the time when it was planned, as where all planned
            steps run at once.
    """

    def __init__(self, seed: int, *, is_stale: bool) -> None:
        self._random = random.Random(seed)
        self._is_stale = is_stale
        self._client = inngest.Inngest(app_id="app", is_production=False)
        self._run_id = uuid.UUID(int=self._random.getrandbits(128)).hex
        self._memos: dict[str, Any] = {}
        self._planned: dict[str, dict[str, Any]] = {}
        self._plans_all = False

    async def run(self, function: Function, *, streamed: bool) -> tuple[Any, collections.Counter[str]]:
        """What the function returns, and how often its parts ran."""
        counts: collections.Counter[str] = collections.Counter()
        agents: dict[str, Any] = {}
        for _ in range(200):
            target = self._random.choice(list(self._planned)) if self._planned else None
            step = self._step(target)
            try:
                output = await function.body(Call(step, Group(), counts, agents, streamed=streamed))
            except ResponseInterrupt as interrupt:
                self._take(interrupt)
                assert target not in self._planned, "nobody has answered for the target"
                continue
            assert target is None, "the function has ended in a request for one of its steps"
            return output, counts
        raise AssertionError("the function does not end")

    def _step(self, target: str | None) -> Any:
        stale = target is not None and self._is_stale and self._random.random() < 0.5
        memos = self._planned[target] if stale and target is not None else self._memos
        step = make_step(
            self._client, copy.deepcopy(memos), run_id=self._run_id, attempt=0, max_attempts=1, target=target
        )
        execution: Any = step._execution
        execution._request.ctx.disable_immediate_execution = self._plans_all
        return step

    def _take(self, interrupt: ResponseInterrupt) -> None:
        self._plans_all |= len(interrupt.responses) > 1
        for response in interrupt.responses:
            if response.step.op == Opcode.PLANNED:
                self._planned.setdefault(response.step.id, dict(self._memos))
            elif response.step.op == Opcode.STEP_RUN:
                self._planned.pop(response.step.id, None)
                self._memos.setdefault(response.step.id, {"data": json.loads(json.dumps(response.output))})
            else:
                assert isinstance(response.step, NoOpStepInfo)


@pytest.mark.parametrize("is_stale", [False, True], ids=["one at a time", "all at once"])
@pytest.mark.parametrize("name", FUNCTIONS)
async def test_the_order_of_the_turns_makes_no_difference(
    name: str, is_stale: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inngest_agents.request.scheduling.OVERTAKEN_GRACE_SECONDS", 0.1)
    function = FUNCTIONS[name]
    for seed in range(6):
        output, counts = await RandomOrder(seed, is_stale=is_stale).run(function, streamed=seed % 2 == 1)
        _check(function, output, counts)
