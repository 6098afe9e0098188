"""The messages between engine and app: opcodes in, Call Requests out, signatures, ids. Nothing here waits or stores.

Written after the SDK specification (sections 4, 5 and 10) and, where the two differ, after the real server.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from .models import Job, RunState, StepRecord, StepStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_STEP_OUTPUT: Final = 4 * 1024 * 1024
"""Bytes of one step's memo."""
MAX_STATE: Final = 32 * 1024 * 1024
"""Bytes of all memos of a run."""
MAX_STEPS: Final = 1000
"""Steps of a run; a run that has so many gets no further request."""
MAX_REQUEST: Final = 4 * 1024 * 1024
"""Bytes of a Call Request; above it the app fetches events and memos itself (`use_api`)."""
MAX_RESPONSE: Final = 8 * 1024 * 1024
"""Bytes of an answer to a Call Request."""
MAX_EVENT: Final = 512 * 1024
"""Bytes of one event."""
DEFAULT_RETRIES: Final = 4
MAX_RETRIES: Final = 20

DISCOVERY_STEP: Final = "step"
"""The `stepId` of a request that is targeted at no step."""

_NAMESPACE: Final = uuid.UUID("6b5a0c9e-3f0e-5c0b-9d55-0f5b8e1a7c11")
_NO_ID: Final = ("None", "RunComplete", "DiscoveryRequest")
_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class OpcodeError(ValueError):
    """An answer with opcodes that makes no sense; the message says why."""


class TooLargeError(OpcodeError):
    """A step's output or a run's state is over the limit."""


@dataclass(frozen=True, slots=True)
class Opcode:
    """One opcode of a 206 answer or of a checkpoint, its data still JSON text."""

    op: str
    id: str
    name: str
    """What a person reads: the display name, else the name, else the id."""
    raw_name: str
    data_json: str
    error: dict[str, Any] | None
    opts: dict[str, Any]
    opts_json: str | None
    userland_json: str | None
    metadata_json: str | None
    started_ns: int | None
    ended_ns: int | None

    @property
    def race(self) -> bool:
        """Whether the run goes on when this step of a parallel group ends, not only when all have."""
        return self.opts.get("parallelMode") == "race"

    def memo(self) -> str:
        """The memo that this finished step leaves, as JSON text."""
        if self.op in ("StepError", "StepFailed"):
            return '{"error":' + dump(self.error) + "}"
        if self.op == "StepRun":
            return '{"data":' + self.data_json + "}"
        return self.data_json

    def record(
        self, status: StepStatus, request_id: str | None, *, memo_json: str | None = None, checkpointed: bool = False
    ) -> StepRecord:
        """The step as the store keeps it."""
        return StepRecord(
            self.id,
            self.op,
            self.name,
            status,
            memo_json,
            self.opts_json,
            self.userland_json,
            self.metadata_json,
            self.started_ns,
            self.ended_ns,
            request_id,
            checkpointed,
        )


# One encoder for all: json.dumps makes a new one for each call that asks for no spaces, which doubles its time.
_encoder: Final = json.JSONEncoder(separators=(",", ":"))


def dump(value: object) -> str:
    """JSON text as the engine stores and sends it: ASCII, so that lone surrogates survive, without spaces."""
    return _encoder.encode(value)


