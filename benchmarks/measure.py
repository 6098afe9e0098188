"""Measures one row in a process of its own, and prints a line of JSON for each thing it finds.

The plain `Runner` is measured in the same process, in turns with the row: a machine that gets slower gets slower
for both, and each row is compared with the SDK version that it runs on.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
import tempfile
import time
import uuid
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from . import ledger
from .workloads import Workload, agent_for, all_at_once, run_options

if TYPE_CHECKING:
    from collections.abc import Iterable


class Contender(Protocol):
    """One row: a durable runner with its engine."""

    name: str
    durability: str
    """Where a finished step is when the run goes on: memory, file or fsync."""
    packages: tuple[str, ...]
    """The distributions whose versions are reported."""
    kept: tuple[Workload, ...]
    """Further workloads of which only the state is measured."""

    async def start(self, directory: Path) -> None:
        """Start the engine and the worker; files go into `directory`."""

    async def run(self, prompt: str) -> str:
        """Submit a run and wait for its final output."""

    async def one_of_many(self, prompt: str) -> str:
        """The same among many at a time, where memory is measured: it may end as soon as the function has returned."""

    async def stop(self) -> None:
        """Stop what was started."""

    def notes(self) -> dict[str, str]:
        """More versions and settings that a reader needs."""

    async def state(self, prompt: str) -> int | None:
        """How many bytes the engine keeps of the run, where it can be asked."""


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    workloads: list[Workload]
    repeats: int = 3
    directory: str = "."
    row: str = ""
    """Which of its rows a script shall measure, where it has several."""
    memory_rounds: int = 0
    memory_runs: int = 1000
    extras: bool = False
    """Whether to measure what only some rows can: replays, starts, steps beside a plain run with the same saving."""
    budget_s: float = 600.0
    """Past it, no further repeat is started."""

    @classmethod
    def load(cls, text: str) -> Plan:
        """Read a plan back from the JSON of `dump`."""
        data = json.loads(text)
        return cls(**{**data, "workloads": [Workload(**w) for w in data["workloads"]]})

    def dump(self) -> str:
        """The plan as JSON, for the command line."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Sample:
    """One run, timed from outside (`wall`) and by its model calls."""

    wall: float
    """From submitting to having the result."""
    start: float
    """From submitting to the first model call."""
    span: float
    """From the first model call to the last, which is where all but one of the steps are."""
    finish: float
    """From the last model call to having the result."""
    cpu: float
    """Processor time of this process meanwhile."""
    models: int
    tools: int
    exact: bool
    """Whether each call was executed exactly once."""
    prompt: str = field(repr=False, default="")


async def plain(prompt: str) -> str:
    """The baseline: the SDK's own `Runner`."""
    from agents import Runner

    result = await Runner.run(agent_for(prompt), prompt, **run_options())
    return str(result.final_output)


async def sample(run: Any, workload: Workload) -> Sample:
    """Time one run."""
    name = uuid.uuid4().hex[:12]
    prompt = workload.prompt(name)
    gc.collect()
    cpu = time.process_time()
    began = time.monotonic()
    output = await run(prompt)
    ended = time.monotonic()
    cpu = time.process_time() - cpu
    if output != f"{workload.turns} turns done":
        raise RuntimeError(f"wrong output: {output!r}")
    executed = ledger.read(os.environ[ledger.ENV])[name]
    return Sample(
        wall=ended - began,
        start=executed.first_model - began,
        span=executed.last_model - executed.first_model,
        finish=ended - executed.last_model,
        cpu=cpu,
        models=executed.models,
        tools=executed.tools,
        exact=executed.exactly_once(workload.models, workload.tool_calls),
        prompt=prompt,
    )


def emit(kind: str, **values: Any) -> None:
    """Print one line of JSON."""
    print(json.dumps({"kind": kind, **values}), flush=True)


async def measure(contender: Contender, plan: Plan) -> None:
    """Measure all of the plan on one row."""
    directory = Path(tempfile.mkdtemp(dir=plan.directory))
    os.environ[ledger.ENV] = str(directory / "ledger")
    await contender.start(directory)
    try:
        await contender.run(Workload(2, 2).prompt("warm-up"))
        await plain(Workload(2, 2).prompt("warm-up-plain"))
        emit("meta", row=contender.name, durability=contender.durability, versions=versions(contender))
        began = time.monotonic()
        for workload in plan.workloads:
            await _compare(contender, workload, plan, began + plan.budget_s)
        for workload in contender.kept if plan.workloads else ():
            prompt = workload.prompt(uuid.uuid4().hex[:12])
            await contender.run(prompt)
            await _state(contender, workload, prompt)
        if plan.extras:
            await contender.extras(plan)  # type: ignore[attr-defined]  # only rows that the line-up asks for have it
        for number in range(plan.memory_rounds):
            await _memory(contender, number, plan.memory_runs)
    finally:
        await contender.stop()


