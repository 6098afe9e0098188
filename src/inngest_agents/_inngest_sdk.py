"""Every private name of the Inngest SDK that this package touches, and what each is for.

The public `step.run` cannot be used for the steps of an agent run: it answers one step a request, counts repeated
ids in the order of the calls (which is not stable between concurrent calls), copies all memos on each look-up, and
ends the request from inside the caller's frames. So the journal reads the memos itself and builds the opcodes that
`step.run` would have built. What is used:

- `Step._execution` / `StepSync._execution`: `._memos` (the memoized steps), `._request.ctx` (attempt, limits),
  `._request.steps` (the memos as they came, which are let go), `._target_hashed_id` (the step that a targeted request
  asks for), `._middleware`.
- `step_lib.StepMemos._memos`: the dict of memos by hashed id; `step_lib.Output`: one memo.
- `step_lib.StepInfo`, `StepResponse`, `ResponseInterrupt`, `SkipInterrupt`, `NestedStepInterrupt`: how a step is
  reported and how a request ends (SDK specification, section 5.1).
- `step_lib.in_parallel`: set inside `group.parallel`, where steps must be planned and not run.
- `execution_lib.CallResult` and `comm_lib.CommResponse.prep_call_result`'s shape: what the 206 answer holds for a
  step, so that a checkpointed step is exactly the same JSON.
- `middleware_lib.MiddlewareManager`: `transform_output` (encryption and others see checkpointed outputs as they see
  others), `before_execution`, `_raw_request` (the framework's request, whose body has the ids for checkpointing).
- `execution_lib.models._in_step`: makes a `step.run` inside one of our steps the SDK's own clear error.
- the client's `api_origin`, `signing_key`, `signing_key_fallback`, `env`: where checkpoints go.

All of it is checked when this module is imported; tests/contract has a test per name.
"""

from __future__ import annotations

import contextvars
import json
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import inngest
import pydantic

try:
    from inngest._internal import const as _const
    from inngest._internal import errors as _errors
    from inngest._internal import execution_lib as _execution_lib
    from inngest._internal import net as _net
    from inngest._internal import server_lib as _server_lib
    from inngest._internal import step_lib as _step_lib
    from inngest._internal import transforms as _transforms
    from inngest._internal import types as _types
    from inngest._internal.comm_lib import models as _comm_models
    from inngest._internal.execution_lib import models as _execution_models
    from inngest._internal.step_lib import base as _step_base

    Opcode = _server_lib.Opcode
    ResponseInterrupt = _step_lib.ResponseInterrupt
    SkipInterrupt = _step_lib.SkipInterrupt
    NestedStepInterrupt = _step_base.NestedStepInterrupt
    StepResponse = _step_lib.StepResponse
    ErrorCode = _server_lib.ErrorCode
    hash_step_id = _transforms.hash_step_id
    hash_signing_key = _transforms.hash_signing_key
    _in_step = _execution_models._in_step
    _get_step_context = _execution_lib.get_step_context
    _in_parallel = _step_lib.in_parallel
    _prep_call_result = _comm_models._prep_call_result
    _CallResult = _execution_models.CallResult
    _from_responses = _execution_models.CallResult.from_responses
    _StepInfo = _step_lib.StepInfo
    _StepUserlandInfo = _step_base.StepUserlandInfo
    _create_headers = _net.create_headers
    _EmptySentinel = _types.EmptySentinel
    _SDK_VERSION = _const.VERSION
except (ImportError, AttributeError) as error:  # pragma: no cover - depends on the installed version
    raise ImportError(
        f"inngest-agents needs a name of the Inngest SDK that the installed version {inngest.__name__} "
        f"{getattr(inngest, '__version__', '(unknown)')} does not have: {error}. "
        "Install a version in the tested range (see pyproject.toml), e.g. pip install 'inngest>=0.5.19,<0.6'."
    ) from error

if TYPE_CHECKING:
    from inngest._internal.step_lib.step_async import Step
    from inngest._internal.step_lib.step_sync import StepSync

    AnyStep = Step | StepSync

