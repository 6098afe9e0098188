"""Token counts where the provider gives none, and before a call: counted here, and marked as estimates.

The tokenizer is tiktoken with the vocabularies that LiteLLM's distribution carries (or those in tiktoken's own
cache), so nothing is downloaded. Where neither is there, characters are counted. What is counted follows OpenAI's
cookbook ("How to count tokens with tiktoken"): the text, 3 tokens of framing for each message and 3 for the answer's
start. Tools are counted as their compact JSON, which is within some percent of what OpenAI bills. An image counts
765 tokens: 1024 x 1024 pixels in high detail on GPT-4o.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
import re
import tempfile
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from inngest_agents.request.process_end import in_thread
from inngest_agents.stats.records import Tokens, UsageRecord

if TYPE_CHECKING:
    from tiktoken import Encoding

PER_MESSAGE: Final = 3
PER_ANSWER: Final = 3
PER_IMAGE: Final = 765
BYTES_PER_TOKEN: Final = 4
"""OpenAI's rule of thumb for English text; of UTF-8 bytes, so that other scripts count more."""

_INLINE: Final = 20_000
"""Characters up to which counting takes less than the way to another thread."""
_PIECE: Final = 200_000
"""Characters that are tokenized at a time; a cut costs one token at most."""
_DATA_URL: Final = re.compile(r"^data:([\w.+-]+/[\w.+-]+)?[^,]{0,100};base64,")
# The files of tiktoken's vocabularies as its cache names them (SHA-1 of their address), and their SHA-256.
_VOCABULARIES: Final = {
    "o200k_base": (
        "fb374d419588a4632f3f557e76b4b70aebbca790",
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    ),
    "cl100k_base": (
        "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    ),
}
_lock: Final = threading.Lock()


@dataclass(frozen=True, slots=True)
class TokenCount:
    """An estimated number of tokens, and how it was made."""

    tokens: int
    note: str


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """Counts tokens of text."""

    encoding: Encoding | None
    note: str

    def count(self, text: str) -> int:
        """The number of tokens of `text`; special tokens in it count as text."""
        if self.encoding is None:
            return -(-len(text.encode()) // BYTES_PER_TOKEN)
        pieces = (text[start : start + _PIECE] for start in range(0, len(text), _PIECE))
        return sum(len(self.encoding.encode_ordinary(piece)) for piece in pieces)


def tokenizer_for(model: str) -> Tokenizer:
    """The best tokenizer for a model that can be had without the network.

    Reads the vocabulary at its first use (0.2 to 1 second): not on an event loop.
    """
    wanted = _encoding_name(model.rpartition("/")[2])
    for name in dict.fromkeys((wanted or "o200k_base", "o200k_base", "cl100k_base")):
        encoding = _load(name)
        if encoding is not None:
            fit = f"tiktoken {name}"
            return Tokenizer(encoding, fit if name == wanted else f"{fit}, which is not this model's own")
    return Tokenizer(None, f"characters: a token for every {BYTES_PER_TOKEN} bytes of UTF-8")


def _encoding_name(model: str) -> str | None:
    try:
        from tiktoken.model import encoding_name_for_model
    except ImportError:
        return None
    try:
        return encoding_name_for_model(model)
    except KeyError:
        return None


@functools.cache
def _load(name: str) -> Encoding | None:
    """Load a vocabulary from a cache on this machine; tiktoken would download one that is missing or damaged."""
    if name not in _VOCABULARIES:
        return None
    try:
        import tiktoken
    except ImportError:
        return None
    file_name, digest = _VOCABULARIES[name]
    for folder in _cache_folders():
        path = folder / file_name
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest:
            with _lock, _environment("TIKTOKEN_CACHE_DIR", str(folder)):
                return tiktoken.get_encoding(name)
    return None


def _cache_folders() -> Iterable[Path]:
    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        if os.environ.get(variable):
            yield Path(os.environ[variable])
    yield Path(tempfile.gettempdir()) / "data-gym-cache"
    spec = importlib.util.find_spec("litellm")
    for location in (spec.submodule_search_locations if spec else None) or ():
        yield Path(location) / "litellm_core_utils" / "tokenizers"


class _environment:  # noqa: N801  # a context manager that reads like a function
    """Set a variable of the environment for a moment, and put back what was there."""

    def __init__(self, name: str, value: str) -> None:
        self._name, self._value = name, value

    def __enter__(self) -> None:
        self._before = os.environ.get(self._name)
        os.environ[self._name] = self._value

    def __exit__(self, *exc_info: object) -> None:
        if self._before is None:
            os.environ.pop(self._name, None)
        else:
            os.environ[self._name] = self._before


def count_input(
    model: str,
    *,
    instructions: str | None = None,
    items: str | Iterable[Any] = (),
    tools: Iterable[Any] = (),
    output_schema: Mapping[str, Any] | None = None,
) -> TokenCount:
    """Estimate the input tokens of a model call.

    Args:
        model: chooses the tokenizer.
        instructions: the system prompt.
        items: the input as the SDK passes it to a model: a text, or input items.
        tools: the SDK's tools and handoffs, or their JSON.
        output_schema: the JSON schema of a structured answer.
    """
    texts: list[str] = []
    extra = PER_ANSWER
    if instructions:
        texts.append(instructions)
        extra += PER_MESSAGE
    for item in [items] if isinstance(items, str) else items:
        extra += PER_MESSAGE + _collect(_plain(item), texts)
    for tool in tools:
        texts.append(_compact_json(_tool_json(tool)))
        extra += PER_MESSAGE
    if output_schema:
        texts.append(_compact_json(output_schema))
    return _count(model, texts, extra)


def count_output(model: str, output: Iterable[Any]) -> TokenCount:
    """Estimate the output tokens of a model call from its output items. Hidden reasoning is not seen."""
    texts: list[str] = []
    extra = sum(_collect(_plain(item), texts) for item in output)
    return _count(model, texts, extra)


def estimate_usage(
    usage: UsageRecord,
    *,
    output: Iterable[Any],
    instructions: str | None = None,
    items: str | Iterable[Any] = (),
    tools: Iterable[Any] = (),
    output_schema: Mapping[str, Any] | None = None,
) -> UsageRecord:
    """Fill in the token counts that the provider did not give, marked as estimated.

    A usage that has counts comes back as it is. The arguments are those of `count_input` and `count_output`.
    """
    if usage.has_tokens:
        return usage
    model = usage.billed_model
    given = count_input(
        model,
        instructions=instructions,
        items=items,
        tools=tools,
        output_schema=output_schema,
    )
    made = count_output(model, output)
    return replace(
        usage,
        tokens=Tokens(input_tokens=given.tokens, output_tokens=made.tokens),
        total_tokens=given.tokens + made.tokens,
        requests=usage.requests or 1,
        estimated=True,
        estimate_note=given.note,
    )


async def estimate_usage_async(usage: UsageRecord, **parts: Any) -> UsageRecord:
    """`estimate_usage` in another thread, for an event loop; see there for the arguments."""
    if usage.has_tokens:
        return usage
    return await in_thread(functools.partial(estimate_usage, usage, **parts))


async def count_input_async(model: str, *, items: str | Iterable[Any] = (), **parts: Any) -> TokenCount:
    """`count_input` for an event loop: in another thread, unless it is little text and all is loaded."""
    call = functools.partial(count_input, model, items=items, **parts)
    small = isinstance(items, str) and len(items) < _INLINE and not parts.get("tools")
    if small and _load.cache_info().currsize:
        return call()
    return await in_thread(call)


def _count(model: str, texts: Iterable[str], extra: int) -> TokenCount:
    tokenizer = tokenizer_for(model)
    return TokenCount(sum(map(tokenizer.count, texts)) + extra, tokenizer.note)


# What says how to read an item and is not read by the model.
_SILENT_KEYS: Final = frozenset(
    {
        "type",
        "id",
        "provider_data",
        "call_id",
        "status",
        "role",
        "object",
        "annotations",
        "logprobs",
        "encrypted_content",
        "detail",
    },
)


def _collect(value: Any, texts: list[str]) -> int:
    """Append the text that the model reads in `value` to `texts`; give the tokens of what is not text."""
    if isinstance(value, str):
        if not (match := _DATA_URL.match(value)):
            texts.append(value)
            return 0
        if (match[1] or "").startswith("image/"):
            return PER_IMAGE
        # Base64 carries 3 bytes in 4 characters.
        return (len(value) - match.end()) * 3 // 4 // BYTES_PER_TOKEN
    if isinstance(value, Mapping):
        if str(value.get("type", "")).endswith("image"):
            return PER_IMAGE
        return sum(_collect(part, texts) for key, part in value.items() if key not in _SILENT_KEYS)
    if isinstance(value, list | tuple):
        return sum(_collect(part, texts) for part in value)
    if value is not None and not isinstance(value, bool):
        texts.append(str(value))
    return 0


def _plain(item: Any) -> Any:
    dump = getattr(item, "model_dump", None)
    return dump(exclude_none=True) if callable(dump) else item


def _tool_json(tool: Any) -> Any:
    """What a tool tells the model: name, description and schema of its parameters, by the SDK's field names."""
    if isinstance(tool, Mapping):
        return tool
    names = (
        ("name", "tool_name"),
        ("description", "tool_description"),
        ("params_json_schema", "input_json_schema"),
    )
    found = ([getattr(tool, name, None) for name in group] for group in names)
    return [next((value for value in values if value), "") for values in found]


def _compact_json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=str)
