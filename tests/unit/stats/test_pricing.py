"""Prices: equal to LiteLLM's own figures, found for every way to name a model, and never 0 for unknown."""

from __future__ import annotations

import json
import subprocess
import sys
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inngest_agents import DurableOptions
from inngest_agents.stats import Tokens, UsageRecord, price_table
from inngest_agents.stats.pricing import price, with_price

# LiteLLM asks these providers for a login as soon as their name is seen; the table has no prices for them.
LOGIN = {"github_copilot", "chatgpt"}
TOLERANCE = Decimal("1e-9")


@pytest.fixture(scope="module")
def litellm() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        import litellm

        litellm.suppress_debug_info = True
        yield litellm


def usage_of(model: str, tokens: Tokens, **values: Any) -> UsageRecord:
    total = tokens.input_tokens + tokens.output_tokens
    return UsageRecord(tokens=tokens, total_tokens=total, requests=1, model=model, **values)


def litellm_usage(tokens: Tokens) -> Any:
    from litellm.types.utils import (
        CacheCreationTokenDetails,
        CompletionTokensDetailsWrapper,
        PromptTokensDetailsWrapper,
        Usage,
    )

    long_writes = tokens.cache_write_1h_tokens
    writes = CacheCreationTokenDetails(
        ephemeral_5m_input_tokens=tokens.cache_write_tokens - long_writes,
        ephemeral_1h_input_tokens=long_writes,
    )
    return Usage(
        prompt_tokens=tokens.input_tokens,
        completion_tokens=tokens.output_tokens,
        total_tokens=tokens.input_tokens + tokens.output_tokens,
        prompt_tokens_details=PromptTokensDetailsWrapper(  # type: ignore[no-untyped-call]
            cached_tokens=tokens.cached_input_tokens,
            audio_tokens=tokens.audio_input_tokens,
            image_tokens=tokens.image_input_tokens,
            cache_creation_tokens=tokens.cache_write_tokens,
            cache_creation_token_details=writes if long_writes else None,
        ),
        completion_tokens_details=CompletionTokensDetailsWrapper(
            reasoning_tokens=tokens.reasoning_tokens,
            audio_tokens=tokens.audio_output_tokens,
            image_tokens=tokens.image_output_tokens,
        ),
    )


