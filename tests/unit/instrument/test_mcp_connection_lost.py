"""Which errors of a call mean that its connection is of no use any more."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import anyio
import pytest
from agents.exceptions import UserError
from mcp.shared.exceptions import MCPError

from inngest_agents._agents_sdk import is_mcp_connection_lost

http: Any = import_module("httpx2")  # what the `mcp` package speaks HTTP with


def status(code: int) -> Exception:
    request = http.Request("POST", "http://x/mcp")
    error: Exception = http.HTTPStatusError("no", request=request, response=http.Response(code, request=request))
    return error


def caused_by(cause: Exception) -> Exception:
    """As the SDK raises it."""
    error = UserError("Failed to call tool")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (MCPError(code=-32000, message="Connection closed"), True),
        (anyio.ClosedResourceError(), True),
        (anyio.BrokenResourceError(), True),
        (BrokenPipeError(), True),
        (http.ConnectError("refused"), True),
        (status(404), True),
        (caused_by(status(404)), True),
        (ExceptionGroup("all", [ValueError("x"), caused_by(http.ConnectError("refused"))]), True),
        (MCPError(code=-32601, message="Method not found"), False),
        (MCPError(code=408, message="Timed out"), False),
        (status(500), False),
        (status(401), False),
        (http.ReadTimeout("slow"), False),
        (ValueError("x"), False),
        (caused_by(TimeoutError()), False),
    ],
    ids=repr,
)
def test_a_connection_is_lost_only_where_no_call_can_succeed_on_it(error: Exception, lost: bool) -> None:
    assert is_mcp_connection_lost(error) is lost
