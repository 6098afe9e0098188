"""Which model the demo uses: the offline one, or a real one, each with its calls logged as executions."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any

from agents import ModelResponse, MultiProvider, RunConfig
from agents.models.default_models import get_default_model
from agents.models.interface import Model, ModelProvider

from inngest_agents.demo import offline_model
from inngest_agents.demo.executions import Executions

_ROUTED = ("litellm/", "openai/", "any-llm/")


def chosen_model() -> str:
    """The name of the model.

    It is `INNGEST_AGENTS_DEMO_MODEL` (a model of OpenAI's, or LiteLLM's name of one, such as
    "anthropic/claude-sonnet-4-5"), else the SDK's default where there is an `OPENAI_API_KEY`, else the offline model.
    """
    name = os.environ.get("INNGEST_AGENTS_DEMO_MODEL", "").strip()
    if not name:
        name = get_default_model() if os.environ.get("OPENAI_API_KEY") else offline_model.NAME
    return name if "/" not in name or name.startswith(_ROUTED) else f"litellm/{name}"


def run_config(executions: Executions, *, pace: float = 1.0) -> RunConfig:
    """The `RunConfig` that runs all agents on the chosen model and logs each real call of it."""
    offline = chosen_model() == offline_model.NAME
    provider = _OfflineProvider(pace) if offline else MultiProvider()
    return RunConfig(
        model=chosen_model(),
        model_provider=RecordedProvider(provider, executions),
        tracing_disabled=not os.environ.get("OPENAI_API_KEY"),
    )


class _OfflineProvider(ModelProvider):
    def __init__(self, pace: float) -> None:
        self._model = offline_model.OfflineModel(pace=pace)

    def get_model(self, model_name: str | None) -> Model:  # noqa: ARG002  there is one only
        return self._model


class RecordedProvider(ModelProvider):
    """Gives the models of another provider, their calls logged.

    Args:
        inner: where the models come from.
        executions: the log.
    """

    def __init__(self, inner: ModelProvider, executions: Executions) -> None:
        self._inner = inner
        self._executions = executions

    def get_model(self, model_name: str | None) -> Model:  # noqa: D102  see ModelProvider
        return _RecordedModel(self._inner.get_model(model_name), model_name or "default", self._executions)

    async def aclose(self) -> None:
        """Close the other provider."""
        await self._inner.aclose()


class _RecordedModel(Model):
    def __init__(self, inner: Model, name: str, executions: Executions) -> None:
        self._inner = inner
        self._name = name
        self._executions = executions

    async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
        with self._executions.recorded("model", self._name):
            return await self._inner.get_response(*args, **kwargs)

    def stream_response(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        return self._inner.stream_response(*args, **kwargs)

    async def close(self) -> None:
        await self._inner.close()

    def get_retry_advice(self, request: Any) -> Any:
        return self._inner.get_retry_advice(request)
