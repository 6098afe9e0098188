"""The worker: a FastAPI app with one Inngest function that runs the agents durably.

`make demo` starts it on the embedded engine. It runs as well on Inngest's dev server:

    uvicorn inngest_agents.demo.worker:app --port 8000
    npx inngest-cli@latest dev -u http://localhost:8000/api/inngest
"""

from __future__ import annotations

import logging
from typing import Any

import fastapi
import inngest
import inngest.fast_api

from inngest_agents import DurableRunner
from inngest_agents.demo.agents import book, triage
from inngest_agents.demo.models import run_config

client = inngest.Inngest(app_id="shop", is_production=False, logger=logging.getLogger("inngest_agents.demo"))

CONFIG = run_config(book.executions, pace=book.pace)


@client.create_function(fn_id="answer-customer", trigger=inngest.TriggerEvent(event="shop/message"))
async def answer_customer(ctx: inngest.Context) -> dict[str, Any]:
    """Let the agents deal with what a customer typed."""
    prompt = str(ctx.event.data["prompt"])
    result = await DurableRunner.run(triage, prompt, step=ctx.step, run_config=CONFIG, max_turns=30)
    return result.to_dict()


app = fastapi.FastAPI()
inngest.fast_api.serve(app, client, [answer_customer])