STEP_TYPES: Final = (_step_lib.Step, _step_lib.StepSync)
"""The types that `ctx.step` has in an async and in a sync Inngest function."""

CONTEXT_TYPES: Final = (inngest.Context, inngest.ContextSync)
"""The types of `ctx` itself."""


def is_of_another_call(step: Any) -> bool:
    """Whether the function around the caller has another step; of a synchronous one the SDK does not tell."""
    try:
        return _get_step_context() is not step
    except LookupError:
        return False


class StepInfo(_StepInfo):
    """The SDK's `StepInfo` with the two optional fields of an opcode that the Python SDK does not know.

    `timing` gives the dashboard its timeline, `metadata` its tokens and cost; both are fields of the opcode in the
    server's checkpoint and 206 bodies.
    """

    timing: dict[str, int] | None = None
    metadata: list[dict[str, Any]] | None = None


# The base class's annotations are resolved among the names of its own module.
StepInfo.model_rebuild(_types_namespace=vars(_step_base))


class NoOpStepInfo(StepInfo):
    """Opcode `None`: ends this request without telling the server anything about the run."""

    op: str = "None"  # type: ignore[assignment]


NoOpStepInfo.model_rebuild(_types_namespace=vars(_step_base))


GO_ON: Final = "DiscoveryRequest"
"""The opcode that ends a request and asks for the next (specification, section 10.3); the SDK has no name for it."""


class _GoOnStepInfo(StepInfo):
    """The description of what is no step, but has that opcode."""

    op: str = GO_ON  # type: ignore[assignment]


_GoOnStepInfo.model_rebuild(_types_namespace=vars(_step_base))


@dataclass(frozen=True, slots=True)
class Memo:
    """What the server remembers of a finished step: its value, or the error of its last attempt."""

    value: Any
    error: MemoError | None


@dataclass(frozen=True, slots=True)
class MemoError:
    """The error of a step that failed for good."""

    name: str
    message: str
    stack: str | None


@dataclass(frozen=True, slots=True)
class CheckpointTarget:
    """Where and as what finished steps are saved while the request is open (specification, section 10.3.1)."""

    url: str
    ids: Mapping[str, Any]
    """`run_id`, `fn_id`, `qi_id`, `request_id`, `generation_id` as they came in the Call Request."""
    signing_keys: tuple[str, ...]
    """The signing key and the fallback key, as far as they are set."""
    headers: Mapping[str, str]


