"""A model around another one, which the SDK takes for that one."""

from __future__ import annotations

from typing import Any

from agents.models.interface import Model

from inngest_agents._agents_sdk import clean_up_model


class ForwardingModel(Model):
    """Passes on all but the two calls of the model.

    Args:
        inner: the model itself.
    """

    def __init__(self, inner: Model) -> None:
        self._inner = inner

    @property  # type: ignore[misc]
    def __class__(self) -> type[Model]:  # type: ignore[override]
        """The class of the model itself: the SDK treats some of its own in a way of their own."""
        return type(self._inner)

    def __getattr__(self, attribute: str) -> Any:
        # `_supports_default_prompt_cache_key` and whatever else a model offers the SDK beyond the interface.
        return getattr(self._inner, attribute)

    async def _cleanup_on_run_end(self, owner: object) -> None:
        await clean_up_model(self._inner, owner)

    async def close(self) -> None:
        """Close the model itself."""
        await self._inner.close()

    def get_retry_advice(self, request: Any) -> Any:
        """What the model says of a failed request."""
        return self._inner.get_retry_advice(request)
