"""Announcers against real receivers, and the herald that drives them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import threading
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import nats
import psycopg
import pytest
from waiting import wait_for

from eventchain.config import Announce
from eventchain.errors import ConfigError, EventChainError, StoreError
from eventchain.service import announce as heralds
from eventchain.service.announce import Herald
from eventchain.service.announcers import configured
from eventchain.service.announcers.nats import NatsSubject
from eventchain.service.announcers.postgresql import PostgresqlNotify
from eventchain.service.announcers.webhook import Webhook
from eventchain.service.watermark import Watermark


def mark(height: int) -> Watermark:
    return Watermark(
        "example.com/orders", height, bytes([height % 256]) * 32, 10 * height, 9 * height, 1_700_000_000
    )


# -- the herald ---------------------------------------------------------------------------------------


class Receiver:
    """Fails as long as it is told to."""

    name = "receiver"

    def __init__(self) -> None:
        self.heard: list[int] = []
        self.down = threading.Event()
        self.held = threading.Event()
        self.held.set()
        self.closed = False

    def announce(self, one: Watermark) -> None:
        self.held.wait()
        if self.down.is_set():
            raise ConnectionError("down")
        self.heard.append(one.height)

    def close(self) -> None:
        self.closed = True


def test_the_newest_is_told_after_a_failure(monkeypatch):
    monkeypatch.setattr(heralds, "FIRST_RETRY", 0.01)
    receiver, failures = Receiver(), []
    herald = Herald(receiver, lambda name, reason: failures.append((name, reason)))
    herald.tell(mark(1))
    wait_for(lambda: receiver.heard == [1])
    receiver.down.set()
    herald.tell(mark(2))
    wait_for(lambda: len(failures) >= 3)  # tried again and again
    herald.tell(mark(3))
    receiver.down.clear()
    wait_for(lambda: receiver.heard[-1] == 3)
    herald.stop()
    herald.join(60)
    assert receiver.heard in ([1, 3], [1, 2, 3])
    assert failures[0] == ("receiver", "ConnectionError: down")
    assert receiver.closed


def test_a_slow_receiver_gets_one_announcement_for_many():
    receiver = Receiver()
    herald = Herald(receiver, lambda name, reason: None)
    receiver.held.clear()
    for height in range(1, 1000):
        herald.tell(mark(height))
    receiver.held.set()
    herald.stop()  # when the newest is told
    herald.join(60)
    assert receiver.heard[-1] == 999
    assert len(receiver.heard) < 10


def test_a_receiver_that_is_down_does_not_hold_up_a_stop(monkeypatch):
    monkeypatch.setattr(heralds, "FIRST_RETRY", 1000.0)
    receiver = Receiver()
    receiver.down.set()
    herald = Herald(receiver, lambda name, reason: None)
    herald.tell(mark(1))
    herald.stop()
    herald.join(60)  # long before it would try again
    assert receiver.closed


# -- receivers ----------------------------------------------------------------------------------------


@pytest.fixture
def hook() -> Iterator[tuple[str, list[Any], list[int]]]:
    """A web server: its URL, the requests it got, and the statuses that it will answer with."""
    requests: list[Any] = []
    statuses: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            requests.append((dict(self.headers), body))
            self.send_response(statuses.pop(0) if statuses else 204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/sealed", requests, statuses
    server.shutdown()
    server.server_close()


def test_the_webhook_is_a_signed_cloud_event(hook, monkeypatch):
    url, requests, statuses = hook
    monkeypatch.setenv("EVENTCHAIN_WEBHOOK_SECRET", "key")
    webhook = Webhook(url)
    statuses.append(500)
    with pytest.raises(OSError, match="500"):
        webhook.announce(mark(6))
    webhook.announce(mark(7))
    headers, body = requests[-1]
    assert headers["Content-Type"] == "application/cloudevents+json"
    expected = hmac.new(b"key", body, hashlib.sha256).hexdigest()
    assert headers["X-Eventchain-Signature"] == f"sha256={expected}"
    event = json.loads(body)
    assert {key: event[key] for key in ("specversion", "id", "source", "type", "time")} == {
        "specversion": "1.0",
        "id": "example.com/orders/7",
        "source": "example.com/orders",
        "type": "eventchain.sealed",
        "time": "2023-11-14T22:13:20Z",
    }
    assert event["data"] == {
        "origin": "example.com/orders",
        "height": 7,
        "seal": base64.b64encode(bytes([7]) * 32).decode(),
        "position": 70,
        "size": 63,
        "time": 1_700_000_000,
    }


def test_a_webhook_needs_a_key_and_a_url(monkeypatch):
    monkeypatch.delenv("EVENTCHAIN_WEBHOOK_SECRET", raising=False)
    with pytest.raises(ConfigError, match="no key"):
        Webhook("https://example.com")
    with pytest.raises(ConfigError, match="no http"):
        Webhook("example.com")


def test_a_nats_subject(nats_server):
    heard: list[dict[str, Any]] = []
    ready, done = threading.Event(), threading.Event()

    async def listen() -> None:
        connection = await nats.connect(nats_server.url)
        subscription = await connection.subscribe("orders.sealed")
        await connection.flush()
        ready.set()
        for _ in range(2):
            heard.append(json.loads((await subscription.next_msg(timeout=30)).data))
        await connection.close()
        done.set()

    listener = threading.Thread(target=lambda: asyncio.run(listen()))
    listener.start()
    assert ready.wait(30)
    announcer = NatsSubject(nats_server.url, "orders.sealed")
    announcer.announce(mark(1))
    announcer.announce(mark(2))
    announcer.close()
    assert done.wait(30)
    listener.join()
    assert [one["height"] for one in heard] == [1, 2]


def test_nats_going_away_and_coming_back(nats_server):
    announcer = NatsSubject(nats_server.url, "orders.sealed")
    announcer.announce(mark(1))
    nats_server.kill()
    with pytest.raises(StoreError):
        announcer.announce(mark(2))
    nats_server.start(nats_server.port)
    wait_for(lambda: _announced(announcer))
    announcer.close()


def _announced(announcer: NatsSubject) -> bool:
    try:
        announcer.announce(mark(3))
    except StoreError:
        return False
    return True


@pytest.mark.parametrize(
    "url", ["nats://me:s3cret@127.0.0.1:1", "nats://me:s3cr%65t@127.0.0.1:1", "nats://s3cret@127.0.0.1:1"]
)
def test_a_nats_password_is_shown_to_nobody(url):
    announcer = NatsSubject(url, "orders.sealed")
    with pytest.raises(StoreError) as caught:
        announcer.announce(mark(1))
    announcer.close()
    assert "nats://127.0.0.1:1: " in str(caught.value)
    assert_hidden(caught)


@pytest.mark.parametrize("rest", ["me:s3cret@host:port", "me:s3c@s3cret/@host", "[s3cret", "ho st/s3cret"])
def test_what_is_no_url_is_shown_to_nobody(rest, monkeypatch):
    monkeypatch.setenv("EVENTCHAIN_WEBHOOK_SECRET", "key")
    with pytest.raises(ConfigError) as caught:
        NatsSubject(f"nats://{rest}", "orders.sealed")
    assert_hidden(caught)
    with pytest.raises(ConfigError) as caught:
        Webhook(f"https://{rest}")
    assert_hidden(caught)
    if "@host" in rest:
        with pytest.raises(EventChainError) as caught:
            PostgresqlNotify(f"postgresql://{rest.replace('/', '')}").announce(mark(1))
        assert_hidden(caught)


def test_a_postgresql_password_is_shown_to_nobody(postgres):
    announcer = PostgresqlNotify(postgres.url(user="careful:s3cret"))  # whoever that is, he needs another
    with pytest.raises(StoreError) as caught:
        announcer.announce(mark(1))
    assert "careful:***@" in str(caught.value)
    assert_hidden(caught)


def assert_hidden(caught: pytest.ExceptionInfo[Exception]) -> None:
    """Neither in the message nor in what a traceback would show."""
    shown = "".join(traceback.format_exception(caught.value))
    lines = [line for line in shown.splitlines() if not line.startswith("    ")]  # source text
    assert "s3cret" not in "".join(lines)


def test_postgresql_notifies_and_keeps_a_watermark(postgresql):
    announcer = PostgresqlNotify(postgresql)
    with psycopg.connect(postgresql, autocommit=True) as listener:
        listener.execute("LISTEN eventchain")
        announcer.announce(mark(1))
        announcer.announce(mark(2))
        heard = [json.loads(one.payload)["height"] for one in listener.notifies(timeout=60, stop_after=2)]
        rows = listener.execute(
            "SELECT origin, height, seal, position, size FROM eventchain_watermark"
        ).fetchall()
    assert heard == [1, 2]
    assert rows == [("example.com/orders", 2, bytes([2]) * 32, 20, 18)]
    with psycopg.connect(postgresql, autocommit=True) as administrator:
        administrator.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
            "AND datname = current_database()"
        )
    with pytest.raises(StoreError):
        announcer.announce(mark(3))
    announcer.announce(mark(3))  # connects anew
    announcer.close()


def test_a_dead_network_is_noticed(postgresql):
    announcer = PostgresqlNotify(postgresql)
    announcer.announce(mark(1))
    assert announcer._connection is not None
    ours = announcer._connection.info.get_parameters()
    assert (ours["keepalives_idle"], ours["tcp_user_timeout"]) == ("10", "30000")
    announcer.close()


def test_what_is_configured(monkeypatch):
    monkeypatch.setenv("EVENTCHAIN_WEBHOOK_SECRET", "key")
    announce = Announce(webhook="https://example.com", nats="nats://localhost", postgresql="postgresql:///x")
    announcers = list(configured(announce))
    assert [one.name for one in announcers] == ["webhook", "nats", "postgresql"]
    for one in announcers:
        one.close()
    assert list(configured(Announce())) == []