class EngineRequest:
    """One Call Request of the engine, seen through the `step` object that the user passes on.

    Raises:
        TypeError: `step` is not the `step` of an Inngest context.
    """

    __slots__ = ("_execution", "_middleware", "is_sync")

    def __init__(self, step: AnyStep) -> None:
        if not isinstance(step, STEP_TYPES):
            raise TypeError(
                f"step must be the step object of an Inngest function's context, not {type(step).__name__}. "
                "Write: await DurableRunner.run(agent, input, step=ctx.step)"
            )
        execution: Any = step._execution
        self._execution = execution
        # The SDK has made `_memos` of them and does not look at them again. Kept, they would hold each memo until the
        # request ends, long after a step was answered with it.
        execution._request.steps.clear()
        self._middleware: Any = step._middleware
        self.is_sync: bool = isinstance(step, _step_lib.StepSync)

    @property
    def _memos(self) -> dict[str, Any]:
        # Looked up each time: the SDK puts a new dict there whenever the user's own `step.run` takes a memo.
        memos: dict[str, Any] = self._execution._memos._memos
        return memos

    @property
    def run_id(self) -> str:
        """The run's id."""
        return str(self._execution._request.ctx.run_id)

    @property
    def attempt(self) -> int:
        """How often this request was tried before, from 0."""
        return int(self._execution._request.ctx.attempt)

    @property
    def max_attempts(self) -> int | None:
        """How often a step is tried at most; None if the server does not say."""
        value: int | None = self._execution._request.ctx.max_attempts
        return value

    @property
    def target(self) -> str | None:
        """The hashed id of the only step that this request may run; None in an ordinary request."""
        value: str | None = self._execution._target_hashed_id
        return value

    @property
    def is_join(self) -> bool:
        """Whether the request is for the step that `with_join` has planned."""
        return self.target is not None and is_join(self.target)

    def drop_memos(self, is_unwanted: Callable[[str, Any], bool]) -> set[str]:
        """Forget the memos whose hashed id and value are unwanted.

        Returns:
            their hashed ids.
        """
        memos = self._memos
        dropped = {hashed_id for hashed_id, output in memos.items() if is_unwanted(hashed_id, output.data)}
        for hashed_id in dropped:
            del memos[hashed_id]
        return dropped

    @property
    def disable_immediate_execution(self) -> bool:
        """Whether a new step must be planned, because other steps of a parallel plan are still under way."""
        return bool(self._execution._request.ctx.disable_immediate_execution)

    @property
    def in_parallel_group(self) -> bool:
        """Whether the caller is inside `group.parallel`, where steps are planned and not run."""
        return bool(_in_parallel.get())

    @property
    def shows_inputs(self) -> bool:
        """Whether what steps get may be shown in the dashboard: it goes there beside what middleware may encrypt."""
        plain = (inngest.Middleware.transform_output, inngest.MiddlewareSync.transform_output)
        return all(type(each).transform_output in plain for each in self._middleware.middleware)

    @property
    def memo_count(self) -> int:
        """How many memos no step has asked for yet."""
        return len(self._memos)

    def take_memo(self, *hashed_ids: str) -> Memo | None:
        """The memo of a step, once, under the first of its ids that has one; None if it has not finished yet."""
        memos = self._memos
        found = [output for hashed_id in hashed_ids if (output := memos.pop(hashed_id, None)) is not None]
        if not found:
            return None
        output = found[0]
        error = output.error
        if error is not None:
            return Memo(None, MemoError(error.name, error.message, error.stack))
        return Memo(output.data, None)

    def has_memo(self, *hashed_ids: str) -> bool:
        """Whether a step has finished already, under any of its ids."""
        return not self._memos.keys().isdisjoint(hashed_ids)

    def unused(self, prefix: str, step_id_of: Callable[[Any], str]) -> list[tuple[str, dict[str, Any]]]:
        """What is remembered of steps whose id begins with `prefix` and that nobody has asked for, with their ids.

        Args:
            prefix: of the readable ids; what the engine sends has the hashed ones.
            step_id_of: reads the id from what is remembered.
        """
        values = [output.data for output in self._memos.values() if isinstance(output.data, dict)]
        found = ((step_id_of(value), value) for value in values)
        return [(step_id, value) for step_id, value in found if step_id.startswith(prefix)]

    async def before_execution(self) -> None:
        """Tell the middleware, once a request, that new code runs from here."""
        if self.is_sync:
            self._middleware.before_execution_sync()
        else:
            await self._middleware.before_execution()

    async def opcode(self, response: StepResponse) -> dict[str, Any]:
        """A finished step as the opcode that the 206 answer would hold, after the middleware's transforms.

        Raises:
            Exception: what a middleware raised, or the SDK's `OutputUnserializableError`.
        """
        call = await self._call_result(response)
        if call.error is None and call.step is not None:
            # What `_prep_call_result` does too, after it has encoded the output once more only to see if it can be.
            described = call.step.to_dict()
            if isinstance(described, dict):
                return {**described, "data": call.output}
        body = _prep_call_result(call)
        if isinstance(body, Exception):
            raise body
        assert isinstance(body, dict)
        return body

    async def transformed(self, response: StepResponse) -> StepResponse:
        """A response after the middleware's transforms, which the SDK makes only where an answer has no other.

        Raises:
            Exception: what a middleware raised.
        """
        call = await self._call_result(response)
        return StepResponse(output=call.output, original_error=call.error, step=response.step)

    async def _call_result(self, response: StepResponse) -> _execution_models.CallResult:
        result = _CallResult.from_responses([response])
        if self.is_sync:
            failed = self._middleware.transform_output_sync(result)
        else:
            failed = await self._middleware.transform_output(result)
        if isinstance(failed, Exception):
            raise failed
        assert result.multi is not None
        [call] = result.multi
        return call

    def checkpoint_target(self) -> CheckpointTarget | str:
        """Where finished steps can be saved, or the reason why they cannot."""
        if self.target is not None:
            return "the request is for one step of a parallel plan"
        return self.api_target()

    def api_target(self) -> CheckpointTarget | str:
        """Where the engine can be told of this request, or asked, or the reason why it can't."""
        request = self._raw_request
        if request is None:
            return "the request is that of another thread (a sync function beside async ones in a Flask app)"
        body = _request_body(request)
        if body is None:
            return f"the body of a {type(request).__name__} can't be read"
        try:
            ctx = json.loads(body)["ctx"]
        except (ValueError, KeyError, TypeError):
            return "the request's body is not the JSON of a Call Request"
        if not ctx.get("qi_id") or not ctx.get("fn_id"):
            return "the server offers no checkpointing (no qi_id in the request)"
        client = self._middleware.client
        ids = {key: ctx[key] for key in ("fn_id", "qi_id", "request_id", "generation_id") if ctx.get(key) is not None}
        keys = tuple(key for key in (client.signing_key, client.signing_key_fallback) if key)
        headers = _create_headers(env=client.env, framework=None, server_kind=None)
        return CheckpointTarget(
            url=f"{client.api_origin.rstrip('/')}/v1/checkpoint/{self.run_id}/async",
            ids={"run_id": self.run_id, **ids},
            signing_keys=tuple(hash_signing_key(key) for key in keys),
            headers={key: value for key, value in headers.items() if key.lower() != "content-type"},
        )

    @property
    def request_id(self) -> str:
        """The engine's id of this request, from its headers, so that no body has to be read; "" if they have none."""
        return "" if self.is_connect else self._headers("x-request-id")["x-request-id"]

    @property
    def traceparent(self) -> str:
        """The W3C header of the engine's trace of the run; "" if the request has none."""
        return self._trace_headers.get("traceparent", "")

    @property
    def trace_attributes(self) -> dict[str, str]:
        """The attributes of a span by which Inngest's API for spans (`/v1/traces/userland`) finds its run."""
        entries = (entry.strip().partition("=") for entry in self._trace_headers.get("tracestate", "").split(","))
        state = {name: value for name, _, value in entries}
        return {
            "sdk.run.id": self.run_id,
            "sys.function.id": state.get("inngest@fn", ""),
            "inngest.traceref": state.get("inngest@traceref", ""),
        }

    @property
    def _trace_headers(self) -> Mapping[str, str]:
        request: Any = self._raw_request
        if self.is_connect:
            try:
                found = json.loads(request.user_trace_ctx)
            except (AttributeError, ValueError):
                return {}
            return found if isinstance(found, dict) else {}
        return self._headers("traceparent", "tracestate")

    def _headers(self, *names: str) -> dict[str, str]:
        get = getattr(getattr(self._raw_request, "headers", None), "get", None)
        return {name: "" if get is None else str(get(name) or "") for name in names}

    @property
    def is_connect(self) -> bool:
        """Whether the request came over a Connect WebSocket and not over HTTP."""
        return hasattr(self._raw_request, "request_payload")

    @property
    def _raw_request(self) -> object:
        """The framework's request; None where it can't be had.

        Flask's is a proxy that only the thread of the request can use. Where async functions are served beside it, the
        SDK runs a synchronous one in another thread.
        """
        request: object = self._middleware._raw_request
        try:
            hasattr(request, "headers")
        except RuntimeError:
            return None
        return request


