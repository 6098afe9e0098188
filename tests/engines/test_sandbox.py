"""A sandbox agent on the engines: its worker is killed in the middle of each command."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .harness import EngineUnderTest


@pytest.mark.parametrize("checkpoint", [True, False])
def test_a_worker_that_is_killed_in_each_command_goes_on_in_the_same_sandbox(
    engine: EngineUnderTest, tmp_path: Path, checkpoint: bool
) -> None:
    log = tmp_path / "log.txt"
    engine.spawn("sandbox_target.py:build", env={"LOG": str(log), "CHECKPOINT": str(int(checkpoint))})

    outcome = engine.run("code", {}, timeout=120)

    assert outcome.status == "Completed", outcome.output
    assert outcome.output == "one\nseed\n"
    lines = log.read_text().splitlines()
    done = Counter(line.partition(" ")[0] for line in lines)
    assert done["create"] == done["delete"] == 1
    assert done["resume"] >= 3
    # The model is not asked again for what it has said; only one that was asked beside the save of a result may be.
    assert {line for line in lines if line.startswith("model")} == {f"model {n}" for n in range(4)}
    root = Path(next(line for line in lines if line.startswith("create")).partition(" ")[2])
    assert not root.exists()
