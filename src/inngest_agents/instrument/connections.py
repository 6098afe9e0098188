"""Connections to the model's provider where several event loops ask it.

OpenAI's client keeps its connections for its next calls, and one client serves the whole process. A connection belongs
to the event loop that has opened it. Synchronous functions have one in each thread, asynchronous ones under Flask or
Django's WSGI one for each request, and so has a tool that calls `Runner.run_sync` in its thread: the next run would get
a connection that its own loop can't use, send its request over it, and fail ("is bound to a different event loop") for
want of the answer. So each call of a model there asks for its connection to be closed after the answer (RFC 9112,
section 9.6), and goes over an HTTP client that such calls have for themselves: that of the model has the connections
that the asynchronous functions of the same app keep.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import functools
import sys
from typing import Any

import openai
from agents import OpenAIChatCompletionsModel, OpenAIResponsesModel, OpenAIResponsesWSModel
from agents.models.interface import Model

from inngest_agents import _agents_sdk as sdk
from inngest_agents.request.resources import current_resources
from inngest_agents.request.thread_loop import is_in_thread_loop

_SETTINGS_PLACE = 2
"""Where the model settings are among the arguments of a model call."""


def keep_no_connection(
    model: Model, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Model, tuple[Any, ...], dict[str, Any]]:
    """The model and the arguments of a call of it, as they are to be where connections must not be shared."""
    if not _uses_openai_pool(model) or not _is_loop_of_its_own():
        return model, args, kwargs
    model = _apart(model)
    if "model_settings" in kwargs:
        return model, args, {**kwargs, "model_settings": _closing(kwargs["model_settings"])}
    settings = _closing(args[_SETTINGS_PLACE])
    return model, (*args[:_SETTINGS_PLACE], settings, *args[_SETTINGS_PLACE + 1 :]), kwargs


def _is_loop_of_its_own() -> bool:
    if is_in_thread_loop() or _is_loop_of_one_request():
        return True
    resources = current_resources()  # None in a plain run outside of durable ones
    return resources is not None and resources.loop is not asyncio.get_running_loop()


def _is_loop_of_one_request() -> bool:
    """Whether asgiref has made the running loop, as it does for an async view of a synchronous framework."""
    asgiref = sys.modules.get("asgiref.sync")
    return asgiref is not None and asyncio.get_running_loop() in asgiref.AsyncToSync.loop_thread_executors


def _uses_openai_pool(model: Model) -> bool:
    # The WebSocket model keeps a connection of another kind, and has none to close after each answer.
    is_http = isinstance(model, OpenAIChatCompletionsModel | OpenAIResponsesModel)
    return is_http and not isinstance(model, OpenAIResponsesWSModel)


def _apart(model: Model) -> Model:
    """A model with another pool of connections; the model itself where its user has made its HTTP client or its class,
    or given its client other methods, as of all these no other could be made that is sure to do the same.
    """
    if type(model) not in (OpenAIChatCompletionsModel, OpenAIResponsesModel):
        return model
    client = sdk.client_of(model)
    if type(client) not in (openai.AsyncOpenAI, openai.AsyncAzureOpenAI) or not sdk.has_default_http_client(client):
        return model
    if any(map(_has_methods_of_its_own, (client, client.responses, client.chat.completions))):
        return model
    apart = copy.copy(model)
    sdk.set_client(apart, client.copy(http_client=_http_client()))
    return apart


def _has_methods_of_its_own(owner: object) -> bool:
    """Whether a method was put in the place of another one on this object alone, as tools for tracing do."""
    return any(callable(value) and callable(getattr(type(owner), name, None)) for name, value in vars(owner).items())


@functools.cache
def _http_client() -> Any:
    """One for all of these loops, as each of its connections is closed after one answer."""
    return openai.DefaultAsyncHttpxClient()


def _closing(settings: Any) -> Any:
    return dataclasses.replace(settings, extra_headers={"Connection": "close", **(settings.extra_headers or {})})
