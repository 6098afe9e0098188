"""A run to look at: handoff, parallel tools, a nested agent, retries, an unknown price."""

from __future__ import annotations

from typing import Any

from inngest_agents.stats import ErrorRecord, ItemCounts, Price, StepRecord, Tokens, UsageRecord
from inngest_agents.stats.report import Attempt, ReportStep, RunReport

START = 1_760_000_000.0


def usage(model: str, given: int, made: int, usd: str | None, **values: Any) -> UsageRecord:
    tokens = Tokens(
        input_tokens=given,
        cached_input_tokens=given // 3,
        output_tokens=made,
        reasoning_tokens=made // 4,
    )
    price = (
        Price(usd, "litellm", "1.83.0+sha256:ffe40f10de68", model)
        if usd
        else Price(
            source="litellm",
            version="1.83.0+sha256:ffe40f10de68",
            reason=f"LiteLLM's table has no price for {model}",
        )
    )
    return UsageRecord(tokens=tokens, total_tokens=given + made, requests=1, model=model, price=price, **values)


def step(kind: Any, name: str, agent: str, at: float, took: float, **values: Any) -> StepRecord:
    order = values.pop("order", round(at * 1000))
    path = values.pop("path", ("Triage",))
    return StepRecord(
        kind=kind,
        step_id=f"{'/'.join(path)}/{kind}/{name}/{order}",
        name=name,
        agent=agent,
        path=path,
        order=order,
        started_at=START + at,
        duration=took,
        **values,
    )


NESTED = ("Triage", "research#1")
ANSWER = ItemCounts(messages=1, reasoning=1, items=2)
CALLS = ItemCounts(tool_calls=2, items=2)


def records() -> list[StepRecord]:
    mini = "gpt-5-mini-2025-08-07"
    return [
        step("session", "get_items", "Triage", 0.0, 0.08),
        step("guardrail", "on topic?", "Triage", 0.1, 0.62, usage=usage(mini, 210, 12, "0.0000765")),
        step("model", mini, "Triage", 0.1, 1.9, usage=usage(mini, 1480, 96, "0.000562"), counts=CALLS),
        step("handoff", "Sales", "Triage", 2.05, 0.02),
        step(
            "model",
            "gpt-4o",
            "Sales",
            2.1,
            2.6,
            usage=usage("gpt-4o-2024-08-06", 2910, 240, "0.0096750"),
            counts=CALLS,
        ),
        step("tool", "find_orders", "Sales", 4.8, 1.1, call_id="call_7Qa"),
        step("tool", "check_stock", "Sales", 6.4, 0.9, attempts=3, waited=1.6, call_id="call_9Xc"),
        step("model", "qwen3-32b", "Research", 4.8, 1.7, path=NESTED, usage=usage("qwen3-32b", 890, 120, None)),
        step("tool", "search", "Research", 6.6, 0.7, path=NESTED),
        step("mcp", "read_page", "Research", 6.6, 1.2, path=NESTED),
        step(
            "model",
            "qwen3-32b",
            "Research",
            7.9,
            1.4,
            path=NESTED,
            usage=usage("qwen3-32b", 2300, 310, None, estimated=True, estimate_note="tiktoken o200k_base"),
            counts=ANSWER,
        ),
        step(
            "tool",
            "send_invoice",
            "Sales",
            9.5,
            0.4,
            attempts=4,
            waited=2.4,
            error=ErrorRecord("SMTPServerDisconnected", "Connection unexpectedly closed"),
        ),
        step(
            "model",
            "gpt-4o",
            "Sales",
            10.0,
            2.2,
            usage=usage("gpt-4o-2024-08-06", 4120, 310, "0.0134000"),
            counts=ANSWER,
        ),
        step("session", "add_items", "Sales", 12.3, 0.1),
    ]


def report() -> RunReport:
    steps = []
    for record in records():
        values: dict[str, Any] = {"input": {"prompt": "Where is order 7?", "top": [1, 2, None]}}
        values["output"] = {"text": f"Answer of {record.name} 🎉", "ok": True}
        if record.name == "check_stock":
            at = record.started_at
            values["attempts"] = (
                Attempt(at - 1.6, at - 1.3, "TimeoutError: warehouse"),
                Attempt(at - 0.9, at - 0.5, "TimeoutError: warehouse"),
                Attempt(at, record.ended_at),
            )
        steps.append(ReportStep.from_record(record, **values))
    return RunReport(
        run_id="01K6Z3H8R2T5V9",
        title="run-agent",
        started_at=START - 0.05,
        ended_at=START + 12.5,
        input={"prompt": "Where is order 7, and can I have it in blue?"},
        output={"final_output": "It leaves tomorrow, in blue."},
        steps=steps,
        note="embedded engine",
    )
