"""Connections to the model's provider where other requests have other event loops.

OpenAI's client keeps its connections for its next calls, and one client serves the whole process. A connection belongs
to the event loop that has opened it. Synchronous functions have one in each thread, and asynchronous ones under Flask
or Django's WSGI one for each request: the next run would get a connection that its own loop can't use, and fail ("is
bound to a different event loop"). So each call of a model there asks for its connection to be closed after the answer
(RFC 9112, section 9.6).
"""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from typing import Any

from agents import OpenAIChatCompletionsModel, OpenAIResponsesModel, OpenAIResponsesWSModel
from agents.models.interface import Model

from inngest_agents.thread_loop import is_in_thread_loop

_SETTINGS_PLACE = 2
"""Where the model settings are among the arguments of a model call."""


def keep_no_connection(model: Model, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The arguments of a model call, as they are to be where connections must not be kept."""
    if not _uses_openai_pool(model) or not (is_in_thread_loop() or _is_loop_of_one_request()):
        return args, kwargs
    if "model_settings" in kwargs:
        return args, {**kwargs, "model_settings": _closing(kwargs["model_settings"])}
    settings = _closing(args[_SETTINGS_PLACE])
    return (*args[:_SETTINGS_PLACE], settings, *args[_SETTINGS_PLACE + 1 :]), kwargs


def _is_loop_of_one_request() -> bool:
    """Whether asgiref has made the running loop, as it does for an async view of a synchronous framework."""
    asgiref = sys.modules.get("asgiref.sync")
    return asgiref is not None and asyncio.get_running_loop() in asgiref.AsyncToSync.loop_thread_executors


def _uses_openai_pool(model: Model) -> bool:
    # The WebSocket model keeps a connection of another kind, and has none to close after each answer.
    is_http = isinstance(model, OpenAIChatCompletionsModel | OpenAIResponsesModel)
    return is_http and not isinstance(model, OpenAIResponsesWSModel)


def _closing(settings: Any) -> Any:
    return dataclasses.replace(settings, extra_headers={"Connection": "close", **(settings.extra_headers or {})})