def step_info(
    step_id: str,
    hashed_id: str,
    op: Opcode,
    *,
    opts: dict[str, Any] | None = None,
    timing: dict[str, int] | None = None,
    metadata: list[dict[str, Any]] | None = None,
) -> StepInfo:
    """The description of a step in an opcode, with the names that the dashboard shows."""
    return StepInfo(
        display_name=step_id,
        id=hashed_id,
        name=step_id,
        op=op,
        opts=opts,
        userland=_StepUserlandInfo(id=step_id, index=None),
        timing=timing,
        metadata=metadata,
    )


def mark_in_step() -> contextvars.Token[bool]:
    """Make a `step.run` in the current context the SDK's own "nested step" interrupt."""
    return _in_step.set(True)


def unmark_in_step(token: contextvars.Token[bool]) -> None:
    """Undo `mark_in_step`."""
    _in_step.reset(token)


def end_quietly() -> ResponseInterrupt:
    """The interrupt that ends a request without reporting anything: the run belongs to another worker now."""
    # With an id: the engine sends a new request for an opcode `None` without one.
    return ResponseInterrupt(StepResponse(step=NoOpStepInfo(display_name="", id="stale")))


def go_on_after(hashed_id: str) -> StepResponse:
    """The answer of a request whose steps are all saved, and with which the run goes on in a request of its own.

    Args:
        hashed_id: of the last step. The engine takes it for the step's own answer: both lead to one request only.
    """
    return StepResponse(step=_GoOnStepInfo(display_name="", id=hashed_id))


