"""Limits on what a run may use: dollars, tokens, model calls and tool calls.

A call is checked before it is made, with what it will at least use, and holds that amount until it has ended. So
calls that run in parallel, and those of nested agents, cannot overrun a limit together.

On a replay, the records of the steps that are done are added again, which gives the same sums; a call that is
remembered needs no check.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Final, Literal, TypeAlias

import inngest
from agents.exceptions import AgentsException

from inngest_agents.request.process_end import in_thread
from inngest_agents.stats.breakdown import EXACT, decimal_text
from inngest_agents.stats.pricing import PriceList, price
from inngest_agents.stats.records import StepRecord, Tokens, UsageRecord
from inngest_agents.stats.stats import RunFacts, RunStats

__all__ = [
    "Budget",
    "BudgetError",
    "BudgetExceeded",
    "BudgetLedger",
    "OnExceeded",
    "Reservation",
    "UnpricedModelError",
]

LimitName: TypeAlias = Literal["max_cost_usd", "max_tokens", "max_model_calls", "max_tool_calls"]

OnExceeded: TypeAlias = "Callable[[BudgetExceeded], str | Awaitable[str | None] | None]"
"""Answers for the agent when its budget is used up: the text becomes the agent's final output. None raises."""

_LIMITS: Final[tuple[LimitName, ...]] = ("max_cost_usd", "max_tokens", "max_model_calls", "max_tool_calls")


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits for a run. None is no limit; 0 allows nothing."""

    max_cost_usd: float | Decimal | None = None
    """US dollars for all model calls."""
    max_tokens: int | None = None
    """Input and output tokens of all model calls, cached ones included."""
    max_model_calls: int | None = None
    max_tool_calls: int | None = None
    per_agent: Mapping[str, Budget] = field(default_factory=dict)
    """Further limits by the agent's name; both have to hold."""
    on_exceeded: OnExceeded | None = None
    """Asked before `BudgetExceeded` is raised. It may be a coroutine function."""
    on_unpriced: Literal["refuse", "allow"] = "refuse"
    """What to do under `max_cost_usd` with a model whose price is not known: "refuse" raises
    `UnpricedModelError` before its first call, "allow" lets it pass without counting dollars."""

    def __post_init__(self) -> None:
        for name in _LIMITS:
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"Budget.{name} must be 0 or more, not {value!r}")

    def limit(self, name: LimitName) -> Decimal | None:
        """One of the limits as an exact number."""
        value = getattr(self, name)
        return None if value is None else Decimal(str(value))


class BudgetError(AgentsException, inngest.NonRetriableError):
    """A call was refused for the budget. The SDK lets its own exceptions alone, also those that come out of a tool: so
    a nested agent's refusal ends the run and is not told to the model as a failure of the tool."""


class BudgetExceeded(BudgetError):  # noqa: N818  it is an outcome that users plan for
    """A call was not made because it would have gone beyond a limit. Not retried: it would fail again."""

    limit: LimitName | None = None
    """The limit that was hit."""
    allowed: Decimal | None = None
    """Its value."""
    spent: Decimal | None = None
    """What was used and is held by calls under way."""
    needed: Decimal | None = None
    """What the refused call would have used at least."""
    agent: str = ""
    """The agent that wanted to make the call."""
    for_agent: bool = False
    """Whether it is the agent's own limit and not the run's."""
    stats: RunStats | None = None
    """What the run used so far."""


class UnpricedModelError(BudgetError):
    """A limit in dollars cannot be kept, because the price of a model is not known; the message says what to do."""


@dataclass(slots=True)
class _Sums:
    max_cost_usd: Decimal = Decimal(0)
    max_tokens: int = 0
    max_model_calls: int = 0
    max_tool_calls: int = 0

    def add(self, other: _Sums, sign: int = 1) -> None:
        self.max_cost_usd = EXACT.fma(Decimal(sign), other.max_cost_usd, self.max_cost_usd)
        self.max_tokens += sign * other.max_tokens
        self.max_model_calls += sign * other.max_model_calls
        self.max_tool_calls += sign * other.max_tool_calls


@dataclass(frozen=True, slots=True, eq=False)
class Reservation:
    """What a call under way holds of the budget. Given back with `BudgetLedger.add` or `release`."""

    agent: str
    amount: _Sums


