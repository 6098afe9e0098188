"""Shows the demo on a terminal or in a plain log: the same lines in both, colours on a terminal only."""

from __future__ import annotations

import json
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from inngest_agents.demo.executions import Execution
from inngest_agents.demo.proof import Check, Kill
from inngest_agents.demo.scenario import Outcome, kind_of, stats_of
from inngest_agents.local import Step, StepAttempt
from inngest_agents.stats.render import printable, rich_stats
from inngest_agents.stats.stats import RunStats

_WIDTH: Final = 116
"""Columns where there is no terminal that has its own."""

_NAME: Final = 40
_BAR: Final = 42


class Show:
    """Tells on a console what happens. See `scenario.Audience`."""

    def __init__(self, console: Console | None = None) -> None:
        plain = Console(highlight=False)
        self.console = console or (plain if plain.is_terminal else Console(highlight=False, width=_WIDTH))
        self._started = 0
        self._cut: set[str] = set()
        self._killed: list[Kill] = []

    def line(self, *parts: str | tuple[str, str], mark: str = " ") -> None:
        """One line; what comes from outside is cut to the width and never read as markup."""
        text = Text.assemble(f" {mark} ", *parts)
        text.truncate(self.console.width, overflow="ellipsis")
        self.console.print(text, no_wrap=True)

    def opening(self, prompt: str, model: str, url: str) -> None:
        """Before all."""
        self.console.print()
        self.console.print(Panel(Text(printable(prompt)), title="a customer types", title_align="left", expand=False))
        self.line("model    ", (model, "bold"))
        self.line("state    ", url)
        self.line(("starting the embedded engine and a worker …", "dim"))

    # Audience -------------------------------------------------------------------------------------------------

    def worker_started(self, process: int, seconds: float) -> None:
        """A worker is up."""
        self._started += 1
        again = "" if self._started == 1 else " again"
        self.console.print()
        title = f"worker {self._started} · process {process}"
        self.console.rule(Text(title, style="bold cyan"), align="left", style="cyan")
        self.line((f"started{again}, answers after {seconds:.1f} s", "dim"))

    def waited(self, seconds: float) -> None:
        """The engine would have waited so long before it tried again."""
        self.line((f"Inngest would try again in {seconds:.0f} s; the demo turns the engine's clock forward", "dim"))
        saved = sorted(self._killed[-1].saved, key=_place)
        self.line((f"{len(saved)} steps come from the memo, and nothing of them runs again:", "bold"))
        listed = Text(" · ".join(map(_short, saved)), style="dim")
        self.console.print(Padding(Text.assemble("↺ ", listed), (0, 0, 0, 3)))
        self.line(("what is new runs:", "bold"))

    def step_saved(self, step: Step, execution: Execution | None) -> None:
        """A step has ended and is in the engine's state."""
        again = step.name in self._cut
        mark, style = ("↻", "yellow") if again else ("✓", "green")
        took = "" if execution is None or execution.finished is None else _took(execution)
        note = ""
        if again:
            found = execution is not None and execution.repeated
            note = "again, found its row in the book: " if found else "again: "
        name = _short(step.name)
        self.line((f"{name:<{_NAME}}", style), f"{took:>7}  ", (note, "yellow"), _detail(step), mark=mark)

    def attempt_failed(self, attempt: StepAttempt) -> None:
        """A step or a request failed, and nobody had killed the worker."""
        error = printable(" ".join(str(attempt.error.get("message", "")).split()))
        then = "Inngest tries again after a while" if attempt.will_retry else "that was the last try"
        self.line((f"failed, {then}: {error}", "red"), mark="✗")

    def worker_killed(self, kill: Kill, cut: list[Execution], written: int) -> None:
        """A worker was killed under some tools, of which some had written into the order book."""
        self._killed.append(kill)
        self._cut |= {e.step for e in cut}
        for e in cut:
            self.line((f"{_short(e.step):<{_NAME}}", "red"), "    cut  ", ("started, never ended", "red"), mark="✗")
        self.console.print()
        title = f"SIGKILL to worker {self._started} · process {kill.process}"
        self.console.rule(Text(title, style="bold red"), align="left", style="red")
        self.line((f"{len(kill.saved)} steps are saved, {len(cut)} cut off", "red"))
        if written:
            rows = "its row is" if written == 1 else f"the {written} rows are"
            self.line((f"the worst moment: {rows} in the order book, and nobody but the dead worker knows it", "red"))

    # The end --------------------------------------------------------------------------------------------------

    def closing(self, outcome: Outcome) -> None:
        """What came of it."""
        self.console.print()
        self.console.rule(Text("who ran what", style="bold"), align="left")
        self.console.print(waterfall(outcome))
        if not outcome.kills:
            self.line(("The run ended without a tool that was at work long enough to be cut off: no kill.", "yellow"))
        self._answer(outcome)
        stats = stats_of(outcome.run)
        if stats:
            self.console.rule(Text("result.stats", style="bold"), align="left")
            self.console.print(rich_stats(RunStats.from_dict(stats)))
        self.proof(outcome.checks)

    def _answer(self, outcome: Outcome) -> None:
        run = outcome.run
        if run.error is not None or not isinstance(run.output, dict):
            error = run.error or {}
            text = f"{error.get('name', run.status)}: {error.get('message', 'no output')}"
            self.console.print(Panel(Text(printable(text)), title="the run failed", border_style="red", expand=False))
            return
        answer = printable(str(run.output.get("final_output")))
        self.console.print(
            Panel(Text(answer), title="the answer", title_align="left", border_style="green", expand=False)
        )

    def proof(self, checks: list[Check]) -> None:
        """The checks, each with its result."""
        self.console.rule(Text("proof, from the order book and the log of executions", style="bold"), align="left")
        for check in checks:
            word = "ok  " if check.holds else "FAIL"
            self.console.print(Text.assemble(f" {word} ", check.text, style="green" if check.holds else "bold red"))
            if not check.holds:
                for text in check.counted:
                    self.line((printable(text), "red"))


