"""Which model the demo takes."""

from __future__ import annotations

import pytest

from inngest_agents.demo.models import chosen_model


@pytest.mark.parametrize(
    ("environment", "model"),
    [
        ({}, "offline-rules"),
        ({"OPENAI_API_KEY": "sk-x", "OPENAI_DEFAULT_MODEL": "gpt-x"}, "gpt-x"),
        ({"OPENAI_API_KEY": "sk-x", "INNGEST_AGENTS_DEMO_MODEL": "gpt-y"}, "gpt-y"),
        ({"OPENAI_API_KEY": "sk-x", "INNGEST_AGENTS_DEMO_MODEL": "offline-rules"}, "offline-rules"),
        ({"INNGEST_AGENTS_DEMO_MODEL": "anthropic/claude-z"}, "litellm/anthropic/claude-z"),
        ({"INNGEST_AGENTS_DEMO_MODEL": "litellm/gemini/g"}, "litellm/gemini/g"),
        ({"INNGEST_AGENTS_DEMO_MODEL": "openai/gpt-y"}, "openai/gpt-y"),
    ],
)
def test_the_model_is_chosen_by_name_or_by_key_or_is_the_offline_one(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], model: str
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_DEFAULT_MODEL", "INNGEST_AGENTS_DEMO_MODEL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert chosen_model() == model
