"""Functions for a worker that is killed: each step writes a line to the file named by `LOG`."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import inngest


def build(client: inngest.Inngest) -> list[inngest.Function[Any]]:
    log = Path(os.environ["LOG"])

    def note(name: str) -> None:
        with log.open("a") as file:
            file.write(f"{name}\n")

    def step(name: str, seconds: float = 0) -> Any:
        async def handler() -> str:
            note(name)
            await asyncio.sleep(seconds)
            return name

        return handler

    @client.create_function(fn_id="fn", trigger=inngest.TriggerEvent(event="go"), retries=20)
    async def fn(ctx: inngest.Context) -> Any:
        first = await ctx.step.run("first", step("first"))
        # The first worker hangs here until it is killed.
        second = await ctx.step.run("second", step("second", float(os.environ.get("HANG", "0"))))
        return [first, second]

    return [fn]