async def _compare(contender: Contender, workload: Workload, plan: Plan, until: float) -> None:
    """Measure plain and durable in turns."""
    last = None
    for repeat in range(1 if workload.model_ms else plan.repeats):
        if repeat and time.monotonic() > until:
            break
        for mode, run in (("plain", plain), ("durable", contender.run)):
            last = await sample(run, workload)
            values = {k: v for k, v in asdict(last).items() if k != "prompt"}
            emit("sample", workload=workload.name, mode=mode, repeat=repeat, **values)
    if last is not None:
        await _state(contender, workload, last.prompt)


async def _state(contender: Contender, workload: Workload, prompt: str) -> None:
    """Compare what the engine keeps of a run with what the model and the tools answered."""
    held = await contender.state(prompt)
    if held is not None:
        outputs = await output_bytes(workload)
        emit("state", workload=workload.name, bytes=held, steps=workload.steps, **outputs._asdict())


async def _memory(contender: Contender, number: int, runs: int) -> None:
    """One round of many runs at the same time in this process."""
    workload = Workload(10, 1)
    # A ledger for each round, read after the memory was: what the benchmark itself reads must not look like growth.
    os.environ[ledger.ENV] = str(Path(os.environ[ledger.ENV]).with_name(f"ledger-{number}"))
    began = time.monotonic()
    names = [uuid.uuid4().hex[:12] for _ in range(runs)]
    with all_at_once(names):
        await asyncio.gather(*(contender.one_of_many(workload.prompt(name)) for name in names))
    seconds, held = time.monotonic() - began, memory()
    executed = ledger.read(os.environ[ledger.ENV])
    exact = all(executed[name].exactly_once(workload.models, workload.tool_calls) for name in names)
    emit("memory", round=number, runs=runs, rss=held.now, peak=held.peak, seconds=seconds, exact=exact)


class OutputBytes(NamedTuple):
    """How long the JSON is of all that the model and the tools answered in a run, by itself."""

    json: int
    """Without the fields that nobody has set; of the usage, only the counts."""
    full: int
    """With all fields of the model's answers, as pydantic writes them."""


async def output_bytes(workload: Workload) -> OutputBytes:
    """Make a plain run of the workload, and count."""
    from agents import ModelResponse, Runner, ToolCallOutputItem
    from pydantic import TypeAdapter

    prompt = workload.prompt("size")
    result = await Runner.run(agent_for(prompt), prompt, **run_options())
    set_by_someone = [
        {
            "output": [o.model_dump(mode="json", by_alias=True, exclude_unset=True) for o in response.output],
            "usage": {k: v for k, v in asdict(response.usage).items() if isinstance(v, int)},
            "response_id": response.response_id,
        }
        for response in result.raw_responses
    ]
    full = sum(len(TypeAdapter(ModelResponse).dump_json(response)) for response in result.raw_responses)
    outputs = _length(item.output for item in result.new_items if isinstance(item, ToolCallOutputItem))
    return OutputBytes(json=_length(set_by_someone) + outputs, full=full + outputs)


def _length(values: Iterable[Any]) -> int:
    return sum(len(json.dumps(value, separators=(",", ":"))) for value in values)


class Memory(NamedTuple):
    """Bytes of memory that this process holds."""

    now: int
    peak: int
    """The most so far."""


def memory() -> Memory:
    """What this process holds now (at most so far, where the system does not say now), and at most."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return Memory(*(int(lines[key].split()[0]) * 1024 for key in ("VmRSS", "VmHWM")))
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Memory(*2 * [peak if sys.platform == "darwin" else peak * 1024])


def versions(contender: Contender) -> dict[str, str]:
    """The versions that the row runs on."""
    found = {name: metadata.version(name) for name in (*contender.packages, "openai-agents")}
    return {**found, **contender.notes()}


def main(choose: Any) -> None:
    """Run a row's script: the plan is the only argument, `choose` makes the contender for it."""
    plan = Plan.load(sys.argv[1])
    # So that the servers are stopped whoever stops this.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        asyncio.run(measure(choose(plan), plan))
    except Exception as problem:
        emit("failed", reason=f"{type(problem).__name__}: {problem}")
        raise
