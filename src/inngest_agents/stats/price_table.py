"""LiteLLM's bundled price table, and how a model is found in it.

The table is a file in LiteLLM's distribution. It is read without importing LiteLLM (which takes seconds, and
fetches a newer table from the network unless told otherwise), so a price costs no more than a lookup.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import re
import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from inngest_agents.stats.tariff import Entry

_FILE: Final = "model_prices_and_context_window_backup.json"
# How the Agents SDK names the adapter in front of the model, not the provider.
_ADAPTERS: Final = ("litellm/", "any-llm/")
# Snapshots: gpt-4o-2024-08-06, claude-sonnet-4-20250514, claude-opus-4@20250514, gpt-4-0613.
_SNAPSHOT: Final = re.compile(r"[-@](\d{4}-\d{2}-\d{2}|\d{8}|\d{4})$")
# Providers that only pass requests on: the entry of any provider may apply.
_ANY_PROVIDER: Final = frozenset({"", "litellm_proxy", "github"})
_FAMILIES: Final = ("vertex_ai", "fireworks_ai", "bedrock")
# LiteLLM reads only these thresholds, and no prices of a service tier for long or audio input.
_UNREAD: Final = re.compile(
    r"_above_(?!128k_|200k_|272k_)\d+k?_tokens|_(tokens|audio_token)_(flex|priority)$|1hr_above_"
)


class PriceTableError(LookupError):
    """The price table cannot be read; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Match:
    """An entry of the table for a model."""

    key: str
    """Its name in the table."""
    entry: Entry
    provider: str
    """Whose formula applies."""
    exact: bool = True
    """False if a snapshot was not listed and the model without its date was taken."""


class PriceTable:
    """The prices of one LiteLLM release.

    Args:
        entries: by LiteLLM's model names.
        version: see `Price.version`.
    """

    def __init__(self, entries: Mapping[str, Entry], version: str) -> None:
        self.version = version
        self._entries = dict(entries)
        for key, entry in entries.items():
            for alias in entry.get("aliases") or ():
                self._entries.setdefault(alias, entries[key])

    @cached_property
    def providers(self) -> frozenset[str]:
        """The names that a model's prefix can have."""
        named = {str(entry.get("litellm_provider", "")) for entry in self._entries.values()}
        return frozenset(named | {name.split("-")[0] for name in named} | {"bedrock", "litellm_proxy", "github"})

    @cached_property
    def _lower(self) -> dict[str, str]:
        return {key.lower(): key for key in reversed(self._entries)}

    def split(self, model: str) -> tuple[str, str]:
        """Split a model's name into provider ("" if it has none) and the rest."""
        model = strip_adapter(model)
        head, slash, rest = model.partition("/")
        return (head, rest) if slash and head in self.providers else ("", model)

    def find(self, model: str, provider: str = "") -> Match | None:
        """Find a model's entry.

        Args:
            model: with or without its provider's prefix, dated or not, in any case.
            provider: as LiteLLM names it; "" to take it from the prefix, or else from the entry.
        """
        prefix, name = self.split(model)
        provider = provider or prefix
        for variant, exact in variants(name):
            # A gateway ("openrouter") answers with the name that the model has where it comes from ("anthropic/…").
            whole = f"{prefix}/{variant}"
            for key in dict.fromkeys((f"{provider}/{whole}", f"{provider}/{variant}", variant, whole)):
                found = key if key in self._entries else self._lower.get(key.lower())
                if found is None:
                    continue
                listed = self._listed(found)
                if _matches(provider, listed):
                    formula = _formula(provider, listed)
                    # As LiteLLM: having learnt the provider, it prefers the entry under the provider's name.
                    full = f"{formula}/{variant}"
                    if full in self._entries and _matches(formula, self._listed(full)):
                        found = full
                    return Match(found, _as_litellm_reads(self._entries[found]), formula, exact)
        return None

    def _listed(self, key: str) -> str:
        return str(self._entries[key].get("litellm_provider", ""))

    def listed_for(self, model: str) -> list[str]:
        """The providers for which the table lists a model: for the message when it is another one."""
        _, name = self.split(model)
        return sorted({self._listed(key) for key in self._entries if key == name or key.endswith(f"/{name}")})


def strip_adapter(model: str) -> str:
    """Take away the prefix by which the Agents SDK chooses an adapter ("litellm/…")."""
    for adapter in _ADAPTERS:
        model = model.removeprefix(adapter)
    return model


def variants(name: str) -> Iterator[tuple[str, bool]]:
    """The names under which a model may be listed, the most precise first; False where it is a near one."""
    yield name, True
    if name.startswith("ft:"):
        # Fine-tuned models cost what LiteLLM lists for their base: "ft:base:organisation:name:id".
        name = ":".join(name.split(":")[:2])
        yield name, True
    undated = _SNAPSHOT.sub("", name)
    if undated != name:
        yield undated, False
    if name.endswith("-latest"):
        yield name.removesuffix("-latest"), True
    else:
        yield f"{name}-latest", True


def _matches(provider: str, listed: str) -> bool:
    if provider in _ANY_PROVIDER or not listed or provider == listed:
        return True
    if provider == "azure_ai":
        return listed in {"azure", "openai"}
    return any(provider.startswith(family) and listed.startswith(family) for family in _FAMILIES)


def _formula(provider: str, listed: str) -> str:
    chosen = listed if provider in _ANY_PROVIDER else provider
    return next((family for family in _FAMILIES if chosen.startswith(family)), chosen)


def _as_litellm_reads(entry: Entry) -> Entry:
    return {key: value for key, value in entry.items() if not _UNREAD.search(key)}


_lock: Final = threading.Lock()
_loaded: PriceTable | None = None


def loaded() -> PriceTable | None:
    """The bundled table if it has been read already."""
    return _loaded


def load() -> PriceTable:
    """Read LiteLLM's bundled price table, once per process. It has 1.5 MB: do not read it on an event loop.

    Raises:
        PriceTableError: LiteLLM is not installed, or its distribution has no such table.
    """
    global _loaded  # noqa: PLW0603  # one table per process, read on first use
    with _lock:
        if _loaded is None:
            _loaded = _read()
        return _loaded


def _read() -> PriceTable:
    spec = importlib.util.find_spec("litellm")
    if spec is None or not spec.submodule_search_locations:
        raise PriceTableError("LiteLLM is not installed; pip install 'inngest-agents[cost]'")
    path = Path(next(iter(spec.submodule_search_locations))) / _FILE
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PriceTableError(f"the installed LiteLLM has no readable price table: {error}") from error
    entries: dict[str, dict[str, Any]] = json.loads(content)
    entries.pop("sample_spec", None)
    try:
        release = importlib.metadata.version("litellm")
    except importlib.metadata.PackageNotFoundError:
        release = "unknown"
    return PriceTable(entries, f"{release}+sha256:{hashlib.sha256(content).hexdigest()[:12]}")
