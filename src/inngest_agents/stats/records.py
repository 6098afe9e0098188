"""What one step used: the records from which all statistics, prices, budgets and reports are made.

A record is made once, when its step runs, and is stored with the step's answer, so a replay reads the same
record back and nothing is counted twice. Everything else in this package is a pure function of records.

Version policy: `SCHEMA_VERSION` is written into every stored record. A new optional field does not change it
(readers leave out what they do not know, writers leave out defaults). A change that would be misread by an
older reader raises it, and `StepRecord.from_dict` then converts the older form. A record of a newer version
than this package knows is refused with a `ValueError`, because its numbers could be counted wrongly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final, Literal, TypeAlias

from inngest_agents.stats._compact import JsonDict, compact, known

SCHEMA_VERSION: Final = 1

StepKind: TypeAlias = Literal[
    "model",  # one call of a model
    "tool",  # a function tool, or any other local tool without a kind of its own
    "agent_tool",  # an agent called as a tool: no step of its own, its calls are the steps under its path
    "mcp",  # a call of a tool of an MCP server
    "mcp_list",  # the listing of an MCP server's tools
    "shell",
    "computer",
    "patch",  # apply_patch
    "guardrail",
    "session",
    "handoff",
    "hook",
    "attempt",  # what a failed attempt of a step had been billed; the step itself has a record of its own
    "other",
]
TOOL_KINDS: Final[frozenset[StepKind]] = frozenset(
    {"tool", "agent_tool", "mcp", "shell", "computer", "patch"},
)
"""The kinds that count as a tool call."""

UsageOrigin: TypeAlias = Literal["step", "nested", "failed_attempt", "compaction"]


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one request to a model, or the sum of several.

    The parts are contained in the wholes, as in OpenAI's API: cached, cache-write, audio and image input
    tokens are part of `input_tokens`; reasoning, audio and image output tokens are part of `output_tokens`.
    """

    input_tokens: int = 0
    cached_input_tokens: int = 0
    """Input read from the provider's prompt cache."""
    cache_write_tokens: int = 0
    """Input written to the provider's prompt cache, for whatever time to live."""
    cache_write_1h_tokens: int = 0
    """The part of `cache_write_tokens` that is kept for an hour (Anthropic)."""
    output_tokens: int = 0
    reasoning_tokens: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0
    image_input_tokens: int = 0
    image_output_tokens: int = 0

    def to_dict(self) -> JsonDict:
        """JSON without the fields that are 0."""
        return compact(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Tokens:
        """Read what `to_dict` wrote."""
        return cls(**known(cls, data))


NO_PRICE: Final = "LiteLLM's table has no price for {model}"
"""The most frequent `Price.reason`."""


@dataclass(frozen=True, slots=True)
class Price:
    """What a usage cost in US dollars, or why that is not known."""

    usd: str | None = None
    """The exact amount as a decimal string, e.g. "0.00031"; None if it is unknown (never 0 for unknown)."""
    source: str = ""
    """Where the prices come from: "litellm", "user", "provider"."""
    version: str = ""
    """The version of the price table, e.g. "1.83.0+sha256:0f3c9a1b2d4e"."""
    model: str = ""
    """The entry of the table that was used."""
    reason: str = ""
    """Why `usd` is None; with an amount, what the reader must know of it."""
    is_partial: bool = False
    """Whether `usd` leaves something out, for which there is no price."""

    @property
    def amount(self) -> Decimal | None:
        """`usd` as a number."""
        return None if self.usd is None else Decimal(self.usd)

    def to_dict(self) -> JsonDict:
        """JSON without the fields that have their defaults."""
        return compact(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Price:
        """Read what `to_dict` wrote."""
        return cls(**known(cls, data))


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """What one model call used (or, for a nested plain run, what several calls of one model used)."""

    tokens: Tokens = Tokens()
    """The sum over all requests."""
    total_tokens: int = 0
    """As the provider gives it; input plus output where it does not."""
    requests: int = 0
    entries: tuple[Tokens, ...] = ()
    """One per request, where there was more than one: tiers of prices are decided per request."""
    model: str = ""
    """The model that answered; "" if the provider did not say."""
    requested_model: str = ""
    provider: str = ""
    """As LiteLLM names it ("openai", "anthropic", "azure", …); "" if unknown."""
    service_tier: str = ""
    """For instance "flex" or "priority"; "" for the standard tier."""
    estimated: bool = False
    """The tokens were counted here because the provider gave none."""
    estimate_note: str = ""
    """How they were counted."""
    origin: UsageOrigin = "step"
    """What made the call: the "step" itself, a "nested" plain `Runner.run` inside it, a "failed_attempt" that
    the provider had billed, or the "compaction" of a session."""
    agent: str = ""
    """The agent of a nested run, where it is not the agent of the step."""
    price: Price | None = None

    @property
    def priced_requests(self) -> tuple[Tokens, ...]:
        """The tokens of each request, also where there was only one."""
        return self.entries or (self.tokens,)

    @property
    def billed_model(self) -> str:
        """The model that answered, or else the one that was asked for."""
        return self.model or self.requested_model

    @property
    def has_tokens(self) -> bool:
        """Whether there are any token counts; a provider that gives none leaves everything at 0."""
        return bool(self.tokens.input_tokens or self.tokens.output_tokens or self.total_tokens)

    def with_price(self, price: Price) -> UsageRecord:
        """The same usage with its price."""
        return replace(self, price=price)

    def to_dict(self) -> JsonDict:
        """JSON without the fields that have their defaults; the tokens lie flat beside the other fields."""
        out = compact(self)
        tokens = out.pop("tokens", {})
        return {**tokens, **out}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> UsageRecord:
        """Read what `to_dict` wrote."""
        values = known(cls, data)
        values["tokens"] = Tokens.from_dict(data)
        values["entries"] = tuple(Tokens.from_dict(entry) for entry in data.get("entries", ()))
        if data.get("price") is not None:
            values["price"] = Price.from_dict(data["price"])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class ItemCounts:
    """How many items a model's answer (or a whole run) brought."""

    messages: int = 0
    reasoning: int = 0
    tool_calls: int = 0
    """Calls of any tool, handoffs included: for the model they are tool calls."""
    items: int = 0
    """All of them."""

    def __add__(self, other: ItemCounts) -> ItemCounts:
        return ItemCounts(
            self.messages + other.messages,
            self.reasoning + other.reasoning,
            self.tool_calls + other.tool_calls,
            self.items + other.items,
        )

    def to_dict(self) -> JsonDict:
        """JSON without the fields that are 0."""
        return compact(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ItemCounts:
        """Read what `to_dict` wrote."""
        return cls(**known(cls, data))


@dataclass(frozen=True, slots=True)
class ErrorRecord:
    """How a step failed."""

    type: str
    message: str = ""

    def to_dict(self) -> JsonDict:
        """JSON."""
        return compact(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ErrorRecord:
        """Read what `to_dict` wrote."""
        return cls(**known(cls, data))


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What one step did and used, without its input and output."""

    kind: StepKind
    step_id: str
    """The id that the step has for the engine, before hashing."""
    name: str = ""
    """What was called: the tool, the guardrail, the agent handed over to, the requested model."""
    agent: str = ""
    """The agent on whose behalf the step ran."""
    path: tuple[str, ...] = ()
    """The nesting, for a step of an agent that is called as a tool: who called, and the tool call, outermost first,
    e.g. ("triage", "1.1 research", "researcher", "2.1 read"). Empty for the steps of the run itself."""
    order: int = 0
    """The place in the order in which the run asked for its steps; the same on each replay."""
    call_id: str = ""
    """The id which the model gave to the tool call."""
    started_at: float = 0.0
    """Seconds since the epoch at which the last attempt began."""
    duration: float = 0.0
    """Seconds which the last attempt took."""
    waited: float = 0.0
    """Seconds between the first request for the step and the start of its last attempt: queue and backoff."""
    attempts: int = 1
    """How many attempts were begun, the last one included."""
    error: ErrorRecord | None = None
    """The final failure; None if the step succeeded."""
    usage: UsageRecord | None = None
    """The step's own model call."""
    nested: tuple[UsageRecord, ...] = ()
    """All else that was billed while the step ran; see `UsageRecord.origin`."""
    counts: ItemCounts = ItemCounts()
    """What the model's answer brought."""
    finish_reasons: tuple[str, ...] = ()
    response_id: str = ""
    estimated_input_tokens: int = 0
    """What a budget had counted before the call, so that a replay decides the same."""

    @property
    def attempt(self) -> int:
        """The last attempt, counted from 0."""
        return self.attempts - 1

    @property
    def ended_at(self) -> float:
        """Seconds since the epoch."""
        return self.started_at + self.duration

    @property
    def usages(self) -> tuple[UsageRecord, ...]:
        """The step's own usage, if it has one, and all nested ones."""
        return self.nested if self.usage is None else (self.usage, *self.nested)

    def calls_of(self, usage: UsageRecord) -> int:
        """How many model calls one of `usages` adds to the step itself.

        A model step is a call already, and a failed attempt is an attempt of a call that is counted. All else (a
        plain run inside a tool, a guardrail that asks a model, a compaction) counts its requests.
        """
        counted = usage.origin == "failed_attempt" or (usage.origin == "step" and self.kind == "model")
        return 0 if counted else usage.requests

    @property
    def is_tool_call(self) -> bool:
        """Whether the step counts as a tool call."""
        return self.kind in TOOL_KINDS

    @property
    def agent_tool_calls(self) -> list[AgentToolCall]:
        """The calls of agents as tools that the step lies in, outermost first; they are no steps themselves."""
        calls = (_agent_tool_call(self.path[: end + 1]) for end in range(1, len(self.path), 2))
        return [call for call in calls if call is not None]

    @property
    def tool(self) -> str:
        """The tool that the step is for: its own, or else the innermost agent that was called as one; "" if none."""
        if self.is_tool_call or (self.kind == "attempt" and self.name):
            return self.name
        calls = self.agent_tool_calls
        return calls[-1].tool if calls else ""

    def to_dict(self) -> JsonDict:
        """JSON without the fields that have their defaults, and with the version of the schema as `v`."""
        return {"v": SCHEMA_VERSION, **compact(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> StepRecord:
        """Read what `to_dict` wrote.

        Raises:
            ValueError: the record is of a newer schema than this version of the package knows.
        """
        check_version(data.get("v", SCHEMA_VERSION), SCHEMA_VERSION, "step record")
        values = known(cls, data)
        for name, reader in _PARTS.items():
            if values.get(name) is not None:
                values[name] = reader(values[name])
        for name in ("path", "finish_reasons"):
            if name in values:
                values[name] = tuple(values[name])
        if "nested" in values:
            values["nested"] = tuple(UsageRecord.from_dict(item) for item in values["nested"])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class AgentToolCall:
    """One call of an agent as a tool, told by the path of the steps in it."""

    path: tuple[str, ...]
    agent: str
    """The agent that called."""
    tool: str


_CALL_LABEL: Final = re.compile(r"(?P<call>\d+\.\d+ (?P<tool>.+?)|(?P<resumed>.+) \S+?)(?::\d+)?")
"""How the label of a tool call reads: "2.1 research", or "research call_7Qa" where the place is not known; with ":1" at
its end for a second run inside of the same call."""


def _agent_tool_call(path: tuple[str, ...]) -> AgentToolCall | None:
    label = path[-1]
    match = _CALL_LABEL.fullmatch(label)
    if match is None or label.startswith(f"{path[-2]} nested run"):  # a run that user code started
        return None
    return AgentToolCall((*path[:-1], match["call"]), path[-2], match["tool"] or match["resumed"])


_PARTS: Final = {
    "error": ErrorRecord.from_dict,
    "usage": UsageRecord.from_dict,
    "counts": ItemCounts.from_dict,
}


def check_version(found: object, known_version: int, what: str) -> None:
    """Refuse what a newer version of the package has written.

    Raises:
        ValueError: `found` is no whole number, or greater than `known_version`.
    """
    if not isinstance(found, int) or found > known_version:
        raise ValueError(
            f"{what} of schema version {found!r}: this inngest-agents reads up to {known_version}; "
            "deploy the version that wrote it, or a newer one",
        )
