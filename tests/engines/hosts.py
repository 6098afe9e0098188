"""Each web framework that Inngest's SDK serves functions in, on a server of its own kind in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import socketserver
import sys
import threading
import types
import wsgiref.simple_server
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import inngest

from inngest_agents.local.serve import ThreadedServer, functions_app

Functions = Sequence[inngest.Function[Any]]


@contextlib.contextmanager
def fastapi(client: inngest.Inngest, functions: Functions) -> Iterator[str]:
    with _asgi(functions_app(client, functions)) as url:
        yield url


@contextlib.contextmanager
def flask(client: inngest.Inngest, functions: Functions) -> Iterator[str]:
    """A thread for each request."""
    import flask
    import inngest.flask
    import werkzeug.serving

    app = flask.Flask("test")
    inngest.flask.serve(app, client, list(functions))
    server = werkzeug.serving.make_server("127.0.0.1", 0, app, threaded=True)
    with _serving(server.serve_forever, server.shutdown):
        yield f"http://127.0.0.1:{server.server_port}"
    server.server_close()


class _Quiet(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


class _ThreadedWSGIServer(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True


@contextlib.contextmanager
def django(client: inngest.Inngest, functions: Functions) -> Iterator[str]:
    """Over WSGI."""
    _configure_django(client, functions)
    from django.core.wsgi import get_wsgi_application

    server = wsgiref.simple_server.make_server(
        "127.0.0.1", 0, get_wsgi_application(), server_class=_ThreadedWSGIServer, handler_class=_Quiet
    )
    with _serving(server.serve_forever, server.shutdown):
        yield f"http://127.0.0.1:{server.server_port}"
    server.server_close()


@contextlib.contextmanager
def django_asgi(client: inngest.Inngest, functions: Functions) -> Iterator[str]:
    _configure_django(client, functions)
    from django.core.asgi import get_asgi_application

    with _asgi(get_asgi_application()) as url:
        yield url


def _configure_django(client: inngest.Inngest, functions: Functions) -> None:
    import django
    import django.conf
    import django.urls
    import inngest.django

    if not django.conf.settings.configured:
        django.conf.settings.configure(
            ALLOWED_HOSTS=["*"], SECRET_KEY="test", ROOT_URLCONF="django_urls_of_test", MIDDLEWARE=[]
        )
        django.setup()
    urls: Any = types.ModuleType("django_urls_of_test")
    urls.urlpatterns = [inngest.django.serve(client, list(functions))]
    sys.modules[urls.__name__] = urls
    django.urls.clear_url_caches()


@contextlib.contextmanager
def tornado(client: inngest.Inngest, functions: Functions) -> Iterator[str]:
    """Sync functions only; they run where Tornado's event loop runs, and block it."""
    import inngest.tornado
    import tornado.httpserver
    import tornado.netutil
    import tornado.web

    app = tornado.web.Application()
    inngest.tornado.serve(app, client, list(functions))
    sockets = tornado.netutil.bind_sockets(0, "127.0.0.1")
    loop = asyncio.new_event_loop()

    def run() -> None:
        asyncio.set_event_loop(loop)
        server = tornado.httpserver.HTTPServer(app)
        server.add_sockets(sockets)
        loop.run_forever()
        server.stop()
        loop.run_until_complete(server.close_all_connections())
        loop.close()

    with _serving(run, lambda: loop.call_soon_threadsafe(loop.stop)):
        yield f"http://127.0.0.1:{sockets[0].getsockname()[1]}"


@contextlib.contextmanager
def _asgi(app: Any) -> Iterator[str]:
    server = ThreadedServer(app)
    server.start()
    try:
        yield server.url
    finally:
        server.stop(force=True)


@contextlib.contextmanager
def _serving(run: Callable[[], Any], stop: Callable[[], Any]) -> Iterator[None]:
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop()
        thread.join(10)