class _MissedStepInfo(NoOpStepInfo):
    """Opcode `None`, until `group.parallel` has asked all of its functions and nobody has answered for the target.

    Where somebody has, it is left out of the answer (see `_call_result_of`).
    """

    _answer: Callable[[], StepResponse | None] = pydantic.PrivateAttr()
    _response: StepResponse = pydantic.PrivateAttr()

    def set_parallel_mode(self, parallel_mode: Any) -> None:
        answer = self._answer()
        if answer is None:
            super().set_parallel_mode(parallel_mode)
            return
        self._response.output, self._response.step = answer.output, answer.step
        answer.step.set_parallel_mode(parallel_mode)


def missed(answer: Callable[[], StepResponse | None]) -> ResponseInterrupt:
    """The interrupt of a run in `group.parallel` that does not ask for the target.

    Mostly it is another function's. `group.parallel` looks at each response once it has asked all of them; if there
    were none, it would return without those functions whose steps have no memo yet.

    Args:
        answer: called then; what to answer in the end if nobody else has.
    """
    info = _MissedStepInfo(display_name="", id="")
    response = StepResponse(step=info)
    info._answer, info._response = answer, response
    return ResponseInterrupt(response)


class _RetryLater(StepResponse):
    """A failed step that is to be tried again at a time that the request's answer tells."""

    _error: Exception = pydantic.PrivateAttr()


def retry_later(response: StepResponse, error: Exception) -> ResponseInterrupt:
    """The interrupt of a request in which a step has failed that may not be tried again now.

    The SDK tells when (header `Retry-After`) of a function's own error alone, but raised in the user's frame that would
    be caught there as if the step had failed for good.

    Args:
        response: the failed step; it is the answer where it is not the only one, as in `group.parallel`.
        error: the `inngest.RetryAfterError`.
    """
    later = _RetryLater(output=response.output, original_error=response.original_error, step=response.step)
    later._error = error
    return ResponseInterrupt(later)


def _call_result_of(_: type[Any], responses: list[StepResponse]) -> _execution_models.CallResult:
    """The SDK's result of an interrupted request, also of what it does not know.

    That is a time to retry at, and responses that stand for none.
    """
    responses = [one for one in responses if not _is_void(one)] or responses
    if len(responses) == 1 and isinstance(responses[0], _RetryLater):
        return _CallResult(error=responses[0]._error)
    return _from_responses(responses)


def _is_void(response: StepResponse) -> bool:
    # Beside another response it would keep that one from the middleware's transforms.
    return isinstance(response.step, _MissedStepInfo)


_CallResult.from_responses = classmethod(_call_result_of)  # type: ignore[method-assign,assignment]


def planned_again(failed: StepResponse) -> StepResponse:
    """The plan of a step of `ctx.step` that has failed and is to be tried again in a request of its own."""
    return StepResponse(step=failed.step.model_copy(update={"op": Opcode.PLANNED}))


_JOIN: Final = "join"
"""How the ids of joining steps begin; those of others are hexadecimal digits."""