def parse_opcode(raw: object) -> Opcode:
    """Read one opcode.

    Raises:
        OpcodeError: it is not an object with `op` and `id`.
        TooLargeError: its output is over `MAX_STEP_OUTPUT`.
    """
    if not isinstance(raw, dict):
        raise OpcodeError("opcode must be an object")
    op, step_id = raw.get("op"), raw.get("id", "")
    if not isinstance(op, str) or not isinstance(step_id, str) or (not step_id and op not in _NO_ID):
        raise OpcodeError("opcode must have op and id")
    error, opts, timing = raw.get("error"), raw.get("opts"), raw.get("timing")
    if op in ("StepError", "StepFailed") and not isinstance(error, dict):
        raise OpcodeError(f"{op} without an error")
    started, duration = (timing.get("a"), timing.get("b")) if isinstance(timing, dict) else (None, None)
    raw_name = str(raw.get("name") or "")
    opcode = Opcode(
        op,
        step_id,
        str(raw.get("displayName") or raw_name or step_id),
        raw_name,
        dump(raw.get("data")),
        error if isinstance(error, dict) else None,
        opts if isinstance(opts, dict) else {},
        None if opts is None else dump(opts),
        _dump_optional(raw.get("userland")),
        _dump_optional(raw.get("metadata")),
        started if isinstance(started, int) and started > 0 else None,
        started + (duration or 0) if isinstance(started, int) and started > 0 else None,
    )
    if memo_size(opcode.data_json) > MAX_STEP_OUTPUT:
        raise TooLargeError("step output size is greater than the limit")
    return opcode


def parse_opcodes(body: bytes) -> list[Opcode]:
    """Read the body of a 206 answer: a list of opcodes, or one.

    Raises:
        OpcodeError: it is neither, or an opcode of it is wrong.
    """
    try:
        raw = json.loads(body)
    except ValueError as error:
        raise OpcodeError(f"error reading generator opcode response: {error}") from error
    if isinstance(raw, dict):
        raw = [raw]
    if not isinstance(raw, list):
        raise OpcodeError("error reading generator opcode response: expected JSON object or array")
    return [parse_opcode(item) for item in raw]


def memo_size(data_json: str) -> int:
    """The bytes of the memo that a step's data make on the real server: there, `<`, `>` and `&` take six each, and
    characters that the SDK has escaped stay so.
    """
    size = len(data_json) + len('{"data":}')
    return size + 5 * sum(map(data_json.count, "<>&")) if size > MAX_STEP_OUTPUT // 6 else size


def function_uuid(function_id: str) -> str:
    """The id under which a Call Request names its function."""
    return str(uuid.uuid5(_NAMESPACE, function_id))


def queue_ref(job_id: int) -> str:
    """The opaque `qi_id` of a job."""
    return base64.b64encode(f"{job_id}::embedded".encode()).decode()


def parse_queue_ref(ref: object) -> int | None:
    """The job of a `qi_id`; None if it is not one of ours."""
    try:
        job, _, shard = base64.b64decode(str(ref), validate=True).decode().partition("::")
        return int(job) if shard == "embedded" else None
    except ValueError:
        return None


