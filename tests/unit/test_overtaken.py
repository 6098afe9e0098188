"""A planned step that nobody asks for when its turn comes: what is stored in its place, and that it can still run."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from inngest_agents import driver as driver_module
from inngest_agents import durable, idempotency_key, set_step
from inngest_agents.testing import replayed


async def test_a_step_that_was_only_late_runs_once_and_under_its_own_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "OVERTAKEN_GRACE_SECONDS", 0.01)
    executed: list[str] = []
    keys: list[str] = []
    targets: list[str | None] = []

    async def work(name: str) -> str:
        executed.append(name)
        if name == "b":
            keys.append(idempotency_key())
        return name

    async def handler(step: Any) -> list[str]:
        set_step(step)
        targets.append(step._target_hashed_id)

        async def late() -> str:
            if targets[-1] is not None:
                await asyncio.sleep(0.1)
            return await durable("b", work, "b")

        return list(await asyncio.gather(durable("a", work, "a"), late(), durable("c", work, "c")))

    run = await replayed(handler)
    assert run.result == ["a", "b", "c"]
    assert sorted(executed) == ["a", "b", "c"]
    assert sorted(run.steps) == ["a", "b", "c"]
    overtaken = [hashed for hashed, memo in run.memos.items() if memo.get("data") == driver_module.OVERTAKEN]
    assert len(overtaken) == 1
    assert overtaken[0] in targets
    assert keys[0].endswith(overtaken[0][:20])
