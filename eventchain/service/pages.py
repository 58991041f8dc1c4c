"""Two pages over HTTP, in a thread of their own: ``/metrics`` for Prometheus and ``/healthz``."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from eventchain.errors import ConfigError
from eventchain.urls import address

DEFAULT_HOST = "127.0.0.1"


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def served_pages(
    collector: Any, health: Callable[[], tuple[bool, dict[str, Any]]], listen: str
) -> Iterator[int]:
    """Serve both pages at ``listen`` (``host:port``, ``[::1]:port`` or ``port``; port 0 takes a free one);
    yields the port.

    collector: of metrics, as prometheus_client registers it; health: whether all is well, and what to say

    Raises ConfigError where the library is missing or the address cannot be taken.
    """
    host, port = _address(listen)
    try:
        from prometheus_client import CollectorRegistry, make_wsgi_app
        from prometheus_client.exposition import ThreadingWSGIServer
    except ImportError as error:
        raise ConfigError(
            f"metrics need a library: {error}", hint="pip install prometheus-client, or leave out --listen"
        ) from None
    registry = CollectorRegistry()
    registry.register(collector)
    metrics = make_wsgi_app(registry)

    def application(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            page: Iterable[bytes] = metrics(environ, start)
            return page
        if path != "/healthz":
            start("404 Not Found", [("Content-Type", "text/plain")])
            return [b"there are /healthz and /metrics\n"]
        well, values = health()
        start("200 OK" if well else "503 Service Unavailable", [("Content-Type", "application/json")])
        return [json.dumps(values).encode() + b"\n"]

    class Server(ThreadingWSGIServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    try:
        server = make_server(host, port, application, Server, _Quiet)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {listen}: {error}", hint="choose another with --listen"
        ) from None
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield int(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _address(listen: str) -> tuple[str, int]:
    found = address(listen)
    if found is None:
        raise ConfigError(f"{listen!r} is not an address", hint="write it as 127.0.0.1:9464 or [::1]:9464")
    host, port = found
    return host or DEFAULT_HOST, port