def new_ulid(now_ns: int | None = None, entropy: bytes | None = None) -> str:
    """A new id: 26 characters that sort by time. With a time and 10 bytes of entropy it is always the same."""
    value = ((now_ns or time.time_ns()) // 1_000_000 << 80) | int.from_bytes(entropy or os.urandom(10))
    return "".join(_CROCKFORD[(value >> shift) & 31] for shift in range(125, -1, -5))


def traceparent(run_id: str, request_id: str) -> str:
    """The W3C header of a request: one trace for a run, in which each request is a span."""
    trace, span = (hashlib.sha256(part.encode()).hexdigest() for part in (run_id, request_id))
    return f"00-{trace[:32]}-{span[:16]}-01"


def call_request(state: RunState, job: Job, request_id: str, *, max_request: int = MAX_REQUEST) -> bytes:
    """The body of a Call Request. Events and memos go in as the text they are stored as.

    Over `max_request` bytes the app is told to fetch them (`use_api`); the first event stays, as with the real server.
    """
    run = state.run
    stack = [step_id for step_id, _ in state.memos]
    current = stack.index(job.outgoing) + 1 if job.outgoing in stack else 0
    first_event = run.events_json[1:-1]  # a run has one event: batching is refused at registration

    def body(*, use_api: bool, events: str, steps: str) -> bytes:
        ctx = {
            "attempt": job.attempt,
            "disable_immediate_execution": state.force_step_plan,
            "env": "",
            "fn_id": function_uuid(run.function_id),
            "generation_id": job.generation,
            "job_id": str(job.id),
            "max_attempts": job.max_attempts,
            "qi_id": queue_ref(job.id),
            "request_id": request_id,
            "run_id": run.id,
            "stack": {"current": current, "stack": stack},
            "step_id": DISCOVERY_STEP,
            "use_api": use_api,
        }
        return (
            f'{{"ctx":{dump(ctx)},"defers":{{}},"event":{first_event},"events":{events},"steps":{steps},'
            f'"use_api":{"true" if use_api else "false"},"version":{state.request_version}}}'
        ).encode()

    if run.state_size <= max_request - 1024:
        steps = "{" + ",".join(f'"{step_id}":{memo}' for step_id, memo in state.memos) + "}"
        whole = body(use_api=False, events=run.events_json, steps=steps)
        if len(whole) <= max_request:
            return whole
        return body(use_api=True, events="[]", steps="{}")
    whole = body(use_api=True, events=run.events_json, steps="{}")
    return whole if len(whole) <= max_request else body(use_api=True, events="[]", steps="{}")


def standard_error(body: bytes, fallback: str) -> dict[str, Any]:
    """The error that a failed answer carries, as `error`, `name`, `message`, `stack`.

    Args:
        body: what the app answered.
        fallback: what happened, for where the body says nothing.
    """
    try:
        raw = json.loads(body)
    except ValueError:
        raw = body.decode("utf-8", "replace")
    if isinstance(raw, dict):
        inner = raw.get("error") if isinstance(raw.get("error"), dict) else raw.get("body")
        raw = inner if isinstance(inner, dict) else raw
    elif raw:
        raw = {"message": raw if isinstance(raw, str) else dump(raw)}
    found = {k: raw[k] for k in ("error", "name", "message", "stack") if isinstance(raw, dict) and raw.get(k)}
    error = {"error": fallback, "name": "Error", "message": fallback} | found
    if isinstance(raw, dict) and raw.get("cause") is not None:
        error["cause"] = raw["cause"]
    return error


# Signatures ----------------------------------------------------------------------------------------------


def sign(body: bytes, key: str) -> str:
    """The `x-inngest-signature` of a body (RFC 8785 canonical, if it is JSON that the app canonicalizes)."""
    now = int(time.time())
    return f"t={now}&s={_mac(body, key, str(now))}"


def verify(body: bytes, signature: str, keys: Sequence[str]) -> bool:
    """Whether a body was signed with one of the keys."""
    parts = dict(part.split("=", 1) for part in signature.split("&") if "=" in part)
    return any(hmac.compare_digest(parts.get("s", ""), _mac(body, key, parts.get("t", ""))) for key in keys)


def bearer_of(key: str) -> str:
    """The token that an app proves its signing key with: its hash.

    Raises:
        ValueError: the key is not hexadecimal behind its prefix.
    """
    return hashlib.sha256(bytes.fromhex(_without_prefix(key))).hexdigest()


def _mac(body: bytes, key: str, timestamp: str) -> str:
    mac = hmac.new(_without_prefix(key).encode(), body, hashlib.sha256)
    mac.update(timestamp.encode())
    return mac.hexdigest()


def _without_prefix(key: str) -> str:
    return re.sub(r"^signkey-\w+-", "", key)


def canonical(body: bytes) -> bytes:
    """A JSON body in the canonical form of RFC 8785, which apps compute signatures over."""
    import jcs  # type: ignore[import-untyped,unused-ignore]  # comes with the Inngest SDK

    return bytes(jcs.canonicalize(json.loads(body)))


def _dump_optional(value: object) -> str | None:
    return None if value is None else dump(value)


def default_backoff(attempt: int) -> float:
    """Seconds until the next attempt after attempt number `attempt` (the first is 0) failed, as on the real server:
    15 s, 30 s, 1 min, … up to 2 h, and up to 30 s of jitter.
    """
    import random

    table = (15, 30, 60, 120, 300, 600, 1200, 2400, 3600, 7200)
    return table[min(attempt, len(table) - 1)] + random.random() * 30  # noqa: S311  jitter, not a secret