class BudgetLedger:
    """Keeps the account of one run; shared by its parallel and nested calls.

    Args:
        budget: the limits; None for no limits, when everything is only counted.
        prices: prices of own models, as in `DurableOptions`.
    """

    def __init__(self, budget: Budget | None, *, prices: PriceList | None = None) -> None:
        self.budget = budget
        self._prices = prices
        self._spent: dict[str, _Sums] = {}
        self._held: dict[Reservation, None] = {}
        self._records: dict[str, StepRecord] = {}
        self._lock = threading.Lock()

    @property
    def records(self) -> list[StepRecord]:
        """The records added so far."""
        return list(self._records.values())

    def stats(self, facts: RunFacts | None = None) -> RunStats:
        """What was used so far."""
        return RunStats.from_records(self._records.values(), facts)

    def check_model_call(
        self,
        agent: str,
        estimated_input_tokens: int,
        model: str,
        *,
        provider: str = "",
        max_output_tokens: int = 0,
    ) -> Reservation:
        """Hold what a model call will at least use.

        The price table is read at the first call under a limit in dollars; on an event loop, use
        `check_model_call_async`.

        Args:
            agent: on whose behalf.
            estimated_input_tokens: see `inngest_agents.stats.tokens.count_input`.
            model: the model that is asked.
            provider: as LiteLLM names it.
            max_output_tokens: the most that the model may answer, if that is limited; it is held too.

        Raises:
            BudgetExceeded: the call would go beyond a limit.
            UnpricedModelError: there is a limit in dollars and the model has no known price.
        """
        cost = Decimal(0)
        if self._limits_dollars(agent):
            tokens = Tokens(input_tokens=estimated_input_tokens, output_tokens=max_output_tokens)
            cost = self._price(model, provider, tokens)
        total = estimated_input_tokens + max_output_tokens
        return self._hold(agent, _Sums(cost, total, max_model_calls=1))

    async def check_model_call_async(
        self,
        agent: str,
        estimated_input_tokens: int,
        model: str,
        **more: Any,
    ) -> Reservation:
        """`check_model_call` that reads the price table in another thread."""
        if self._limits_dollars(agent):
            from inngest_agents.stats import price_table

            if price_table.loaded() is None:
                provider = more.get("provider", "")
                await in_thread(lambda: self._price(model, provider, Tokens(input_tokens=1)))
        return self.check_model_call(agent, estimated_input_tokens, model, **more)

    def check_tool_calls(self, agent: str, count: int = 1) -> list[Reservation]:
        """Hold the tool calls that a model has ordered together: all of them, or none.

        Raises:
            BudgetExceeded: they would go beyond a limit.
        """
        whole = self._hold(agent, _Sums(max_tool_calls=count))
        self.release(whole)
        return [self.hold_tool_call(agent) for _ in range(count)]

    def hold_tool_call(self, agent: str) -> Reservation:
        """Hold a tool call that an earlier request has let pass."""
        reservation = Reservation(agent, _Sums(max_tool_calls=1))
        with self._lock:
            self._held[reservation] = None
        return reservation

    def count_agent_tool(self, agent: str) -> None:
        """Count the call of an agent as a tool: it is no step of its own, so it has no record."""
        with self._lock:
            self._spent.setdefault(agent, _Sums()).add(_Sums(max_tool_calls=1))

    def add(self, record: StepRecord, reservation: Reservation | None = None) -> None:
        """Count what a step used, and give back what was held for it.

        A record of a step id that was added already replaces the earlier one, so a replay counts nothing twice.
        """
        with self._lock:
            if reservation is not None:
                self._held.pop(reservation, None)
            earlier = self._records.get(record.step_id)
            for item, sign in ((earlier, -1), (record, 1)):
                if item is not None:
                    for name, amount in _amounts(item):
                        self._spent.setdefault(name, _Sums()).add(amount, sign)
            self._records[record.step_id] = record

    def answers(self, error: BudgetExceeded) -> bool:
        """Whether `on_exceeded` is there to answer for the agent."""
        budgets = self._budgets(error.agent)
        return any(budget.on_exceeded is not None and (error.for_agent or whose is None) for budget, whose in budgets)

    async def answer(self, error: BudgetExceeded) -> str | None:
        """Ask `on_exceeded` of the budget that was hit, or else of the run's, to answer for the agent.

        The answer belongs into the step of the refused call, so that a replay finds it there and does not decide
        anew.
        """
        for budget, whose in reversed(list(self._budgets(error.agent))):
            if budget.on_exceeded is not None and (error.for_agent or whose is None):
                answer = budget.on_exceeded(error)
                return await answer if inspect.isawaitable(answer) else answer
        return None

    def release(self, reservation: Reservation) -> None:
        """Give back what was held for a call that was not made or has no record (a failed attempt)."""
        with self._lock:
            self._held.pop(reservation, None)

    def _limits_dollars(self, agent: str) -> bool:
        return any(budget.max_cost_usd is not None for budget, _ in self._budgets(agent))

    def _budgets(self, agent: str) -> Iterable[tuple[Budget, str | None]]:
        if self.budget is not None:
            yield self.budget, None
            own = self.budget.per_agent.get(agent)
            if own is not None:
                yield own, agent

    def _price(self, model: str, provider: str, tokens: Tokens) -> Decimal:
        total = tokens.input_tokens + tokens.output_tokens
        usage = UsageRecord(tokens=tokens, total_tokens=total, requested_model=model, provider=provider)
        # A price for nothing is unknown; one token tells whether the model has a price at all.
        probe = usage if usage.has_tokens else replace(usage, tokens=Tokens(input_tokens=1))
        found = price(probe, prices=self._prices)
        if found.amount is not None:
            return found.amount if usage.has_tokens else Decimal(0)
        if self.budget is not None and self.budget.on_unpriced == "allow":
            return Decimal(0)
        raise UnpricedModelError(
            f"Budget.max_cost_usd cannot be kept: {found.reason}. Give its prices in the options "
            "(prices={...}), limit tokens instead, or set Budget(on_unpriced='allow').",
        )

    def _hold(self, agent: str, amount: _Sums) -> Reservation:
        with self._lock:
            exceeded = self._exceeded(agent, amount)
            if exceeded is None:
                reservation = Reservation(agent, amount)
                self._held[reservation] = None
                return reservation
        exceeded.stats = self.stats()
        raise exceeded

    def _exceeded(self, agent: str, amount: _Sums) -> BudgetExceeded | None:
        for budget, whose in self._budgets(agent):
            used = self._used(whose)
            for name in _LIMITS:
                limit = budget.limit(name)
                needed = Decimal(getattr(amount, name))
                spent = Decimal(getattr(used, name))
                # A model call uses tokens and dollars even where none are known beforehand.
                open_ended = not needed and amount.max_model_calls and name in {"max_tokens", "max_cost_usd"}
                full = limit is not None and (spent + needed > limit or (open_ended and spent >= limit))
                if full and (needed or open_ended):
                    return _error(name, limit, spent, needed, agent, for_agent=whose is not None)
        return None

    def _used(self, whose: str | None) -> _Sums:
        total = _Sums()
        for name, amount in self._spent.items():
            if whose in {None, name}:
                total.add(amount)
        for reservation in self._held:
            if whose in {None, reservation.agent}:
                total.add(reservation.amount)
        return total


def _amounts(record: StepRecord) -> Iterable[tuple[str, _Sums]]:
    calls = _Sums(max_model_calls=int(record.kind == "model"), max_tool_calls=int(record.is_tool_call))
    yield record.agent, calls
    for usage in record.usages:
        cost = usage.price.amount if usage.price else None
        amount = _Sums(cost or Decimal(0), usage.total_tokens, record.calls_of(usage))
        yield usage.agent or record.agent, amount


def _error(
    name: LimitName,
    allowed: Decimal | None,
    spent: Decimal,
    needed: Decimal,
    agent: str,
    *,
    for_agent: bool,
) -> BudgetExceeded:
    whose = f"of agent {agent!r}" if for_agent else "of the run"
    error = BudgetExceeded(
        f"the budget {whose} is used up: {name} is {_text(allowed)}, {_text(spent)} is used or held by calls "
        f"under way, and the next call of {agent!r} needs {'at least ' if needed else 'more'}"
        f"{_text(needed) if needed else ''}",
    )
    error.limit, error.allowed, error.spent, error.needed = name, allowed, spent, needed
    error.agent, error.for_agent = agent, for_agent
    return error


def _text(value: Decimal | None) -> str:
    return decimal_text(value or Decimal(0))
