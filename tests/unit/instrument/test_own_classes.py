"""What the SDK asks of the classes of its own models and sessions holds for the stand-ins in a durable run, too."""

from __future__ import annotations

from typing import Any

from agents import (
    Agent,
    GuardrailFunctionOutput,
    OpenAIChatCompletionsModel,
    OpenAIConversationsSession,
    OutputGuardrail,
    Runner,
)
from agents.testing import ScriptedModel, assistant_message
from openai import AsyncOpenAI

from inngest_agents import DurableRunner
from inngest_agents.testing import replayed


def allow(*_: Any) -> GuardrailFunctionOutput:
    return GuardrailFunctionOutput(output_info=None, tripwire_triggered=False)


class ScriptedChatModel(OpenAIChatCompletionsModel):
    """A chat model of the SDK that needs no provider."""

    def __init__(self, script: list[Any]) -> None:
        super().__init__("test", AsyncOpenAI(api_key="unused"))
        self.script = ScriptedModel(script)

    async def get_response(self, *args: Any, **kwargs: Any) -> Any:
        return await self.script.get_response(*args, **kwargs)


async def test_output_guardrails_go_with_the_chat_models_that_ignore_a_previous_response() -> None:
    model = ScriptedChatModel([[assistant_message("done")], [assistant_message("done")]])
    agent = Agent(name="a", model=model, output_guardrails=[OutputGuardrail(allow)])
    plain = await Runner.run(agent, "hi", previous_response_id="r1")
    run = await replayed(lambda step: DurableRunner.run(agent, "hi", previous_response_id="r1", step=step))
    assert run.result.final_output == plain.final_output == "done"


class MemoryConversation(OpenAIConversationsSession):
    """A conversation that was never set up by the SDK."""

    def __init__(self) -> None:
        self.stored: list[Any] = []

    async def get_items(self, limit: int | None = None) -> list[Any]:
        return self.stored[-limit:] if limit is not None else list(self.stored)

    async def add_items(self, items: list[Any]) -> None:
        self.stored.extend(items)


async def test_a_conversation_that_skips_the_constructor_works() -> None:
    agent = Agent(name="a", model=ScriptedModel([[assistant_message("done")]]))
    session = MemoryConversation()
    await replayed(lambda step: DurableRunner.run(agent, "hi", session=session, step=step))
    assert len(session.stored) == 2
