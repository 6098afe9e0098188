"""The commands that look at runs: what they say where something is amiss, and that no content injects anything."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from typer.testing import CliRunner

from inngest_agents.cli import app
from inngest_agents.history.costs import parse_dimensions, parse_moment
from inngest_agents.history.embedded import EmbeddedRuns
from inngest_agents.history.source import FoundStep, assemble, is_durable
from inngest_agents.local.models import RunStatus, StepAttempt, StepRecord, StepStatus
from inngest_agents.local.store import Store
from inngest_agents.stats import records
from inngest_agents.stats.html import page
from inngest_agents.stats.memo import memo_of
from inngest_agents.stats.report import RunReport

HOSTILE = "</pre></details></style><script>document.title='pwned'</script><img src=x onerror=alert(1)>"
DAY = 86_400
START = 1_767_225_600  # 2026-01-01 in UTC
SECOND = 1_000_000_000
RUN_ID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"


def path_of(step_id: str) -> tuple[str, ...]:
    path = tuple(step_id.split("/")[:-1])
    return path if len(path) > 1 else ()


def model_memo(step_id: str, at: float, *, model: str = "gpt-x", usd: str | None = "0.25") -> dict[str, Any]:
    price = records.Price(usd=usd, source="user", reason="" if usd else "nobody knows")
    tokens = records.Tokens(input_tokens=100, output_tokens=10)
    used = records.UsageRecord(tokens=tokens, total_tokens=110, requests=1, model=model, price=price)
    record = records.StepRecord(
        kind="model",
        step_id=step_id,
        name=model,
        agent=step_id.rpartition(" ")[2],
        path=path_of(step_id),
        started_at=at,
        duration=0.5,
        usage=used,
    )
    output = {"output": [{"type": "message", "content": HOSTILE}], "usage": {"requests": 1}}
    return memo_of(record, output)


def tool_memo(step_id: str, at: float, output: Any, **more: Any) -> dict[str, Any]:
    record = records.StepRecord(
        kind="tool",
        step_id=step_id,
        name=step_id.rpartition(" ")[2],
        agent="shop",
        path=path_of(step_id),
        started_at=at,
        duration=0.2,
        **more,
    )
    return memo_of(record, output)


def add_run(store: Store, run_id: str, function: str, at: float, steps: list[StepRecord]) -> None:
    now = int(at * SECOND)
    with store.transaction():
        store.add_run(run_id, function, "e", json.dumps([{"name": HOSTILE}]), [], now)
        store.start_run(run_id, now)
        for place, step in enumerate(steps):
            store.save_step(run_id, step, now + place)
        store.end_run(run_id, RunStatus.COMPLETED, now + 9 * SECOND, output=json.dumps(HOSTILE))


def step(name: str, memo: Any, at: float, op: str = "StepRun", **more: Any) -> StepRecord:
    begun = int(at * SECOND)
    status = StepStatus.FAILED if isinstance(memo, dict) and "error" in memo else StepStatus.COMPLETED
    wrapped = json.dumps(memo if memo is None or "error" in memo else {"data": memo})
    return StepRecord(name, op, name, status, wrapped, started_ns=begun, ended_ns=begun + SECOND, **more)


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """Two days of runs of agents, and one run without any."""
    path = tmp_path / "state.db"
    store = Store(path)
    names = ("shop/1 model shop", "shop/1.1 look", "shop/research#1/1 model research", "shop/1.2 broken")
    steps = [
        step(names[0], model_memo(names[0], START), START),
        step(names[1], tool_memo(names[1], START + 1, HOSTILE), START + 1, opts_json=json.dumps({"input": [HOSTILE]})),
        step(names[2], model_memo(names[2], START + 1, model="odd", usd=None), START + 1),
        step(names[3], {"error": {"name": "ValueError", "message": HOSTILE}}, START + 2),
        step("nap", None, START + 3, op="Sleep"),
    ]
    add_run(store, RUN_ID, "app-agents", START, steps)
    with store.transaction():
        error = json.dumps({"name": "ValueError", "message": HOSTILE})
        begun = (START + 2) * SECOND
        attempt = StepAttempt(names[3], 0, "r", begun, begun + SECOND, error, will_retry=False)
        store.add_attempt(RUN_ID, attempt)
    add_run(store, "01ARZ3NDEKTSV4RRFFQ69G5FAW", "app-agents", START + DAY, steps[:1])
    add_run(store, "01ARZ3NDEKTSV4RRFFQ69G5FAX", "app-plain", START + DAY, [step("own", {"x": HOSTILE}, START + DAY)])
    store.close()
    return path


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_page_shows_all_and_nothing_injects_markup(db: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.html"
    done = run("show", RUN_ID, "--db", str(db), "--html", str(file))
    assert done.exit_code == 0, done.output
    text = file.read_text(encoding="utf-8")
    for shown in ("1 model shop", "1.1 look", "1 model research", "1.2 broken", "nap", "research#1", "ValueError: "):
        assert shown in text
    assert "&lt;script&gt;document.title=&#x27;pwned&#x27;" in text
    for tag in ("<script", "<img", "</pre></details></style>"):
        assert tag not in text
    assert "1 call of odd: nobody knows" in text
    assert "$0.2500+" in text


def test_a_browser_runs_nothing_of_the_page(db: Path, tmp_path: Path) -> None:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    browser = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip("no Chromium is installed (set CHROMIUM to its path to run this test)")
    file = tmp_path / "run.html"
    assert run("show", RUN_ID, "--db", str(db), "--html", str(file)).exit_code == 0
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    command = [browser, *options, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", file.as_uri()]
    understood = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "<title>app-agents</title>" in understood
    assert "<img" not in understood
    assert understood.count("<details") == file.read_text(encoding="utf-8").count("<details")


def test_nested_steps_and_failed_ones_keep_their_place(db: Path) -> None:
    source = EmbeddedRuns(Store(db))
    report = source.report(source.find(RUN_ID)[0])
    assert is_durable(report)
    by_name = {step.step_id: step for step in report.steps}
    assert by_name["shop/research#1/1 model research"].path == ("shop", "research#1")
    broken = by_name["shop/1.2 broken"]
    assert (broken.kind, broken.status, broken.title) == ("tool", "failed", "1.2 broken")
    assert [bool(attempt.error) for attempt in broken.attempts] == [True]
    assert by_name["nap"].kind == "sleep"
    assert report.statistics().total_tool_calls == 2
    assert report.statistics().total.failures == 1
    assert by_name["shop/1.1 look"].input == HOSTILE
    assert by_name["shop/1.1 look"].output == HOSTILE


@pytest.mark.parametrize(
    "newer",
    [
        {"v": 99, "output": 1, "record": {"kind": "tool", "step_id": "a/1.1 b", "v": 99}},
        {"output": 1, "step": "v99 CLClIiQ bko 5cwg a/1.1 b"},
    ],
)
def test_a_memo_of_a_newer_version_is_shown_as_it_is(tmp_path: Path, newer: dict[str, Any]) -> None:
    store = Store(tmp_path / "s.db")
    add_run(store, RUN_ID, "fn", START, [step("a/1.1 b", newer, START)])
    source = EmbeddedRuns(store)
    report = source.report(source.find(RUN_ID)[0])
    assert report.steps[0].output == newer
    assert not is_durable(report)
    assert "a/1.1 b" in page(report)


def test_costs_leave_out_what_has_none_and_say_so(db: Path) -> None:
    done = run("costs", "--by", "day,model", "--csv", "-", "--db", str(db))
    assert done.exit_code == 0, done.output
    found = [
        (row["day"], row["model"], row["runs"], row["cost_usd"], row["total_tokens"]) for row in table(done.stdout)
    ]
    assert found == [
        ("2026-01-01", "gpt-x", "1", "0.25", "110"),
        ("2026-01-01", "odd", "1", "", "110"),
        ("2026-01-02", "gpt-x", "1", "0.25", "110"),
    ]
    assert "left out: 1 run without durable steps" in done.stderr
    assert "not in the dollars: 1 call of odd: nobody knows" in done.stderr
    shown = run("costs", "--db", str(db)).stdout
    assert "$0.5000+" in shown
    assert "?" in shown


@pytest.mark.parametrize(
    ("limits", "days"),
    [
        (["--since", "2026-01-02"], ["2026-01-02"]),
        (["--until", "2026-01-01"], ["2026-01-01"]),
        (["--since", "2026-01-01", "--until", "2026-01-02"], ["2026-01-01", "2026-01-02"]),
        (["--until", "2026-01-01T00:00"], []),
    ],
)
def test_days_are_inclusive(db: Path, limits: list[str], days: list[str]) -> None:
    done = run("costs", "--by", "day", "--csv", "-", *limits, "--db", str(db))
    assert [row["day"] for row in table(done.stdout)] == days


@pytest.mark.parametrize("suffix", [".svg", ".html"])
def test_a_plot_needs_nothing_else(db: Path, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"plot{suffix}"
    assert run("costs", "--by", "agent", "--plot", str(file), "--db", str(db)).exit_code == 0
    text = file.read_text(encoding="utf-8")
    assert "Cost in US dollars by agent" in text
    assert "research" in text
    assert "<script" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["costs", "--by", "day,color"], "not by 'day,color'"),
        (["costs", "--since", "soon"], "'soon' is no moment"),
        (["costs", "--plot", "x.gif"], "a plot is an .svg or an .html file"),
        (["costs", "--csv", "/no/such/folder/x.csv"], "can't write /no/such/folder/x.csv"),
        (["show", "nothing"], "no run nothing"),
        (["show", "01"], "could be each of"),
        (["show", RUN_ID, "--html", "/no/such/folder/x.html"], "can't write /no/such/folder/x.html"),
    ],
)
def test_mistakes_are_named(db: Path, arguments: list[str], message: str) -> None:
    done = run(*arguments, "--db", str(db))
    assert done.exit_code == 1
    assert message in done.stderr


def test_moments_and_dimensions_are_read_as_people_write_them() -> None:
    assert parse_moment("2d", now=10 * DAY) == 8 * DAY
    assert parse_moment("2026-01-01", now=0) == START
    assert parse_moment("2026-01-01", now=0, is_end=True) == START + DAY
    assert parse_moment("2026-01-01T01:00+01:00", now=0, is_end=True) == START
    assert parse_dimensions(" day, model ") == ["day", "model"]
    with pytest.raises(ValueError, match="summed by"):
        parse_dimensions("day,day")


# A server that answers as it is told --------------------------------------------------------------------------

Answers = Callable[[str, dict[str, list[str]], str], tuple[int, Any]]


@pytest.fixture
def serve() -> Iterator[Callable[[Answers], str]]:
    servers: list[ThreadingHTTPServer] = []

    def start(answers: Answers) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                status, said = answers(parts.path, parse_qs(parts.query), self.headers.get("authorization", ""))
                body = said if isinstance(said, bytes) else json.dumps(said).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_the_key_is_sent_and_a_refusal_is_explained(
    serve: Callable[[Answers], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = serve(lambda _p, _q, key: (200, {"data": []}) if key == "Bearer right" else (401, b"Authentication failed"))
    monkeypatch.setenv("INNGEST_SIGNING_KEY", "right")
    assert run("runs", "--url", url).exit_code == 0
    monkeypatch.setenv("INNGEST_API_KEY", "wrong")
    done = run("runs", "--url", url)
    assert done.exit_code == 1
    assert "refuses (401): set INNGEST_API_KEY" in done.stderr


@pytest.mark.parametrize(
    ("status", "said", "message"),
    [
        (404, b"404 page not found", "this needs a server with Inngest's REST API v2"),
        (200, b"<html>", "this needs a server with Inngest's REST API v2"),
        (429, {"errors": [{"message": "API rate limit exceeded"}]}, "answered 429 API rate limit exceeded"),
        (404, {"errors": [{"message": "Run not found"}]}, f"no run {RUN_ID} on http"),
    ],
)
def test_what_a_server_answers_is_explained(
    serve: Callable[[Answers], str], status: int, said: Any, message: str
) -> None:
    done = run("show", RUN_ID, "--url", serve(lambda *_: (status, said)))
    assert done.exit_code == 1
    assert message in done.stderr


def test_part_of_an_id_is_not_asked_for(serve: Callable[[Answers], str]) -> None:
    done = run("show", "../x", "--url", serve(lambda *_: (200, {"data": {}})))
    assert done.exit_code == 1
    assert "a server is asked by the whole id" in done.stderr


@pytest.mark.parametrize(
    ("listed", "told", "nap", "expected"),
    [
        ("COMPLETED", "QUEUED", "WAITING", ["completed", "✓ first", "✓ flaky", "✓ nap"]),
        ("FAILED", "COMPLETED", "WAITING", ["failed", "✓ first", "✗ flaky", "- nap"]),
        ("RUNNING", "COMPLETED", "WAITING", ["running", "✓ first", "· flaky", "… nap"]),
    ],
)
def test_a_run_is_shown_as_it_is_whatever_a_server_calls_its_spans(
    serve: Callable[[Answers], str], listed: str, told: str, nap: str, expected: list[str]
) -> None:
    at = "2026-01-01T00:00:0{}Z".format
    run_of: dict[str, Any] = {"id": RUN_ID, "function": {"id": "fn"}, "queuedAt": at(0), "startedAt": at(0)}
    flaky = "COMPLETED" if listed == "COMPLETED" else "RUNNING"

    def span(name: str, status: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "stepId": name, "status": status, "queuedAt": at(1), "startedAt": at(1), **more}

    children = [
        span("flaky", flaky, startedAt=at(4), endedAt=at(5) if flaky == "COMPLETED" else None),
        span("first", "RUNNING", children=[span("Attempt 0", "RUNNING")]),
        span("first", "COMPLETED", endedAt=at(2)),
        span("flaky", "FAILED", startedAt=at(2), endedAt=at(3), output={"error": {"message": "no"}}),
        span("nap", nap, stepOp="SLEEP"),
    ]
    if listed == "FAILED":
        children.pop(0)
    trace = {"rootSpan": {"name": "Run", "status": "RUNNING", "children": children}}

    def answers(path: str, query: dict[str, list[str]], key: str) -> tuple[int, Any]:
        if path.endswith("/trace"):
            return 200, {"data": trace}
        if path.endswith(RUN_ID):
            return 200, {"data": {**run_of, "status": told}}
        assert "from" not in query or query["from"] < [at(0)] < query["until"]
        return 200, {"data": [{**run_of, "id": "another", "status": "CANCELLED"}, {**run_of, "status": listed}]}

    url = serve(answers)
    done = run("show", RUN_ID, "--url", url)
    assert done.exit_code == 0, done.output
    for text in expected:
        assert text in done.stdout
    (line,) = [line for line in run("runs", "--url", url).stdout.splitlines() if RUN_ID in line]
    assert expected[0] in line


def test_all_pages_of_a_server_are_summed(serve: Callable[[Answers], str]) -> None:
    memo = model_memo("shop/1 model shop", START)
    span = {"name": "shop/1 model shop", "stepId": "h", "stepOp": "RUN", "status": "COMPLETED", "output": memo}
    span |= {"queuedAt": "2026-01-01T00:00:00Z", "startedAt": "2026-01-01T00:00:00Z", "endedAt": "2026-01-01T00:00:01Z"}

    def answers(path: str, query: dict[str, list[str]], _: str) -> tuple[int, Any]:
        if path.endswith("/trace"):
            if path.split("/")[-2] == "2":
                return 404, {"errors": [{"message": "Trace not found"}]}
            return 200, {"data": {"rootSpan": {"children": [span]}}}
        place = int(query.get("cursor", ["0"])[0])
        listed = {"id": str(place), "app": {"id": "a"}, "function": {"id": "f"}, "status": "COMPLETED"}
        listed["queuedAt"] = "2026-01-01T00:00:00.123456789Z"
        return 200, {"data": [listed], "page": {"hasMore": place < 2, "cursor": str(place + 1)}}

    done = run("costs", "--by", "function", "--csv", "-", "--url", serve(answers))
    assert done.exit_code == 0, done.output
    assert [(row["function"], row["runs"], row["cost_usd"]) for row in table(done.stdout)] == [("a-f", "2", "0.5")]
    assert "left out: 1 run" in done.stderr


@pytest.mark.parametrize("ended", [True, False])
def test_a_model_call_that_was_tried_again_is_counted_where_the_server_lost_its_own_span(
    serve: Callable[[Answers], str], ended: bool
) -> None:
    memo = model_memo("shop/1 model shop", START)
    failure = {"message": "no line", "name": "ConnectionError"}
    at = "2026-01-01T00:00:0{}Z".format

    def span(status: str, begun: int, end: int | None = None, **more: Any) -> dict[str, Any]:
        times = {"queuedAt": at(1), "startedAt": at(begun), "endedAt": None if end is None else at(end)}
        return {"name": "shop/1 model shop", "stepId": "h", "stepOp": "RUN", "status": status, **times, **more}

    attempts = [
        span("RUNNING", 1, output=failure),
        span("COMPLETED", 4, 6, output=memo) if ended else span("RUNNING", 4, output=memo),
    ]
    whole = span("COMPLETED", 1, 6, output=memo) if ended else span("RUNNING", 1, output=memo)
    children = [{**whole, "children": attempts}, span("WAITING", 1, output=memo), span("FAILED", 2, 3, output=failure)]

    def answers(path: str, *_: Any) -> tuple[int, Any]:
        if path.endswith("/trace"):
            return 200, {"data": {"rootSpan": {"children": children}}}
        listed = {"id": "1", "app": {"id": "a"}, "function": {"id": "f"}, "status": "COMPLETED", "queuedAt": at(0)}
        return 200, {"data": [listed], "page": {}}

    done = run("costs", "--by", "function", "--csv", "-", "--url", serve(answers))
    assert done.exit_code == 0, done.output
    assert [(row["function"], row["runs"], row["cost_usd"]) for row in table(done.stdout)] == [("a-f", "1", "0.25")]


def test_a_failed_step_of_a_nested_agent_lies_where_those_beside_it_do() -> None:
    where = ("shop", "1.1 research", "researcher", "1.1 read")
    record = records.StepRecord(
        kind="model", step_id="shop/1.1 research/1.1 read/1 model reader", agent="reader", path=where
    )
    memo = memo_of(record, {})
    good = FoundStep(record.step_id, "other", "completed", None, (), output=memo)
    error = {"name": "OSError", "message": "no such page"}
    bad = FoundStep("shop/1.1 research/1.1 read/1.1 fetch", "other", "failed", None, (), error=error)
    report = assemble(RunReport(), [good, bad])
    assert [step.path for step in report.steps] == [where, where]
    stats = report.statistics()
    assert {name: (part.tool_calls, part.failures) for name, part in stats.by_tool.items()} == {
        "research": (1, 0),
        "read": (1, 0),
        "fetch": (1, 1),
    }


def test_help_needs_no_library_of_the_commands() -> None:
    done = run("costs", "--help")
    assert done.exit_code == 0
    assert "--plot" in done.stdout


def test_numbers_that_make_no_sense_are_told_without_a_traceback() -> None:
    for arguments in (("dev", "--port", "99999"), ("runs", "--limit", "0")):
        done = run(*arguments)
        assert (done.exit_code, "Invalid value" in done.output) == (2, True)
