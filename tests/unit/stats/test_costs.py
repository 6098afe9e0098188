from __future__ import annotations

import builtins
import csv
import io
import xml.etree.ElementTree as ET
from datetime import timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
import run_samples as samples

from inngest_agents.stats import RunStats, StepRecord
from inngest_agents.stats.costs import (
    Dimension,
    RunInfo,
    cost_bars,
    cost_csv,
    cost_svg,
    cost_table,
    grand_total,
    sum_costs,
)

STATS = RunStats.from_records(samples.records())
RUNS = [
    (RunInfo("r1", "run-agent", samples.START), STATS),
    (RunInfo("r2", "run-agent", samples.START + 86_400), STATS),
    (RunInfo("r3", "nightly", samples.START + 86_400), RunStats.from_records(samples.records()[:3])),
]
ONE = Decimal("0.0237135")
SMALL = Decimal("0.0006385")


def test_runs_are_summed_by_day() -> None:
    rows = sum_costs(RUNS)
    found = [(row.keys, len(row.runs), row.total.cost) for row in rows]
    assert found == [(("2025-10-09",), 1, ONE), (("2025-10-10",), 2, ONE + SMALL)]


def test_the_day_depends_on_the_time_zone() -> None:
    rows = sum_costs(RUNS[:1], timezone=timezone(timedelta(hours=-10)))
    assert rows[0].keys == ("2025-10-08",)


def test_runs_are_summed_by_agent_and_model() -> None:
    rows = {row.keys: row for row in sum_costs(RUNS, ("agent", "model"))}
    assert set(rows) == {
        ("Research", "qwen3-32b"),
        ("Sales", "gpt-4o-2024-08-06"),
        ("Triage", "gpt-5-mini-2025-08-07"),
    }
    sales = rows["Sales", "gpt-4o-2024-08-06"]
    assert (sales.total.model_calls, len(sales.runs)) == (4, 2)
    assert rows["Research", "qwen3-32b"].total.cost_usd is None


@pytest.mark.parametrize("by", [("day",), ("function", "model"), ("agent",), ("day", "function", "agent", "model")])
def test_every_cut_has_the_same_total(by: tuple[Dimension, ...]) -> None:
    total = grand_total(sum_costs(RUNS, by))
    assert total.total.cost == 2 * ONE + SMALL
    assert total.total.total_tokens == sum(stats.total_tokens for _, stats in RUNS)
    assert total.total.model_calls == sum(stats.total_model_calls for _, stats in RUNS)
    assert len(total.runs) == 3


@pytest.mark.parametrize("by", [(), ("week",)])
def test_other_dimensions_are_refused(by: Any) -> None:
    with pytest.raises(ValueError, match="day, function, agent, model"):
        sum_costs(RUNS, by)


def test_the_table_has_a_total(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = sum_costs(RUNS, ("function", "model"))
    table = cost_table(rows, ("function", "model"), width=120)
    assert "nightly" in table
    assert table.splitlines()[-1].split()[0] == "Total"
    assert "$0.0481+" in table.splitlines()[-1]
    real = builtins.__import__

    def no_rich(name: str, *args: Any) -> Any:
        if name.startswith("rich"):
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", no_rich)
    assert "Total" in cost_table(rows, ("function", "model"))


def test_a_terminal_of_80_columns_shows_figures_in_one_piece() -> None:
    usage = samples.usage("gpt-4o", 2_394_721, 134_752, "0.000638")
    step = StepRecord(kind="model", step_id="1 model m", name="gpt-4o", usage=usage)
    runs = [(RunInfo("r1", "run-agent", samples.START), RunStats.from_records([step]))]
    table = cost_table(sum_costs(runs, ("day", "model")), ("day", "model"), width=80)
    total = table.splitlines()[-1].split()
    assert (total[3], *total[5:]) == ("2,394,721", "134,752", "$0.000638")


def test_csv_is_exact_and_runs_no_formula() -> None:
    hostile = [(RunInfo("r9", "=cmd()", samples.START), STATS)]
    lines = list(
        csv.DictReader(io.StringIO(cost_csv(sum_costs(hostile, ("function", "model")), ("function", "model"))))
    )
    assert {line["function"] for line in lines} == {"'=cmd()"}
    by_model = {line["model"]: line for line in lines}
    assert by_model["gpt-4o-2024-08-06"]["cost_usd"] == "0.023075"
    assert (by_model["qwen3-32b"]["cost_usd"], by_model["qwen3-32b"]["cost_complete"]) == ("", "false")


def test_bars_are_as_long_as_their_share() -> None:
    lines = cost_bars(sum_costs(RUNS, ("function",)), width=80).splitlines()
    assert lines[0].startswith("nightly")
    assert lines[1].count("█") > 20 * max(lines[0].count("█"), 1)
    assert all(len(line) <= 80 for line in lines)
    assert cost_bars([]) == "no runs"


@pytest.mark.parametrize("name", ["run-agent", "</text><script>alert(1)</script>", "a\x00\ud800\u202e&\"'"])
def test_the_picture_is_valid_whatever_the_names(name: str) -> None:
    rows = sum_costs([(RunInfo("r", name, samples.START), STATS)], ("function",))
    root = ET.fromstring(cost_svg(rows, title=name))
    assert {element.tag.rpartition("}")[2] for element in root.iter()} == {"svg", "style", "rect", "text", "title"}
    assert "$0.0237+" in "".join(root.itertext())


def test_no_runs_make_an_empty_picture() -> None:
    assert ET.fromstring(cost_svg([])).tag.endswith("svg")
