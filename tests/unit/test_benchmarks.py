"""The arithmetic of the benchmarks, and that their workloads make the calls that they say. Never a time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from agents import Runner
from benchmarks import environments, figures, ledger, lineup, measure, report, workloads
from benchmarks.figures import Pair, Row, Spread
from benchmarks.measure import Plan, Sample
from benchmarks.rows import like_for_like, replays
from benchmarks.rows.durable import EmbeddedStandard
from benchmarks.rows.plain import Plain
from benchmarks.workloads import INSTANT, REALISTIC, Workload


def a_sample(wall: float, *, start: float = 0.0, finish: float = 0.0, exact: bool = True) -> Sample:
    return Sample(
        wall=wall,
        start=start,
        span=wall - start - finish,
        finish=finish,
        cpu=wall,
        models=1,
        tools=1,
        exact=exact,
    )


def pairs_of(workload: Workload, per_step: float, *, start: float = 0.0, plain: float = 1.0) -> list[Pair]:
    """A pair whose durable run took so much longer per step, and its start besides."""
    span = plain + per_step * (workload.steps - 1)
    return [Pair(a_sample(plain), a_sample(start + span, start=start))]


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "ledger"
    monkeypatch.setenv(ledger.ENV, str(path))
    return path


# Workloads ---------------------------------------------------------------------------------------------


def test_the_workloads_are_those_of_the_table() -> None:
    assert [(w.turns, w.tools) for w in INSTANT] == [(10, 1), (50, 1), (100, 1), (200, 1), (10, 3), (10, 10)]
    assert (REALISTIC.model_ms, REALISTIC.tool_ms, REALISTIC.tools) == (800, 100, 3)


def test_steps_are_model_calls_and_tool_calls() -> None:
    assert [w.steps for w in INSTANT] == [21, 101, 201, 401, 41, 111]


@pytest.mark.parametrize("workload", [Workload(1, 1), Workload(10, 1), Workload(10, 3), Workload(3, 10)])
async def test_a_plain_run_makes_each_call_of_a_workload_once(workload: Workload, book: Path) -> None:
    output = await measure.plain(workload.prompt("a"))

    executed = ledger.read(book)["a"]
    assert output == f"{workload.turns} turns done"
    assert (executed.models, executed.tools) == (workload.models, workload.tool_calls)
    assert executed.exactly_once(workload.models, workload.tool_calls)


async def test_a_sample_is_made_of_start_span_and_finish(book: Path) -> None:
    found = await measure.sample(measure.plain, Workload(3, 2))

    assert found.exact
    assert (found.models, found.tools) == (4, 6)
    assert found.start + found.span + found.finish == pytest.approx(found.wall)


async def test_a_sample_refuses_a_wrong_output(book: Path) -> None:
    async def wrong(prompt: str) -> str:
        return "nonsense"

    with pytest.raises(RuntimeError, match="wrong output"):
        await measure.sample(wrong, Workload(1, 1))


async def test_the_tools_answer_as_long_as_the_workload_says(book: Path) -> None:
    short = await measure.output_bytes(Workload(5, 1, payload=100))
    long = await measure.output_bytes(Workload(5, 1, payload=1100))

    # Besides the answers, each tool call states the payload once, in one more digit.
    assert long.json - short.json == 5 * 1000 + 5
    assert long.full - short.full == 5 * 1000 + 5


async def test_the_whole_json_of_the_answers_has_the_fields_that_nobody_has_set(book: Path) -> None:
    found = await measure.output_bytes(Workload(2, 1))

    # In each of the 2 calls `async_`, `caller` and `namespace` are null, and no details of usage are left out.
    assert found.full - found.json > 2 * len('"async_":null,"caller":null,"namespace":null,')


async def test_runs_that_meet_are_under_way_at_the_same_time(book: Path) -> None:
    runs = ["a", "b", "c"]
    with workloads.all_at_once(runs):
        first = asyncio.create_task(measure.plain(Workload(2, 1).prompt("a")))
        again = asyncio.create_task(measure.plain(Workload(2, 1).prompt("a")))
        second = asyncio.create_task(measure.plain(Workload(2, 1).prompt("b")))
        await asyncio.sleep(0.1)
        before = ledger.read(book)
        last = await measure.plain(Workload(2, 1).prompt("c"))
        outputs = [await first, await again, await second, last]

    assert {run: dict(found.counts) for run, found in before.items()} == {"a": {"model:0": 2}, "b": {"model:0": 1}}
    assert outputs == ["2 turns done"] * 4
    assert await measure.plain(Workload(1, 1).prompt("d")) == "1 turns done"  # on its own again


async def test_openai_s_model_makes_the_same_calls_with_ids_as_long_as_the_api_s(book: Path) -> None:
    agent, prompt = workloads.agent_for(Workload(3, 2, api=True).prompt("a")), Workload(3, 2, api=True).prompt("a")
    result = await Runner.run(agent, prompt, **workloads.run_options())

    assert result.final_output == "3 turns done"
    assert ledger.read(book)["a"].tools == 6
    ids = {response.response_id for response in result.raw_responses}
    assert (len(ids), {len(found or "") for found in ids}) == (4, {55})
    calls: list[Any] = [item for response in result.raw_responses[:3] for item in response.output]
    assert len({call.call_id for call in calls}) == 6
    assert {len(call.call_id) for call in calls} == {29}


# The ledger -------------------------------------------------------------------------------------------------


def test_the_ledger_tells_a_call_that_ran_twice(book: Path) -> None:
    for call in ("model:0", "tool:0.0", "tool:0.0", "model:1"):
        ledger.note("a", call)
    ledger.note("b", "model:0")

    executed = ledger.read(book)["a"]
    assert (executed.models, executed.tools) == (2, 2)
    assert not executed.exactly_once(2, 2)
    assert executed.first_model <= executed.last_model


def test_the_ledger_tells_a_call_that_did_not_run(book: Path) -> None:
    ledger.note("a", "model:0")

    assert not ledger.read(book)["a"].exactly_once(2, 0)


def test_the_ledger_counts_other_processes(book: Path) -> None:
    note = "from benchmarks import ledger; ledger.note('a', 'model:0')"
    subprocess.run([sys.executable, "-c", note], check=True, cwd=environments.ROOT)
    ledger.note("a", "model:1")

    assert ledger.read(book)["a"].exactly_once(2, 0)


# Arithmetic -------------------------------------------------------------------------------------------------


def test_a_spread_is_the_median_and_the_range() -> None:
    assert Spread.of([3.0, 1.0, 10.0]) == (3.0, 1.0, 10.0)
    assert Spread.of([1.0, 2.0]) == (1.5, 1.0, 2.0)


def test_the_overhead_leaves_start_and_finish_out() -> None:
    workload = Workload(10, 1)
    pair = Pair(a_sample(1.0), a_sample(5.0, start=2.0, finish=1.0))

    assert figures.overhead([pair], workload).median == pytest.approx(1.0 / 20)


def test_the_slope_leaves_out_what_a_run_costs_once() -> None:
    row = Row("x")
    for workload, start in ((figures.SHORT, 0.150), (figures.LONG, 0.050)):
        # So long until it starts, 20 ms at the end, 1 ms for each step.
        wall = 1.0 + start + 0.020 + 0.001 * workload.steps
        row.pairs[workload.name] = [Pair(a_sample(1.0), a_sample(wall, start=start, finish=0.020))]

    assert figures.LONG.steps - figures.SHORT.steps == 180
    assert figures.slope(row) == pytest.approx(0.001)


def test_without_both_lengths_there_is_no_slope() -> None:
    assert figures.slope(Row("x", pairs={"10x1": pairs_of(Workload(10, 1), 0.001)})) is None


def test_flatness_is_the_largest_overhead_by_the_smallest_and_growth_the_last_by_the_first() -> None:
    costs = {10: 0.0012, 50: 0.0010, 100: 0.0015, 200: 0.0006}
    row = Row("x")
    for turns, cost in costs.items():
        row.pairs[f"{turns}x1"] = pairs_of(Workload(turns, 1), cost)

    assert figures.flatness(row) == pytest.approx(2.5)
    assert figures.growth(row) == pytest.approx(0.5)
    del row.pairs["200x1"]
    assert figures.growth(row) is None
    assert figures.flatness(row) is None


def test_further_steps_leave_out_what_a_run_costs_once() -> None:
    row, once = Row("x"), 0.020
    for turns in (10, 50, 200):
        steps = Workload(turns, 1).steps - 1
        row.pairs[f"{turns}x1"] = pairs_of(Workload(turns, 1), once / steps + 0.001)
    assert figures.further_steps(row) == [pytest.approx(0.001)] * 2
    assert figures.further_steps(Row("x")) == []


async def test_a_plain_run_keeps_the_identities_of_its_calls_where_it_is_to(book: Path) -> None:
    with like_for_like.identities_kept() as kept:
        await measure.plain(Workload(3, 1).prompt("a"))
    found = len(kept.identities)
    await measure.plain(Workload(3, 1).prompt("b"))

    assert found >= 3
    assert len(kept.identities) == found


async def test_runs_are_compared_with_plain_ones_that_keep_the_same(
    book: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = Plan([Workload(10, 1), Workload(10, 3), Workload(10, 1, model_ms=1)], repeats=2)

    await like_for_like.steps(measure.plain, plan)

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["kind"], line["workload"]) for line in lines] == 2 * [("kept", "10x1")]
    assert all(line["plain"] > 0 and line["durable"] > 0 for line in lines)


async def test_two_functions_are_started_in_turns(book: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await like_for_like.starts(measure.plain, measure.plain)

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["mode"] for line in lines] == like_for_like.STARTS * ["plain", "durable"]


def test_latencies_are_those_of_the_instant_workloads() -> None:
    row = Row("x", pairs={"10x1": pairs_of(Workload(10, 1), 0.0, start=0.1)})
    row.pairs[REALISTIC.name] = pairs_of(REALISTIC, 0.0, start=9.0)

    found = figures.latency(row, "start")
    assert found is not None
    assert found.high == pytest.approx(0.1)


def test_ratio_compares_whole_runs() -> None:
    assert figures.ratio([Pair(a_sample(2.0), a_sample(3.0))]).median == pytest.approx(1.5)


def test_executions_say_where_a_call_ran_twice() -> None:
    row = Row("x", pairs={"10x1": [Pair(a_sample(1), a_sample(1)), Pair(a_sample(1), a_sample(1, exact=False))]})

    assert figures.executions(row) == "NOT exactly once: 1 model calls for 11, 1 tool calls for 10 in 10x1"
    row.pairs["10x1"].pop()
    assert figures.executions(row) == "exactly once (1 runs)"


# From a row's process to the tables --------------------------------------------------------------------------


def test_a_plan_survives_the_command_line() -> None:
    plan = Plan([Workload(10, 1), REALISTIC], repeats=4, directory="x", row="y", memory_rounds=2)

    assert Plan.load(plan.dump()) == plan


async def test_the_lines_of_a_row_become_tables(tmp_path: Path, book: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = Plan([Workload(10, 1)], repeats=2, directory=str(tmp_path), memory_rounds=1, memory_runs=2)
    await measure.measure(Plain(), plan)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    row = figures.collect("Runner (plain)", lines)
    missing = figures.collect("Other", [{"kind": "failed", "reason": "not to be had"}])
    text = "\n".join(table.markdown() for table in report.tables([row, missing], "2 cores"))

    assert len(row.pairs["10x1"]) == 2
    assert figures.executions(row) == "exactly once (4 runs)"
    assert "| Runner (plain) | none |" in text
    assert "not measured: not to be had" in text
    assert "2 cores" in text
    assert list(report.to_json([row])[0]["overhead_ms"]) == ["10x1"]


def test_what_only_some_rows_tell_gets_tables_too() -> None:
    sample = {"mode": "plain", "workload": "50x1", "repeat": 0, **asdict(a_sample(1.0))}
    sample.pop("prompt")
    lines: list[dict[str, Any]] = [
        {"kind": "sample", **sample},
        {"kind": "sample", **sample, "mode": "durable"},
        {"kind": "state", "workload": "50x1", "bytes": 2020, "json": 1000, "full": 2525, "steps": 101},
        {"kind": "memory", "round": 0, "runs": 7, "rss": 42_000_000, "peak": 43_000_000, "seconds": 1.5, "exact": True},
        {
            "kind": "replay",
            "workload": "50x1",
            "steps": 101,
            "requests": 102,
            "replay": 1.125,
            "deepest": 1.0625,
            "plain": 0.1,
            "cpu_per_request": 0.25,
            "cpu_ratio": 1.5,
            "cpu_ratio_served": 1.25,
        },
        {"kind": "kept", "workload": "10x1", "plain": 0.1, "durable": 0.14},
        {"kind": "start", "mode": "plain", "repeat": 0, "start": 0.2},
        {"kind": "start", "mode": "durable", "repeat": 0, "start": 0.21},
    ]

    text = "\n".join(table.markdown() for table in report.tables([figures.collect("x", lines)], ""))

    assert "| x | - | 20 | - | - | 0.80, 2.02 | - |" in text
    assert "| x | 50x1 | 101 | 1.12 | 1.06 | 102 | 250.0 | 1.50 | 1.25 |" in text
    assert "| x | 7 | 42 | 42 | 42 | 43 | 1.5 |" in text
    assert "| x | 2.00 | - | - | - | 210 | 200 |" in text


def test_the_peers_have_environments_of_their_own() -> None:
    assert all(entry.environment for entry in lineup.PEERS)
    assert len({entry.environment.name for entry in lineup.PEERS if entry.environment}) == len(lineup.PEERS)
    assert environments.CACHE.name in (environments.ROOT / ".gitignore").read_text()


def test_a_row_that_cannot_be_had_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(lineup.INNGEST, raising=False)
    monkeypatch.setenv("PATH", "")

    lines = lineup.OURS[-1].lines(Plan([]), print)

    assert lines == [
        {"kind": "failed", "reason": "no Inngest dev server: set INNGEST_CLI, or put `inngest` on the PATH"}
    ]


@pytest.mark.parametrize(("steps", "models", "tools"), [(1, 1, 0), (2, 1, 1), (5, 3, 2), (7, 4, 3), (None, 4, 3)])
async def test_a_plain_pass_is_cut_after_a_step(steps: int | None, models: int, tools: int, book: Path) -> None:
    with workloads.cut_after(steps), contextlib.suppress(workloads.Cut):
        await measure.plain(Workload(3, 1).prompt("a"))

    executed = ledger.read(book)["a"]
    assert (executed.models, executed.tools) == (models, tools)


async def test_the_requests_of_a_run_are_recorded_and_made_again() -> None:
    bodies: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        bodies.append(message["body"])
        await send({"type": "http.response.start", "status": 206 if message["body"] else 500, "headers": []})

    sent = iter([{"body": b"a", "more_body": True}, {"body": b"b"}])
    recorder = replays.Recorder(app, requests=[])

    async def receive() -> Any:
        return next(sent)

    async def send(message: Any) -> None:
        assert message["status"] == 206

    await recorder({"type": "http", "method": "POST"}, receive, send)
    assert recorder.requests is not None
    await recorder.again(recorder.requests[0])
    assert bodies == [b"ab", b"ab"]
    with pytest.raises(RuntimeError, match="500"):
        await recorder.again(replays.Request({"type": "http"}, b""))


async def test_a_plain_pass_is_made_as_a_request_too(
    tmp_path: Path, book: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, workload = EmbeddedStandard(), Workload(2, 1)
    await row.start(tmp_path)
    try:
        recorded: list[replays.Request] = []
        row.functions.recorder.requests = recorded
        await row.run(workload.prompt("a"))
        row.functions.recorder.requests = None
        monkeypatch.setenv(ledger.ENV, str(tmp_path / "second"))
        request = recorded[0].of("run-plain", instead_of="run-agent")
        with workloads.cut_after(2):
            await row.functions.recorder.again(request)
    finally:
        await row.stop()

    assert dict(ledger.read(tmp_path / "second")["a"].counts) == {"model:0": 1, "tool:0.0": 1}
