"""Options that would be silently without effect are refused where they are given."""

from __future__ import annotations

from typing import Any

import pytest

from inngest_agents import DurableOptions


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"tools": {"charge_card": {"max_attempts": 1}}},
            r"tools\['charge_card'\] must be ToolOptions\(…\), not {'max_attempts': 1}",
        ),
        ({"divergence": "raise"}, "divergence must be 'error' or 'warn', not 'raise'"),
        ({"session_writes": "turns"}, "session_writes must be 'end' or 'turn', not 'turns'"),
    ],
)
def test_an_option_of_another_kind_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        DurableOptions(**given)
