"""Model calls over HTTP with the real `openai` client: what is retried, what is final, what is counted."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import inngest
import openai
import pytest
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    function_tool,
    set_tracing_disabled,
)
from agents.models.interface import Model
from openai_server import Provider, Reply, provider

from inngest_agents import DurableRunner
from inngest_agents._inngest_sdk import ResponseInterrupt, _CallResult
from inngest_agents.instrument.accounting import provider_of
from inngest_agents.testing import replayed


@pytest.fixture(autouse=True)
def no_tracing() -> Iterator[None]:
    """Spans would go to the real OpenAI."""
    set_tracing_disabled(True)
    yield
    set_tracing_disabled(False)


MakeModel = Callable[[Provider], Model]


def client(served: Provider, timeout: float = 5.0) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=served.base_url, api_key="test", max_retries=0, timeout=timeout)


def chat(served: Provider) -> Model:
    return OpenAIChatCompletionsModel("gpt-4o", client(served))


def responses(served: Provider) -> Model:
    return OpenAIResponsesModel("gpt-4o", client(served))


both = pytest.mark.parametrize("make", [chat, responses])


def run(agent: Agent[Any], **options: Any) -> Any:
    return replayed(lambda step: DurableRunner.run(agent, "hi", step=step), **options)


@both
async def test_each_call_crosses_http_once_and_is_priced_by_the_model_that_answered(make: MakeModel) -> None:
    @function_tool
    async def add(a: int, b: int) -> int:
        return a + b

    async with provider(Reply(call=("add", {"a": 1, "b": 2}, "call_1")), Reply(text="3")) as served:
        outcome = await run(Agent(name="adder", model=make(served), tools=[add]))

    stats = outcome.result.stats
    assert outcome.result.final_output == "3"
    assert len(served.requests) == 2
    assert stats.models == ["gpt-4o-2024-08-06"]
    assert (stats.input_tokens, stats.output_tokens, stats.cached_tokens, stats.reasoning_tokens) == (
        2000,
        400,
        1200,
        100,
    )
    # gpt-4o-2024-08-06: 2.50 $ a million input, 1.25 cached, 10.00 output.
    assert stats.total_cost_usd == pytest.approx(2 * (400 * 2.5e-6 + 600 * 1.25e-6 + 200 * 10e-6), abs=1e-12)
    assert not stats.estimated


@both
@pytest.mark.parametrize(
    ("status", "error_type"),
    [(401, openai.AuthenticationError), (400, openai.BadRequestError), (404, openai.NotFoundError)],
)
async def test_what_can_never_go_better_fails_at_once_with_its_type(
    make: MakeModel, status: int, error_type: type[Exception]
) -> None:
    async with provider(Reply(status=status)) as served:
        with pytest.raises(error_type, match=f"scripted {status}") as caught:
            await run(Agent(name="a", model=make(served)), max_attempts=5)

    assert len(served.requests) == 1
    assert issubclass(type(caught.value), inngest.NonRetriableError)


@both
async def test_a_server_error_is_retried_by_the_engine(make: MakeModel) -> None:
    async with provider(Reply(status=500), Reply(status=503), Reply(text="fine")) as served:
        outcome = await run(Agent(name="a", model=make(served)), max_attempts=5)

    assert outcome.result.final_output == "fine"
    assert len(served.requests) == 3


@both
async def test_attempts_end_with_the_original_error(make: MakeModel) -> None:
    async with provider(Reply(status=500)) as served:
        with pytest.raises(openai.InternalServerError, match="scripted 500") as caught:
            await run(Agent(name="a", model=make(served)), max_attempts=3)

    assert len(served.requests) == 3
    assert issubclass(type(caught.value), inngest.NonRetriableError)


@pytest.mark.parametrize(
    ("headers", "seconds"), [({"retry-after": "7"}, 7.0), ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5)]
)
async def test_a_rate_limit_carries_the_provider_s_retry_after(headers: dict[str, str], seconds: float) -> None:
    answered: list[Any] = []
    caught: list[Exception] = []

    async with provider(Reply(status=429, headers=headers), Reply(text="fine")) as served:
        agent: Agent[Any] = Agent(name="a", model=chat(served))

        async def handler(step: Any) -> Any:
            try:
                return await DurableRunner.run(agent, "hi", step=step)
            except ResponseInterrupt as interrupt:
                answered.append(_CallResult.from_responses(interrupt.responses).error)
                raise
            except Exception as error:
                caught.append(error)
                raise

        outcome = await replayed(handler, max_attempts=3)

    assert outcome.result.final_output == "fine"
    assert not caught  # it is no end of the run, so the user's own handling of one must not see it
    error = answered[0]
    assert isinstance(error, inngest.RetryAfterError)
    assert isinstance(error.__cause__, openai.RateLimitError)
    wait = (error.retry_after - datetime.datetime.now(error.retry_after.tzinfo)).total_seconds()
    assert seconds - 3 < wait <= seconds


@both
async def test_a_time_out_and_a_cut_connection_are_retried(make: MakeModel) -> None:
    async with provider(Reply(delay=1.0), Reply(cut=True), Reply(text="fine")) as served:
        model = make(served)
        settings = ModelSettings(timeout=0.2)
        outcome = await run(Agent(name="a", model=model, model_settings=settings), max_attempts=5)

    assert outcome.result.final_output == "fine"
    assert len(served.requests) == 3


async def test_tokens_are_estimated_where_the_provider_gives_none() -> None:
    async with provider(Reply(text="a few words of an answer", usage=False)) as served:
        outcome = await run(Agent(name="a", model=chat(served), instructions="Be brief."))

    stats = outcome.result.stats
    assert stats.estimated
    assert 5 <= stats.output_tokens <= 12
    assert 5 <= stats.input_tokens <= 40


async def test_items_newer_than_the_sdk_come_back_losslessly() -> None:
    async with provider(Reply(text="newer")) as served:
        outcome = await run(Agent(name="a", model=responses(served)))

    [response] = outcome.result.raw_responses
    assert response.output[0].model_dump(exclude_unset=True) == {
        "type": "a_type_newer_than_the_sdk",
        "id": "x_1",
        "shape": {"deep": [1, None]},
    }
    assert response.response_id == "resp_1"


async def test_what_the_sdk_leaves_out_of_the_usage_is_counted_and_priced_all_the_same() -> None:
    details = {
        "prompt_tokens_details": {"cached_tokens": 100, "audio_tokens": 40, "cache_creation_tokens": 200},
        "completion_tokens_details": {"reasoning_tokens": 50, "audio_tokens": 30},
    }
    async with provider(Reply(more_usage=details)) as served:
        stats = (await run(Agent(name="a", model=chat(served)))).result.stats
    tokens = stats.timeline[0].usage.tokens
    assert (tokens.audio_input_tokens, tokens.audio_output_tokens, tokens.cache_write_tokens) == (40, 30, 200)
    assert stats.cache_write_tokens == 200
    # GPT-4o has no price for these: the sum is marked as one that leaves something out.
    assert stats.total_cost is not None
    assert not stats.cost_complete
    assert "no price for cache writes, audio input" in stats.unpriced[0].reason


async def test_an_answer_that_cannot_be_read_was_billed_all_the_same() -> None:
    async with provider(Reply(call=("add", {}, "c1")), Reply()) as served:

        class Fussy(OpenAIChatCompletionsModel):
            tries = 0

            async def get_response(self, *args: Any, **kwargs: Any) -> Any:
                response = await super().get_response(*args, **kwargs)
                Fussy.tries += 1
                if Fussy.tries == 1:
                    raise ConnectionError("the answer is of no use")
                return response

        fussy = Fussy("gpt-4o", client(served))
        stats = (await run(Agent(name="a", model=fussy), max_attempts=2)).result.stats
    assert (stats.total_model_calls, stats.total_tokens) == (1, 2400)
    assert stats.total_cost == 2 * Decimal("0.00375")


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://openrouter.ai/api/v1", "openrouter"),
        ("https://acme.openai.azure.com/openai", "azure"),
        ("https://api.x.ai/v1", "xai"),
        ("https://not-api.x.ai.example.com/v1", ""),
        ("http://127.0.0.1:11434/v1", ""),
    ],
)
def test_a_provider_is_known_by_its_address(address: str, name: str) -> None:
    model = OpenAIChatCompletionsModel("m", openai.AsyncOpenAI(base_url=address, api_key="test"))
    assert provider_of(model) == name
