"""The page of a run: complete, and safe whatever a run's content is."""

from __future__ import annotations

import os
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import run_samples as samples
from hypothesis import given, settings
from hypothesis import strategies as st

from inngest_agents.stats import ErrorRecord, RunStats, StepRecord
from inngest_agents.stats.html import VALUE_LIMIT, page, text
from inngest_agents.stats.report import Attempt, ReportStep, RunReport, rows

HOSTILE = [
    "</script><script>document.title='pwned'</script>",
    "</title><script>document.title='pwned'</script>",
    "</style><img src=x onerror=\"document.title='pwned'\">",
    '"><svg onload="document.title=\'pwned\'">',
    "' onmouseover='document.title=`pwned`' x='",
    "<iframe srcdoc='<script>parent.document.title=1</script>'>",
    "</pre></details><meta http-equiv=refresh content='0;url=https://example.com'>",
    "<!--<script>", "-->", "<![CDATA[", "&lt;b&gt;", "\u202egnp.exe", "\x00\x08\x1b[31m", "\ud800", "𓀀🎉", "url(x)",
]  # fmt: skip


class Outline(HTMLParser):
    """Collects tags and attributes, and the text of the page."""

    def __init__(self, document: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.styles: list[str] = []
        self.content = ""
        self.feed(document)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)
        self.styles.extend(value or "" for name, value in attrs if name == "style")

    def handle_data(self, data: str) -> None:
        self.content += data


def report_of(content: str) -> RunReport:
    """A report with `content` wherever content can be."""
    record = StepRecord(
        kind="tool",
        step_id=content,
        name=content,
        agent=content,
        path=(content, content),
        call_id=content,
        started_at=samples.START,
        duration=1.0,
        waited=0.5,
        error=ErrorRecord(content, content),
        usage=samples.usage(content or "m", 1, 2, None, estimated=True, estimate_note=content),
        finish_reasons=(content,),
    )
    attempts = (Attempt(samples.START, samples.START + 1, content), Attempt(samples.START + 2, 0.0))
    step = ReportStep.from_record(record, title=content, input={content: [content]}, output=content, attempts=attempts)
    step.kind = content
    return RunReport(
        run_id=content,
        title=content,
        note=content,
        error=content,
        input=content,
        output=[content],
        steps=[step],
    )


TAGS = Outline(page(samples.report())).tags
ATTRIBUTES = Outline(page(samples.report())).attributes


@pytest.mark.parametrize("content", HOSTILE)
def test_hostile_content_stays_text(content: str) -> None:
    check(content)


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(), max_size=30))
def test_any_content_stays_text(content: str) -> None:
    check(content)


def check(content: str) -> None:
    document = page(report_of(content))
    outline = Outline(document)
    assert outline.tags <= TAGS | {"ol", "li", "p"}
    assert outline.attributes <= ATTRIBUTES
    assert all(set(style) <= set("abcdefghijklmnopqrstuvwxyz:;-.%0123456789") for style in outline.styles)
    assert "url(" not in "".join(outline.styles)
    document.encode("utf-8")


def test_the_page_needs_nothing_else() -> None:
    document = page(samples.report())
    assert not {"script", "link", "img", "iframe", "form", "object", "base"} & TAGS
    assert not {"src", "href", "onclick"} & ATTRIBUTES
    assert "http" not in document.replace("http-equiv", "")
    assert "default-src &#x27;none&#x27;" in document


def test_signs_that_turn_text_around_are_shown_as_codes() -> None:
    assert text("a\u202eb\x07\ud800") == "a\\u202eb\\u0007\\ud800"
    assert text("👩\u200d🔬 é\n") == "👩\u200d🔬 é\n"


def test_the_page_shows_what_the_run_used() -> None:
    content = Outline(page(samples.report())).content
    for shown in ("run-agent", "01K6Z3H8R2T5V9", "$0.0237+", "12,998", "send_invoice", "failed", "≈ 2,610"):
        assert shown in content
    assert "TimeoutError: warehouse" in content
    assert "no price for qwen3-32b" in content
    assert '"prompt": "Where is order 7?"' in content


def test_long_values_are_cut() -> None:
    step = ReportStep(step_id="s", output="x" * (VALUE_LIMIT + 5))
    document = page(RunReport(steps=[step]))
    assert "… 5 more characters" in document
    assert len(document) < VALUE_LIMIT + 20_000


def test_a_run_without_steps_has_a_page() -> None:
    assert "No steps." in page(RunReport())
    assert "<!doctype html>" in RunStats().to_html()


def test_statistics_make_a_page_of_their_own() -> None:
    document = RunStats.from_records(samples.records()).to_html(title="My run")
    assert "My run" in document
    assert "send_invoice" in document


def test_the_steps_of_a_nested_agent_follow_a_line_of_their_own() -> None:
    lines = rows(samples.report())
    group = next(place for place, row in enumerate(lines) if row.group)
    assert lines[group].group == "research#1"
    inner = [row for row in lines if row.depth == 1]
    assert lines[group + 1 : group + 1 + len(inner)] == inner
    assert len(inner) == 4
    assert lines[group].begin == min(row.begin for row in inner)
    assert lines[group].end == max(row.end for row in inner)


@pytest.fixture(scope="module")
def chromium() -> str:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("no Chromium is installed (set CHROMIUM to its path to run this test)")
    return found


def browse(chromium: str, document: str, folder: Path, *more: str) -> str:
    """Open a page in a headless browser; give the document as the browser understood it."""
    (folder / "page.html").write_text(document, encoding="utf-8")
    done = subprocess.run(
        [
            chromium,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            f"--user-data-dir={folder / 'profile'}",
            "--window-size=1280,900",
            *more,
            (folder / "page.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


def test_a_browser_shows_the_page_and_runs_nothing(chromium: str, tmp_path: Path) -> None:
    report = samples.report()
    for content in HOSTILE:
        report.steps.extend(report_of(content).steps)
    document = page(report)
    understood = browse(chromium, document, tmp_path, "--dump-dom")
    outline = Outline(understood)
    assert "pwned" not in understood.partition("</head>")[0]
    assert outline.tags <= TAGS | {"ol", "li", "p"}
    # The browser closes what is left open: as many steps as before means that no content has closed one.
    assert understood.count("<details") == document.count("<details")
    for content in HOSTILE[:7]:
        assert content in outline.content


def test_a_browser_draws_the_page(chromium: str, tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    browse(chromium, page(samples.report()), tmp_path, f"--screenshot={picture}")
    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) > 30_000
