"""The workflow and the activity of the Temporal row, apart because the sandbox imports this module again."""

from __future__ import annotations

from datetime import timedelta

from temporalio import activity, workflow
from temporalio.openai_agents.workflow import activity_as_tool

with workflow.unsafe.imports_passed_through():
    from agents import Runner

    from benchmarks import workloads

LIMIT = timedelta(minutes=1)


@activity.defn
async def lookup(run: str, call: str, delay_ms: int, payload: int) -> str:
    """Look something up."""
    return await workloads.lookup(run, call, delay_ms, payload)


@workflow.defn
class RunAgent:
    """The workflow of the documentation."""

    @workflow.run
    async def run(self, prompt: str) -> str:
        """Run the agent."""
        tool = activity_as_tool(lookup, start_to_close_timeout=LIMIT)
        agent = workloads.make_agent([tool], model=workloads.MODEL)
        result = await Runner.run(agent, prompt, **workloads.run_options())
        return str(result.final_output)