@st.composite
def consistent_tokens(draw: st.DrawFn) -> Tokens:
    """Parts that do not exceed their wholes, on all sides of the thresholds of tiered prices."""

    def part(whole: int, share: int) -> int:
        return draw(st.just(0) | st.integers(0, whole // share))

    given_tokens = draw(st.sampled_from([1, 900, 128_000, 128_001, 200_001, 272_001]) | st.integers(0, 10**6))
    made = draw(st.integers(0, 50_000))
    writes = part(given_tokens, 4)
    return Tokens(
        input_tokens=given_tokens,
        cached_input_tokens=part(given_tokens, 4),
        cache_write_tokens=writes,
        cache_write_1h_tokens=part(writes, 1),
        output_tokens=made,
        reasoning_tokens=part(made, 3),
        audio_input_tokens=part(given_tokens, 4),
        audio_output_tokens=part(made, 3),
        image_input_tokens=part(given_tokens, 4),
        image_output_tokens=part(made, 3),
    )


def difference(litellm: Any, model: str, tokens: Tokens, tier: str) -> Decimal | None:
    """By how much our price differs from LiteLLM's; None if one of the two is unknown."""
    found = price(usage_of(model, tokens, service_tier=tier))
    if found.usd is None:
        assert found.reason
        return None
    try:
        expected = litellm.cost_per_token(
            model=model,
            usage_object=litellm_usage(tokens),
            service_tier=tier or None,
        )
    except Exception:  # noqa: BLE001  # LiteLLM cannot tell the provider from the name alone
        return None
    return abs(Decimal(found.usd) - Decimal(sum(expected)))


@pytest.fixture(scope="module")
def models(litellm: Any) -> list[str]:
    return [
        name
        for name, entry in litellm.model_cost.items()
        if entry.get("mode") in {"chat", "responses", "completion"} and entry.get("litellm_provider") not in LOGIN
    ]


def test_prices_equal_those_of_litellm_for_every_model_of_its_table(litellm: Any, models: list[str]) -> None:
    tokens = Tokens(
        input_tokens=250_000,
        cached_input_tokens=80_000,
        cache_write_tokens=40_000,
        cache_write_1h_tokens=10_000,
        output_tokens=5_000,
        reasoning_tokens=500,
        audio_input_tokens=100,
        audio_output_tokens=30,
        image_input_tokens=77,
        image_output_tokens=20,
    )
    found = {model: difference(litellm, model, tokens, "priority") for model in models}
    assert {model: by for model, by in found.items() if by is not None and by > TOLERANCE} == {}
    assert sum(by is not None for by in found.values()) > 1500


def test_prices_equal_those_of_litellm_for_any_usage(litellm: Any, models: list[str]) -> None:
    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(models), consistent_tokens(), st.sampled_from(["", "flex", "priority", "default"]))
    def compare(model: str, tokens: Tokens, tier: str) -> None:
        assert (difference(litellm, model, tokens, tier) or 0) <= TOLERANCE

    compare()


def test_the_price_equals_the_cost_of_a_completion_for_litellm(litellm: Any) -> None:
    tokens = Tokens(input_tokens=1200, cached_input_tokens=1024, output_tokens=300, reasoning_tokens=200)
    answer = litellm.ModelResponse(model="gpt-5-mini-2025-08-07", usage=litellm_usage(tokens))
    found = price(usage_of("gpt-5-mini-2025-08-07", tokens))
    expected = litellm.completion_cost(completion_response=answer, custom_llm_provider="openai")
    assert found.amount == Decimal("0.0006696")
    assert float(found.usd or 0) == pytest.approx(expected, abs=1e-9)


PLAIN = Tokens(input_tokens=1000, output_tokens=100)


@pytest.mark.parametrize(
    ("model", "values", "entry"),
    [
        ("gpt-4o-2024-08-06", {}, "gpt-4o-2024-08-06"),
        ("openai/gpt-4o", {}, "gpt-4o"),
        ("litellm/openai/gpt-4o", {}, "gpt-4o"),
        ("litellm/anthropic/claude-sonnet-4-20250514", {}, "claude-sonnet-4-20250514"),
        ("azure/gpt-4o", {}, "azure/gpt-4o"),
        ("gpt-4o-2024-08-06", {"provider": "azure"}, "azure/gpt-4o-2024-08-06"),
        ("gpt-4o-2024-08-06", {"requested_model": "azure/my-deployment"}, "azure/gpt-4o-2024-08-06"),
        ("GPT-4o", {}, "gpt-4o"),
        ("ft:gpt-4o-2024-08-06:acme:support:x1", {}, "ft:gpt-4o-2024-08-06"),
        ("bedrock/anthropic.claude-3-haiku-20240307-v1:0", {}, "anthropic.claude-3-haiku-20240307-v1:0"),
        ("openrouter/anthropic/claude-3.5-sonnet", {}, "openrouter/anthropic/claude-3.5-sonnet"),
    ],
)
def test_a_model_is_found_however_it_is_named(model: str, values: dict[str, str], entry: str) -> None:
    found = price(usage_of(model, PLAIN, **values))
    assert (found.model, found.reason) == (entry, "")
    assert found.amount


def test_a_model_costs_the_same_under_each_name_that_a_provider_or_adapter_gives_it(litellm: Any) -> None:
    differ: dict[str, list[str]] = {}
    for key, entry in litellm.model_cost.items():
        provider = str(entry.get("litellm_provider", ""))
        if entry.get("mode") not in {"chat", "responses", "completion"} or provider in {*LOGIN, ""}:
            continue
        name = key.removeprefix(f"{provider}/")
        full = f"{provider}/{name}"
        usages = {
            "prefix": usage_of(full, PLAIN),
            "provider": usage_of(name, PLAIN, provider=provider),
            "litellm": usage_of(f"litellm/{full}", PLAIN),
            "any-llm": usage_of(f"any-llm/{full}", PLAIN),
            "answered": usage_of(name, PLAIN, requested_model=f"litellm/{full}"),
        }
        expected = price(usages["prefix"]).amount
        found = [form for form, usage in usages.items() if price(usage).amount != expected]
        if found:
            differ[key] = found
    # Perplexity resells its own model under a name that has its name in front twice.
    assert differ.keys() <= {"perplexity/perplexity/sonar"}


def test_a_gateway_that_answers_with_the_models_first_name_has_its_own_price() -> None:
    usage = usage_of("anthropic/claude-3.5-sonnet", PLAIN, requested_model="openrouter/anthropic/claude-3.5-sonnet")
    found = price(usage)
    assert (found.model, found.reason) == ("openrouter/anthropic/claude-3.5-sonnet", "")


def test_an_unlisted_snapshot_costs_what_its_model_costs_and_says_so() -> None:
    found = price(usage_of("gpt-4o-2031-01-02", PLAIN))
    assert found.amount == price(usage_of("gpt-4o", PLAIN)).amount
    assert found.reason == "priced as gpt-4o: the table does not list gpt-4o-2031-01-02"


def test_the_model_asked_for_prices_an_answer_of_an_unknown_name() -> None:
    found = price(usage_of("deployment-7", PLAIN, requested_model="gpt-4o"))
    assert found.model == "gpt-4o"
    assert "which was asked for" in found.reason


@pytest.mark.parametrize(
    ("usage", "reason"),
    [
        (usage_of("my-own-llm", PLAIN), "LiteLLM's table has no price for my-own-llm"),
        (usage_of("", PLAIN), "the provider did not name the model that answered"),
        (usage_of("gpt-4o", Tokens()), "the provider gave no token counts"),
        (
            usage_of("gpt-4o", PLAIN, provider="groq"),
            "LiteLLM's table has no price for gpt-4o for groq (but for",
        ),
        (usage_of("heroku/claude-3-5-haiku", PLAIN), "heroku/claude-3-5-haiku is not priced by tokens"),
    ],
)
def test_an_unknown_price_is_none_with_a_reason(usage: UsageRecord, reason: str) -> None:
    found = price(usage)
    assert found.usd is None
    assert found.reason.startswith(reason)


def test_tiers_are_decided_per_request_and_not_per_run() -> None:
    half = Tokens(input_tokens=150_000, output_tokens=10)
    both = Tokens(input_tokens=300_000, output_tokens=20)
    model = "gemini/gemini-2.5-pro"
    two_requests = UsageRecord(tokens=both, entries=(half, half), requests=2, total_tokens=300_020, model=model)
    expected = price(usage_of(model, half)).amount
    assert expected is not None
    assert price(two_requests).amount == 2 * expected
    assert price(usage_of(model, both)).amount != 2 * expected


def test_own_prices_win_and_never_leave_a_part_free() -> None:
    own = {"my-own-llm": {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6}}
    tokens = Tokens(input_tokens=1000, cached_input_tokens=400, output_tokens=100, reasoning_tokens=50)
    found = price(usage_of("litellm/openai/my-own-llm", tokens), prices=own)
    assert found.amount == Decimal("0.0012")
    assert (found.source, found.model, found.reason) == ("user", "my-own-llm", "")
    assert found.version.startswith("sha256:")


def test_own_prices_may_have_thresholds_and_tiers() -> None:
    own = {
        "m": {
            "input_cost_per_token": 1e-6,
            "input_cost_per_token_above_32k_tokens": 3e-6,
            "output_cost_per_token": 0,
            "input_cost_per_token_flex": 5e-7,
        }
    }
    assert price(usage_of("m", Tokens(input_tokens=40_000)), prices=own).amount == Decimal("0.12")
    assert price(usage_of("m", Tokens(input_tokens=10), service_tier="flex"), prices=own).amount == Decimal("0.000005")


def test_without_litellm_the_price_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(price_table, "_loaded", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = price(usage_of("gpt-4o", PLAIN))
    assert found.usd is None
    assert "inngest-agents[cost]" in found.reason


async def test_the_price_can_be_had_on_an_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(price_table, "_loaded", None)
    first = await with_price(usage_of("gpt-4o", PLAIN))
    assert first == await with_price(usage_of("gpt-4o", PLAIN))
    assert first.price is not None
    assert first.price.amount == Decimal("0.0035")


def test_a_price_imports_no_heavy_library_and_opens_no_connection() -> None:
    code = """
import json, socket, sys
from inngest_agents.stats import Tokens, UsageRecord
before = set(sys.modules)
socket.socket.connect = socket.getaddrinfo = None
from inngest_agents.stats.pricing import price
usage = UsageRecord(tokens=Tokens(input_tokens=9), total_tokens=9, requests=1, model="gpt-4o")
assert price(usage).amount
print(json.dumps(sorted(m for m in set(sys.modules) - before if "." not in m)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"litellm", "tiktoken", "rich", "opentelemetry"} & set(json.loads(done.stdout))


@pytest.mark.parametrize("wrong", ["$2", -1e-6, float("nan"), [1e-6]], ids=str)
def test_a_price_that_is_none_is_told_before_anything_is_billed(wrong: Any) -> None:
    prices: Any = {"m": {"input_cost_per_token": 1e-6, "output_cost_per_token": wrong}}
    with pytest.raises(ValueError, match=r"prices\['m'\]\['output_cost_per_token'\] must be US dollars per token, not"):
        DurableOptions(prices=prices)
