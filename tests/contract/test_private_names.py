"""One test for each private name of the two SDKs that this package relies on: it is there, in the form relied on."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import agents
import pytest
from agents.testing import ScriptedModel, assistant_message

import inngest_agents
from inngest_agents import _agents_sdk

SOURCE = Path(inngest_agents.__file__).parent
CODE = "\n".join(path.read_text() for path in sorted(SOURCE.rglob("*.py")))

SEAMS = sorted(set(re.findall(r'around\(\s*"([\w.]+)",\s*"([\w.]+)",\s*\(([^)]*)\)', CODE)))
NAMES = sorted(set(re.findall(r'\bname\(\s*"(agents[\w.]*)",\s*"([\w.]+)"\s*\)', CODE)))

INNGEST = [
    ("inngest._internal.step_lib", "StepMemos"),
    ("inngest._internal.step_lib", "StepInfo"),
    ("inngest._internal.step_lib", "StepResponse"),
    ("inngest._internal.step_lib", "ResponseInterrupt"),
    ("inngest._internal.step_lib", "SkipInterrupt"),
    ("inngest._internal.step_lib", "in_parallel"),
    ("inngest._internal.step_lib.base", "NestedStepInterrupt"),
    ("inngest._internal.step_lib.base", "StepUserlandInfo"),
    ("inngest._internal.execution_lib.models", "CallResult.from_responses"),
    ("inngest._internal.execution_lib.models", "_in_step"),
    ("inngest._internal.execution_lib", "get_step_context"),
    ("inngest._internal.comm_lib.models", "_prep_call_result"),
    ("inngest._internal.middleware_lib", "MiddlewareManager.transform_output"),
    ("inngest._internal.middleware_lib", "MiddlewareManager.transform_output_sync"),
    ("inngest._internal.middleware_lib", "MiddlewareManager.before_execution"),
    ("inngest._internal.middleware_lib", "MiddlewareManager.before_execution_sync"),
    ("inngest._internal.net", "create_headers"),
    ("inngest._internal.transforms", "hash_step_id"),
    ("inngest._internal.transforms", "hash_signing_key"),
]


def find(module: str, attribute: str) -> Any:
    found: Any = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found


def test_no_other_file_reads_a_private_attribute_by_its_name() -> None:
    """What ruff's SLF001 does not see. `_request_id` is public: the manual of the OpenAI client says so."""
    found = [
        f"{path.name}: {attribute}"
        for path in SOURCE.rglob("*.py")
        if path.name not in ("_agents_sdk.py", "_inngest_sdk.py")
        for attribute in re.findall(r'[gs]etattr\([^()]*, "(_[a-z]\w*)"', path.read_text())
    ]
    assert found == ["streaming.py: _request_id"]


def test_the_lists_are_read_from_the_code() -> None:
    assert len(SEAMS) >= 20
    assert len(NAMES) >= 5


@pytest.mark.parametrize(("module", "attribute", "parameters"), SEAMS)
def test_a_seam_of_the_agents_sdk_takes_what_its_wrapper_relies_on(
    module: str, attribute: str, parameters: str
) -> None:
    known = inspect.signature(find(module, attribute)).parameters
    assert set(re.findall(r'"(\w+)"', parameters)) <= set(known)


@pytest.mark.parametrize(("module", "attribute"), NAMES)
def test_a_name_of_the_agents_sdk_is_there(module: str, attribute: str) -> None:
    assert find(module, attribute) is not None


@pytest.mark.parametrize(("module", "attribute"), INNGEST)
def test_a_name_of_the_inngest_sdk_is_there(module: str, attribute: str) -> None:
    assert find(module, attribute) is not None


def test_a_missing_name_fails_at_import_and_says_what_to_install() -> None:
    code = (
        "import agents.tool\n"
        "del agents.tool._FailureHandlingFunctionToolInvoker\n"
        "from inngest_agents import DurableRunner\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode != 0
    assert "_FailureHandlingFunctionToolInvoker" in done.stderr
    assert "pip install 'openai-agents>=0.24" in done.stderr


def test_a_compaction_session_keeps_in_its_memory_for_which_response_it_must_compact() -> None:
    session = agents.OpenAIResponsesCompactionSession("s", agents.SQLiteSession("s"), client=cast("Any", object()))
    assert _agents_sdk.forced_compaction(session) is None
    wrapped = SimpleNamespace(underlying_session=session)
    _agents_sdk.force_compaction(wrapped, "r1")
    assert _agents_sdk.forced_compaction(session) == "r1"
    _agents_sdk.force_compaction(session, "r2")
    assert _agents_sdk.forced_compaction(session) == "r1"
    _agents_sdk.force_compaction(agents.SQLiteSession("s"), "r1")


async def test_a_stream_raises_the_error_that_is_put_into_it() -> None:
    agent = agents.Agent(name="a", model=ScriptedModel([[assistant_message("done")]]))
    result = agents.Runner.run_streamed(agent, "hi")
    _agents_sdk.fail_stream(result, asyncio.CancelledError("lost"))
    with pytest.raises(asyncio.CancelledError, match="lost"):
        await anext(result.stream_events())
    result.cancel()