def with_join(responses: list[StepResponse]) -> list[StepResponse]:
    """Several steps that have ended, so that they lead to one next request.

    For each of them the engine sends a request of its own, and these would run the next step all at once. Only where a
    step is planned beside them it waits for all. So one without content is planned; `joined` answers it.
    """
    if len(responses) < 2 or any(response.step.op == Opcode.PLANNED for response in responses):
        return responses
    hashed_id = _JOIN + hash_step_id(" ".join(response.step.id for response in responses))[len(_JOIN) :]
    return [*responses, StepResponse(step=step_info("join", hashed_id, Opcode.PLANNED))]


def under_id(response: StepResponse, hashed_id: str) -> StepResponse:
    """The answer of a finished step under another of its ids."""
    return response.model_copy(update={"step": response.step.model_copy(update={"id": hashed_id})})


def is_join(hashed_id: str) -> bool:
    """Whether a step is one that `with_join` has planned."""
    return hashed_id.startswith(_JOIN)


def joined(hashed_id: str | None) -> StepResponse:
    """The answer to the request for the step that `with_join` has planned."""
    return StepResponse(step=step_info("join", hashed_id or "", Opcode.STEP_RUN))


def _request_body(raw_request: object) -> bytes | str | None:
    """The body of a framework's request object; None where it can't be had without waiting.

    FastAPI and Starlette keep what was read in `_body`; Flask gives `get_data()`, Django and Tornado `body`, Connect
    `request_payload`, DigitalOcean functions a dict with the event.
    """
    for attribute in ("_body", "request_payload"):
        value = getattr(raw_request, attribute, None)
        if isinstance(value, (bytes, str)):
            return value
    get_data = getattr(raw_request, "get_data", None)
    if callable(get_data):
        data = get_data()
        return data if isinstance(data, (bytes, str)) else None
    value = getattr(raw_request, "body", None)
    return value if isinstance(value, (bytes, str)) else None


class _StoredError(_errors.Error):
    """A step's error under the name that tells its module too, so that its type can be found again."""

    def __init__(self, name: str, message: str, stack: str | None) -> None:
        super().__init__(message)
        self._name, self._stack = name, stack

    @property
    def name(self) -> str:
        return self._name

    @property
    def stack(self) -> str | None:
        return self._stack


def step_error(error: BaseException, name: str, message: str, notes: str = "") -> Exception:
    """An error as the SDK reports it for a step, but under `name`, with `message`, and with `notes` after its stack."""
    stack = "".join(traceback.format_exception(error)) + notes
    return _StoredError(name, _writable(message), _writable(stack))


def memo_error(stored: Exception) -> MemoError:
    """What a later request finds of an error that `step_error` has made."""
    assert isinstance(stored, _StoredError)
    return MemoError(stored.name, str(stored), stored.stack)


def _writable(text: str) -> str:
    """A text without lone surrogates (file names have some): the server refuses a run that holds one."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def make_step(
    client: inngest.Inngest,
    memos: dict[str, Any],
    *,
    run_id: str,
    attempt: int,
    max_attempts: int,
    target: str | None,
) -> Step:
    """A `step` object as the SDK makes it for one Call Request; for `inngest_agents.testing`."""
    from inngest._internal import execution_lib, middleware_lib

    timings = _net.ServerTimings()
    middleware = middleware_lib.MiddlewareManager.from_client(client, None, timings)
    request = _server_lib.ServerRequest.from_raw(
        {
            "ctx": {
                "attempt": attempt,
                "disable_immediate_execution": False,
                "max_attempts": max_attempts,
                "run_id": run_id,
                "stack": {"stack": list(memos)},
            },
            "event": {"name": "test", "data": {}},
            "events": [],
            "steps": {},
            "use_api": False,
        }
    )
    if isinstance(request, Exception):
        raise request
    stored = _step_lib.StepMemos.from_raw(dict(memos))
    execution = execution_lib.ExecutionV0(stored, middleware, request, target, timings)
    return _step_lib.Step(client, execution, middleware, _step_lib.StepIDCounter(), target)
