"""Shell, patch, custom and computer tools: each action a step, retried by the engine, errors as with plain `Runner`."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from agents import (
    Agent,
    ApplyPatchTool,
    AsyncComputer,
    Computer,
    ComputerProvider,
    ComputerTool,
    CustomTool,
    HostedMCPTool,
    LocalShellTool,
    RunHooks,
    Runner,
    ShellCallOutcome,
    ShellCommandOutput,
    ShellResult,
    ShellTool,
    UserError,
)
from agents.editor import ApplyPatchResult
from agents.testing import ScriptedModel, assistant_message
from openai.types.responses import ResponseComputerToolCall, ResponseCustomToolCall
from openai.types.responses.response_output_item import LocalShellCall, LocalShellCallAction, McpApprovalRequest
from oracle import both, shown

from inngest_agents import DurableOptions, DurableRunner
from inngest_agents.options import ToolOptions
from inngest_agents.testing import replayed


async def durably(agent: Agent[Any], **options: Any) -> Any:
    attempts = options.pop("max_attempts", 1)
    return await replayed(lambda step: DurableRunner.run(agent, "hi", step=step, **options), max_attempts=attempts)


def shell_call(command: str, call_id: str = "s1") -> Any:
    return {
        "type": "shell_call",
        "id": f"id {call_id}",
        "call_id": call_id,
        "status": "completed",
        "action": {"type": "exec", "commands": [command], "timeout_ms": 1000},
    }


def shell_script() -> list[Any]:
    return [[shell_call("ls")], [assistant_message("done")]]


async def test_a_shell_executor_is_a_step_with_its_structured_result() -> None:
    commands: list[str] = []

    async def executor(request: Any) -> ShellResult:
        commands.extend(request.data.action.commands)
        output = ShellCommandOutput(
            stdout="a.txt", stderr="", outcome=ShellCallOutcome(type="exit", exit_code=0), command="ls"
        )
        return ShellResult(output=[output], max_output_length=100, provider_data={"machine": "m1"})

    result = await both(lambda model: Agent(name="a", model=model, tools=[ShellTool(executor=executor)]), shell_script)
    assert commands == ["ls"] * 2
    assert result.steps == ["1 model a", "1.1 shell", "2 model a"]


@pytest.mark.parametrize(("limit", "tries"), [(None, 3), (1, 1)])
async def test_a_shell_executor_that_raises_is_retried_and_only_then_told_to_the_model(
    limit: int | None, tries: int
) -> None:
    commands: list[str] = []

    def executor(request: Any) -> str:
        commands.extend(request.data.action.commands)
        raise TimeoutError("the machine does not answer")

    def build() -> Agent[Any]:
        return Agent(name="a", model=ScriptedModel(shell_script()), tools=[ShellTool(executor=executor)])

    plain = await Runner.run(build(), "hi")
    commands.clear()
    run = await durably(
        build(), max_attempts=3, options=DurableOptions(tools={"shell": ToolOptions(max_attempts=limit)})
    )
    assert shown(run.result) == shown(plain)
    assert len(commands) == tries


async def test_shell_approvals_are_decided_once() -> None:
    events: list[str] = []

    async def needs_approval(context: Any, action: Any, call_id: str) -> bool:
        events.append(f"needs {action.commands[0]}")
        return True

    def on_approval(context: Any, item: Any) -> Any:
        events.append("decide")
        command = item.raw_item.action.commands[0]
        return {"approve": command == "ls", "reason": "too dangerous"}

    def executor(request: Any) -> str:
        events.append(f"run {request.data.action.commands[0]}")
        return "ok"

    tool = ShellTool(executor=executor, needs_approval=needs_approval, on_approval=on_approval)
    result = await both(
        lambda model: Agent(name="a", model=model, tools=[tool]),
        lambda: [[shell_call("ls", "s1"), shell_call("rm", "s2")], [assistant_message("done")]],
    )
    expected = ["needs ls", "decide", "run ls", "needs rm", "decide"]
    assert sorted(events) == sorted(expected * 2)
    assert result.labels("approv") == [
        "1.1 needs approval",
        "1.1 shell on approval",
        "1.2 needs approval",
        "1.2 shell on approval",
    ]


async def test_hooks_and_extractors_see_the_users_own_tool() -> None:
    seen: list[Any] = []

    class Hooks(RunHooks[Any]):
        async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
            seen.append(tool)

        async def on_tool_end(self, context: Any, agent: Any, tool: Any, result: Any) -> None:
            seen.append(tool)

    def extract(data: Any) -> None:
        seen.append(data.tool)

    tool = CustomTool(
        name="sql", description="asks", on_invoke_tool=lambda context, given: "1", custom_data_extractor=extract
    )
    await durably(Agent(name="a", model=ScriptedModel(custom_script()), tools=[tool]), hooks=Hooks())
    assert len(seen) == 3
    assert all(one is tool for one in seen)


def local_shell_script() -> list[Any]:
    action = LocalShellCallAction(command=["ls"], env={}, type="exec")
    call = LocalShellCall(id="l", action=action, call_id="l1", status="completed", type="local_shell_call")
    return [[call], [assistant_message("done")]]


async def test_a_local_shell_executor_is_a_step() -> None:
    calls: list[Any] = []

    def executor(request: Any) -> str:
        calls.append(request.data.action.command)
        return "a.txt"

    result = await both(
        lambda model: Agent(name="a", model=model, tools=[LocalShellTool(executor=executor)]), local_shell_script
    )
    assert calls == [["ls"]] * 2
    assert result.steps == ["1 model a", "1.1 local_shell", "2 model a"]


async def test_a_local_shell_executor_that_raises_fails_the_run_as_with_runner() -> None:
    calls: list[Any] = []

    def executor(request: Any) -> str:
        calls.append(1)
        raise OSError("no such machine")

    def build() -> Agent[Any]:
        return Agent(name="a", model=ScriptedModel(local_shell_script()), tools=[LocalShellTool(executor=executor)])

    with pytest.raises(OSError, match="no such machine"):
        await Runner.run(build(), "hi")
    calls.clear()
    with pytest.raises(OSError, match="no such machine"):
        await durably(build(), max_attempts=2)
    assert len(calls) == 2


def custom_script() -> list[Any]:
    call = ResponseCustomToolCall(type="custom_tool_call", name="sql", call_id="q1", input="select 1")
    return [[call], [assistant_message("done")]]


async def test_a_custom_tool_is_a_step_and_its_extractor_another() -> None:
    calls: list[str] = []

    async def invoke(context: Any, given: str) -> Any:
        calls.append(given)
        return {"rows": [1]}

    tool = CustomTool(
        name="sql", description="asks", on_invoke_tool=invoke, custom_data_extractor=lambda data: {"given": data.input}
    )
    result = await both(lambda model: Agent(name="a", model=model, tools=[tool]), custom_script)
    assert calls == ["select 1"] * 2
    assert result.steps == ["1 model a", "1.1 sql", "1.1 sql custom data", "2 model a"]


async def test_a_custom_tool_that_raises_is_retried_and_then_told_to_the_model() -> None:
    calls: list[str] = []

    def invoke(context: Any, given: str) -> Any:
        calls.append(given)
        raise ValueError("bad query")

    def build() -> Agent[Any]:
        tool = CustomTool(name="sql", description="asks", on_invoke_tool=invoke)
        return Agent(name="a", model=ScriptedModel(custom_script()), tools=[tool])

    plain = await Runner.run(build(), "hi")
    calls.clear()
    run = await durably(build(), max_attempts=4)
    assert shown(run.result) == shown(plain)
    assert len(calls) == 4


@dataclasses.dataclass
class Editor:
    done: list[str]
    broken: str = ""

    def create_file(self, operation: Any) -> Any:
        return self._do(operation)

    async def update_file(self, operation: Any) -> Any:
        return self._do(operation)

    def delete_file(self, operation: Any) -> Any:
        self._do(operation)

    def _do(self, operation: Any) -> Any:
        self.done.append(f"{operation.type} {operation.path}")
        if operation.path == self.broken:
            raise PermissionError(f"{operation.path} is read-only")
        return ApplyPatchResult(status="completed", output=f"{operation.type} done")


def patch_script() -> list[Any]:
    def call(n: int, kind: str, path: str) -> Any:
        operation = {"type": kind, "path": path}
        if kind != "delete_file":
            operation["diff"] = "+x"
        return {
            "type": "apply_patch_call",
            "id": f"p{n}",
            "call_id": f"p{n}",
            "status": "completed",
            "operation": operation,
        }

    return [
        [call(1, "create_file", "a.md"), call(2, "update_file", "b.md"), call(3, "delete_file", "c.md")],
        [assistant_message("done")],
    ]


@pytest.mark.parametrize("broken", ["", "b.md"])
async def test_each_operation_of_an_editor_is_a_step(broken: str) -> None:
    done: list[str] = []
    editor = Editor(done, broken)
    result = await both(
        lambda model: Agent(name="a", model=model, tools=[ApplyPatchTool(editor=editor)]), patch_script, max_attempts=2
    )
    tries = 3 if broken else 2  # once plain, and once or twice durably
    assert done.count("update_file b.md") == tries
    assert done.count("create_file a.md") == 2
    assert result.steps[1:-1] == [
        "1.1 apply_patch create_file a.md",
        "1.2 apply_patch update_file b.md",
        "1.3 apply_patch delete_file c.md",
    ]


class Screen(Computer):
    """A driver that notes what it is told."""

    def __init__(self, log: list[str], *, broken: bool = False) -> None:
        self.log, self.broken = log, broken

    @property
    def environment(self) -> Any:
        return "mac"

    @property
    def dimensions(self) -> tuple[int, int]:
        return (10, 20)

    def screenshot(self) -> str:
        self.log.append("screenshot")
        if self.broken:
            raise ConnectionError("the screen is black")
        return f"picture {self.log.count('screenshot')}"

    def click(self, x: int, y: int, button: Any) -> None:
        self.log.append(f"click {x} {y} {button}")

    def double_click(self, x: int, y: int) -> None: ...
    def scroll(self, x: int, y: int, scroll_x: int, scroll_y: int) -> None: ...
    def wait(self) -> None: ...
    def move(self, x: int, y: int) -> None: ...
    def keypress(self, keys: list[str]) -> None: ...
    def drag(self, path: list[tuple[int, int]]) -> None: ...

    def type(self, text: str) -> None:
        self.log.append(f"type {text}")


def computer_script(checks: int = 0) -> list[Any]:
    def call(n: int, *actions: Any) -> Any:
        pending = [{"id": f"k{number}", "code": "c", "message": "m"} for number in range(checks if n == 1 else 0)]
        return ResponseComputerToolCall.model_validate(
            {
                "id": f"c{n}",
                "call_id": f"c{n}",
                "type": "computer_call",
                "status": "completed",
                "actions": list(actions),
                "pending_safety_checks": pending,
            }
        )

    click = {"type": "click", "x": 1, "y": 2, "button": "left", "keys": ["SHIFT"]}
    return [
        [call(1, click, {"type": "type", "text": "x"})],
        [call(2, {"type": "screenshot"})],
        [assistant_message("done")],
    ]


COMPUTER_STEPS = [
    "1 model a",
    "1.1 computer click",
    "1.1 computer type",
    "1.1 computer screenshot",
    "2 model a",
    "2.1 computer screenshot",
    "3 model a",
]


async def test_each_call_of_a_computers_driver_is_a_step() -> None:
    logs: list[list[str]] = []

    def build(model: ScriptedModel) -> Agent[Any]:
        logs.append([])
        return Agent(name="a", model=model, tools=[ComputerTool(computer=Screen(logs[-1]))])

    result = await both(build, computer_script)
    assert logs[0] == logs[1] == ["click 1 2 left", "type x", "screenshot", "screenshot"]
    assert result.steps == COMPUTER_STEPS


@pytest.mark.parametrize("as_provider", [True, False])
async def test_a_computer_is_made_only_for_steps_that_need_it_and_disposed_of(as_provider: bool) -> None:
    log: list[str] = []
    open_computers: list[int] = []
    made: list[int] = []

    async def create(*, run_context: Any) -> Computer:
        made.append(1)
        open_computers.append(1)
        return Screen(log)

    async def dispose(*, run_context: Any, computer: Any) -> None:
        open_computers.pop()

    tool: ComputerTool[Any] = ComputerTool(
        computer=ComputerProvider(create=create, dispose=dispose) if as_provider else create
    )
    agent: Agent[Any] = Agent(name="a", model=ScriptedModel(computer_script()), tools=[tool])
    run = await durably(agent)
    assert [step.partition("/")[2] for step in run.steps] == ["1 open computer", *COMPUTER_STEPS]
    # Once for its facts and once for each of the four steps with an action; each was a request of its own here.
    assert len(made) == 5
    assert log == ["click 1 2 left", "type x", "screenshot", "screenshot"]
    if as_provider:
        assert open_computers == []


async def test_the_facts_of_a_made_computer_are_there_for_the_model() -> None:
    seen: list[Any] = []

    class Looking(ScriptedModel):
        async def get_response(self, *args: Any, **kwargs: Any) -> Any:
            computer = kwargs["tools"][0].computer
            seen.append((isinstance(computer, AsyncComputer), computer.environment, computer.dimensions))
            return await super().get_response(*args, **kwargs)

    tool: ComputerTool[Any] = ComputerTool(computer=lambda *, run_context: Screen([]))
    await durably(Agent(name="a", model=Looking(computer_script()), tools=[tool]))
    assert seen == [(True, "mac", (10, 20))] * 3


async def test_a_driver_that_raises_is_retried_without_repeating_the_actions_before_it() -> None:
    log: list[str] = []
    tool: ComputerTool[Any] = ComputerTool(computer=Screen(log, broken=True))
    agent: Agent[Any] = Agent(name="a", model=ScriptedModel(computer_script()), tools=[tool])
    with pytest.raises(ConnectionError, match="the screen is black"):
        await durably(agent, max_attempts=3)
    assert log == ["click 1 2 left", "type x", "screenshot", "screenshot", "screenshot"]


@pytest.mark.parametrize("answer", [True, False])
async def test_safety_checks_are_asked_once(answer: bool) -> None:
    asked: list[str] = []

    async def check(data: Any) -> bool:
        asked.append(data.safety_check.id)
        return answer

    tool: ComputerTool[Any] = ComputerTool(computer=Screen([]), on_safety_check=check)
    agent: Agent[Any] = Agent(name="a", model=ScriptedModel(computer_script(checks=2)), tools=[tool])
    if answer:
        await durably(agent)
        assert asked == ["k0", "k1"]
        return
    with pytest.raises(UserError, match="not acknowledged"):
        await durably(agent)
    assert asked == ["k0"]


@pytest.mark.parametrize("answer", [{"approve": True}, {"approve": False, "reason": "not today"}])
async def test_hosted_mcp_approvals_are_asked_once(answer: Any) -> None:
    asked: list[str] = []

    def build(model: ScriptedModel) -> Agent[Any]:
        def decide(request: Any) -> Any:
            asked.append(request.data.name)
            return answer

        config: Any = {"type": "mcp", "server_label": "files", "server_url": "https://example.com/mcp"}
        tool = HostedMCPTool(tool_config=config, on_approval_request=decide)
        return Agent(name="a", model=model, tools=[tool])

    def script() -> list[Any]:
        request = McpApprovalRequest(
            id="mcpr_1", arguments="{}", name="delete_file", server_label="files", type="mcp_approval_request"
        )
        return [[request], [assistant_message("done")]]

    result = await both(build, script)
    assert asked == ["delete_file"] * 2
    assert result.steps == ["1 model a", "1 approve delete_file mcpr_1", "2 model a"]
