"""Measure durable runs side by side, and print the tables.

python -m benchmarks                  the plain Runner and DurableRunner
python -m benchmarks --peers          and the other durable runners, each in an environment of its own
python -m benchmarks --quick          shorter, to see that everything runs
python -m benchmarks --from FILE      print the tables of an earlier run again
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import signal
import sys
from pathlib import Path
from typing import Any

from . import figures, lineup, plot, report
from .measure import Plan
from .workloads import INSTANT, REALISTIC


def main() -> int:
    """Run the command line."""
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    kept = json.loads(Path(options.source).read_text()) if options.source else _measure(options)
    rows = [figures.collect(entry["name"], entry["lines"]) for entry in kept["rows"]]
    tables = report.tables(rows, kept["machine"])
    text = "\n\n".join(table.markdown() for table in tables) + "\n"
    out = Path(options.out)
    _keep(kept | {"figures": report.to_json(rows)}, out)
    (out / "results.md").write_text(text)
    drawn = plot.draw(rows, out / "results.png")
    if options.markdown:
        print(text, end="")
    else:
        _show(tables)
    files = "results.json, results.md" + (", results.png" if drawn else "; no plot: matplotlib is not installed")
    print(f"written to {out}: {files}", file=sys.stderr)
    return int(any("NOT" in figures.executions(row) for row in rows if row.name in _strict()))


def _options() -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", action="store_true", help="measure DBOS, Restate and Temporal too")
    parser.add_argument("--quick", action="store_true", help="short runs, few repeats")
    parser.add_argument("--rows", default="", help="only the rows whose names have one of these words (a,b)")
    parser.add_argument("--skip", default="", help="not the rows whose names have one of these words (a,b)")
    parser.add_argument("--repeats", type=int, default=0, help="how often each workload is run (5, quick: 2)")
    parser.add_argument("--out", default="benchmarks/results", help="directory for the results")
    parser.add_argument("--no-memory", action="store_true", help="leave out the concurrent runs, which take longest")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    parser.add_argument("--from", dest="source", default="", help="a results.json to print again")
    return parser.parse_args()


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the rows one after the other."""
    plan = Plan(
        workloads=[w for w in INSTANT if not options.quick or w.turns <= 100] + [REALISTIC] * (not options.quick),
        repeats=options.repeats or (2 if options.quick else 5),
        memory_rounds=0 if options.no_memory else 2 if options.quick else 10,
        memory_runs=100 if options.quick else 1000,
        budget_s=60 if options.quick else 600,
    )
    entries = [lineup.PLAIN, *lineup.OURS, *(lineup.PEERS if options.peers else ())]
    wanted, unwanted = _words(options.rows), _words(options.skip)
    kept: dict[str, Any] = {"machine": machine(), "rows": []}
    for entry in entries:
        name = entry.name.lower()
        if (wanted and not any(word in name for word in wanted)) or any(word in name for word in unwanted):
            continue
        print(f"{entry.name} …", file=sys.stderr)
        kept["rows"].append({"name": entry.name, "lines": entry.lines(plan, _progress)})
        for line in kept["rows"][-1]["lines"]:
            if line["kind"] == "failed":
                print(f"  not measured: {line['reason']}", file=sys.stderr)
        _keep(kept, Path(options.out))
    return kept


def _words(text: str) -> list[str]:
    """The words of an option, in lower case."""
    return [word.strip().lower() for word in text.split(",") if word.strip()]


def _keep(kept: dict[str, Any], out: Path) -> None:
    """Write the results, after each row, so that a run that is stopped was not for nothing."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(kept, indent=1) + "\n")


def machine() -> str:
    """Cores, system and Python, and the day."""
    day = datetime.datetime.now(tz=datetime.UTC).date()
    return (
        f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, "
        f"{platform.python_implementation()} {platform.python_version()}, {day}"
    )


def _strict() -> set[str]:
    """The rows that must execute everything exactly once."""
    return {entry.name for entry in (lineup.PLAIN, *lineup.OURS)}


def _progress(line: dict[str, Any]) -> None:
    """Say that something was measured."""
    if line["kind"] == "sample" and line["mode"] == "durable":
        print(f"  {line['workload']}: {line['wall'] * 1000:.0f} ms", file=sys.stderr)
    elif line["kind"] == "memory":
        print(f"  round {line['round']}: {line['rss'] / 1e6:.0f} MB, {line['seconds']:.1f} s", file=sys.stderr)


def _show(tables: list[report.Table]) -> None:
    """Print the tables to the terminal."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 200)
    for table in tables:
        table.show(console)
        console.print()


if __name__ == "__main__":
    sys.exit(main())