def waterfall(outcome: Outcome) -> Table:
    """Which worker ran each step, which were answered from the memo, and when."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column("step", no_wrap=True)
    for n, process in enumerate(outcome.processes, 1):
        table.add_column(f"worker {n}\n{process}", justify="center", no_wrap=True)
    table.add_column("time →", no_wrap=True, width=_BAR)
    executions = outcome.executions
    first = min((e.started for e in executions), default=0.0)
    last = max((e.finished or e.started for e in executions), default=1.0)
    ends = {kill.process: kill.time for kill in outcome.kills}
    for step in sorted(outcome.steps, key=lambda step: _place(step.name)):
        own = [e for e in executions if e.step == step.name]
        bar = _bar(own, ends, first, max(last - first, 0.001)) if own else Text()
        table.add_row(Text(_short(step.name)), *_cells(step.name, own, outcome), bar)
    return table


def _cells(name: str, own: list[Execution], outcome: Outcome) -> list[Text]:
    # A step of another kind than those logged ran under the worker at whose end it was saved first.
    saved_by = sum(name not in kill.saved for kill in outcome.kills)
    cells = []
    for n, process in enumerate(outcome.processes):
        ran = [e for e in own if e.process == process]
        if any(e.finished is not None for e in ran) or (not own and n == saved_by):
            cells.append(Text("ran", style="green"))
        elif ran:
            cells.append(Text("cut off", style="red"))
        else:
            cells.append(Text("memo" if n > saved_by else "", style="dim"))
    return cells


def _bar(own: list[Execution], ends: dict[int, float], first: float, total: float) -> Text:
    signs, styles = [" "] * _BAR, [""] * _BAR
    for e in own:
        end = e.finished or ends.get(e.process, e.started)
        begin = min(int((e.started - first) / total * _BAR), _BAR - 1)
        stop = max(begin + 1, min(round((end - first) / total * _BAR), _BAR))
        style = "red" if e.finished is None else "cyan" if e.kind == "model" else "green"
        for place in range(begin, stop):
            signs[place], styles[place] = ("░" if e.finished is None else "█"), style
    return Text.assemble(*zip(signs, styles, strict=True))


def _place(name: str) -> list[Any]:
    """Sorts steps as the run asks for them: "a/2.1 x" before "a/3 model", "a/3.1 x/1 y" before "a/4"."""
    places: list[Any] = []
    for part in name.split("/")[1:]:
        number = part.split(" ")[0]
        places += [tuple(int(n) for n in number.split(".") if n.isdigit())]
    return [*places, (), name]


def _short(name: str) -> str:
    """A step's id without the run's name."""
    return printable(name.partition("/")[2] or name).replace("/", " › ")


def _took(execution: Execution) -> str:
    assert execution.finished is not None
    return f"{execution.finished - execution.started:.2f} s"


def _detail(step: Step) -> str:
    """What a step gave, in a few words."""
    data = step.data
    if not isinstance(data, dict):
        return "" if step.error is None else str(step.error.get("message", ""))
    output = data.get("output")
    if kind_of(step) == "model" and isinstance(output, dict):
        return _answer_of(output)
    asked = _parsed((step.opts.get("input") or [""])[0])
    if isinstance(asked, dict) and isinstance(output, dict):
        output = {key: value for key, value in output.items() if asked.get(key) != value}
    values = ", ".join(map(str, asked.values())) if isinstance(asked, dict) else str(asked)
    return printable(f"{values} → {_plain(output)}" if values else _plain(output))


def _answer_of(output: dict[str, Any]) -> str:
    items = output.get("output") or []
    calls = [str(item["name"]) for item in items if isinstance(item, dict) and "name" in item]
    if calls:
        counted = [name if calls.count(name) == 1 else f"{calls.count(name)} × {name}" for name in dict.fromkeys(calls)]
        return "calls " + ", ".join(counted)
    parts = [part for item in items if isinstance(item, dict) for part in item.get("content") or ()]
    text = " ".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))
    return printable(f"says “{' '.join(text.split())}”")


def _parsed(arguments: Any) -> Any:
    try:
        return json.loads(arguments)
    except (TypeError, ValueError):
        return arguments


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    return str(value)
