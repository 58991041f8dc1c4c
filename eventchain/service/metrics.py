"""``/metrics`` for Prometheus and ``/healthz``, over HTTP in a thread of their own."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from eventchain.errors import ConfigError
from eventchain.service.state import ROLES, State

DEFAULT_HOST = "127.0.0.1"


class _Collected:
    """The state as metric families, made when they are asked for."""

    def __init__(self, state: State) -> None:
        self._state = state

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        state = self._state
        with state.lock:
            mark = state.watermark
            gauges = {
                "backlog_events": (
                    "Events that are not sealed (gaps in positions count)",
                    state.backlog.events,
                ),
                "backlog_seconds": ("Since when the oldest of them is there", state.backlog.seconds),
                "arrival_events_per_second": ("Events arriving, over five minutes", state.backlog.arrival),
                "capacity_events_per_second": ("Events that the devices can seal", state.capacity),
                "falling_behind_events_per_second": ("Arrival above capacity", state.falling_behind),
                "fence_age_seconds": ("For how long open transactions hold back sealing", state.fence),
            }
            counters = {
                "events_sealed": ("Events sealed by this process", state.events_sealed),
                "blocks_sealed": ("Blocks sealed by this process", state.blocks_sealed),
                "snapshots_sealed": ("Snapshots sealed by this process", state.snapshots_sealed),
                "projection_errors": (
                    "Projections that failed and get no more snapshots",
                    state.projection_errors,
                ),
                "hashes": ("Hashes tried by this process", state.hashes),
                "store_errors": ("Failures of the event store or the chain store", state.store_errors),
            }
            rates, errors, role = dict(state.rates), dict(state.hardware_errors), state.role
        if mark is not None:
            gauges["sealed_height"] = ("The newest sealed block", mark.height)
            if mark.position is not None:
                gauges["sealed_position"] = ("The highest sealed position", mark.position)
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(f"eventchain_{name}", text, value)
        for name, (text, value) in counters.items():
            yield CounterMetricFamily(f"eventchain_{name}", text, value)
        speed = GaugeMetricFamily("eventchain_device_mhs", "MH/s of a device", labels=["device"])
        for device, rate in rates.items():
            speed.add_metric([device], rate / 1e6)
        yield speed
        faults = CounterMetricFamily(
            "eventchain_hardware_errors", "Times that a device failed or was wrong", labels=["device"]
        )
        for device, count in errors.items():
            faults.add_metric([device], count)
        yield faults
        roles = GaugeMetricFamily("eventchain_role", "1 for what the service is doing", labels=["role"])
        for one in ROLES:
            roles.add_metric([one], float(one == role))
        yield roles


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def served(state: State, listen: str) -> Iterator[int]:
    """Serve both pages at ``listen`` (``host:port``, ``[::1]:port`` or ``port``; port 0 takes a free one);
    yields the port.

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
    registry.register(_Collected(state))
    metrics = make_wsgi_app(registry)

    def application(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            page: Iterable[bytes] = metrics(environ, start)
            return page
        if path != "/healthz":
            start("404 Not Found", [("Content-Type", "text/plain")])
            return [b"there are /healthz and /metrics\n"]
        with state.lock:
            well = state.healthy
            values = {"healthy": well, "role": state.role, "trouble": state.trouble}
            values |= {"watermark": state.watermark.as_dict() if state.watermark else None}
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
    host, _, port = listen.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not port.isdecimal() or int(port) > 65535 or (":" in host and not bracketed):
        raise ConfigError(f"{listen!r} is not an address", hint="write it as 127.0.0.1:9464 or [::1]:9464")
    return host.strip("[]") or DEFAULT_HOST, int(port)
