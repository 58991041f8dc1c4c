"""Everything is killed under load: `run` (of two, one stands by), PostgreSQL with both stores, and NATS.

Meanwhile writers append and announcements flow. In the end every event that was acknowledged is sealed
exactly once, `verify` finds nothing, and the chain holds every seal that was announced.

EVENTCHAIN_SOAK_SECONDS makes it last longer.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import random
import signal
import threading
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import nats
from click.testing import CliRunner
from nats_server import NatsServer
from oracle import check_chain
from postgres import Server
from running import Process
from waiting import wait_for

import eventchain
from eventchain.chain.tip import block_link
from eventchain.cli import cli
from eventchain.contracts.event_store import NewEvent
from eventchain.errors import ConflictError, StoreError
from eventchain.eventstores import open_event_store
from eventchain.formats.anchor import Anchor
from eventchain.nats.client import connect
from eventchain.nats.urls import parse_url

SECONDS = float(os.environ.get("EVENTCHAIN_SOAK_SECONDS", "7"))
WRITERS = 3
SUBJECT = "orders.sealed"
ORIGIN = "crash.test/live"


class Writer(threading.Thread):
    """Appends until it is told to stop. What fails is tried again: it may have been committed or not."""

    def __init__(self, name: str, url: str, done: threading.Event) -> None:
        super().__init__(name=name)
        self._url, self._done = url, done
        self._dice = random.Random(name)
        self.acknowledged: list[str] = []
        self.failures = 0

    def run(self) -> None:
        with closing(open_event_store(self._url)) as store:
            for number in itertools.count():
                if self._done.is_set():
                    return
                ids = [f"{self.name}/{number}/{n}" for n in range(self._dice.randint(1, 5))]
                stream = self._dice.choice(["shared", self.name])
                while not self._append(store, stream, [NewEvent(one, "tick", one.encode()) for one in ids]):
                    time.sleep(0.05)
                self.acknowledged += ids
                time.sleep(self._dice.uniform(0, 0.02))

    def _append(self, store: Any, stream: str, events: list[NewEvent]) -> bool:
        try:
            store.append(stream, None, events)
        except ConflictError as error:
            return "exists already" in str(error)  # it was committed, and the answer was lost
        except StoreError:
            self.failures += 1
            return False
        return True


class Listener(threading.Thread):
    """Hears the announcements on a NATS subject, whenever there is a server."""

    def __init__(self, url: str) -> None:
        super().__init__(name="listener")
        self._url = url
        self._done = threading.Event()
        self.heard: list[dict[str, Any]] = []
        self.ready = 0
        """Times that a subscription was known to the server."""

    def run(self) -> None:
        while not self._done.is_set():
            with suppress(Exception):  # the server is away
                asyncio.run(self._listen())
            time.sleep(0.05)

    async def _listen(self) -> None:
        connection = await connect(parse_url(self._url), 2)
        try:
            subscription = await connection.subscribe(SUBJECT)
            await connection.flush(timeout=2)
            self.ready += 1
            while not self._done.is_set() and connection.is_connected:
                with suppress(nats.errors.TimeoutError):
                    self.heard.append(json.loads((await subscription.next_msg(timeout=0.1)).data))
        finally:
            await connection.close()

    def stop(self) -> None:
        self._done.set()
        self.join()


class Services:
    """Two processes; when one is killed another is started."""

    def __init__(self, config: Path) -> None:
        self._config = config
        self._running = [self._started(), self._started()]

    def _started(self) -> Process:
        return Process(self._config, "--block-seconds", "0.05")

    def kill_one(self, dice: random.Random) -> None:
        self._running.pop(dice.randrange(2)).stop(signal.SIGKILL)
        self._running.append(self._started())

    def stop(self) -> list[int]:
        for process in self._running:
            process.says("devices")  # it takes signals by then
        return [process.stop() for process in self._running]

    def kill(self) -> None:
        for process in self._running:
            if process.alive:
                process.stop(signal.SIGKILL)


def sealed_ids(config: Path) -> list[str]:
    with eventchain.open_chain(config) as chain:
        return [one for batch in chain.sealed_events() for one in batch["id"].to_pylist()]


def test_whatever_is_killed_nothing_acknowledged_is_lost_and_all_is_sealed_once(
    tmp_path: Path, postgres: Server, nats_server: NatsServer
) -> None:
    seed = time.time_ns()
    print("seed", seed)
    dice = random.Random(seed)
    events, chain = postgres.new_database(), postgres.new_database()
    config = tmp_path / "eventchain.toml"
    options = ["--origin", ORIGIN, "--difficulty", "6", "--backend", "reference"]
    begun = CliRunner().invoke(
        cli, ["init", "-C", str(config), *options, "--store", events, "--chain", chain]
    )
    assert begun.exit_code == 0, begun.output
    with config.open("a") as file:
        file.write(f'nats = "{nats_server.url}"\nnats_subject = "{SUBJECT}"\npostgresql = "{events}"\n')

    stop = threading.Event()
    writers = [Writer(f"w{number}", events, stop) for number in range(WRITERS)]
    listener, services = Listener(nats_server.url), Services(config)
    try:
        for thread in (*writers, listener):
            thread.start()
        wait_for(lambda: all(writer.acknowledged for writer in writers))

        def kill_nats() -> None:
            nats_server.kill()
            time.sleep(dice.uniform(0, 0.3))
            nats_server.start(nats_server.port)

        def kill_postgres() -> None:
            postgres.kill()
            time.sleep(dice.uniform(0, 0.3))
            postgres.start()

        def kill_run() -> None:
            services.kill_one(dice)

        kills = dice.sample([kill_run, kill_postgres, kill_nats], 3)  # each once, and then as it comes
        until = time.monotonic() + SECONDS
        while kills or time.monotonic() < until:
            time.sleep(dice.uniform(0, 1))
            (kills.pop() if kills else dice.choices([kill_run, kill_postgres, kill_nats], [4, 1, 2])[0])()
        stop.set()
        for writer in writers:
            writer.join(60)
        acknowledged = [one for writer in writers for one in writer.acknowledged]
        assert any(writer.failures for writer in writers), "no kill met a writer"

        wait_for(lambda: set(acknowledged) <= set(sealed_ids(config)))
        nats_server.kill()
        ready = listener.ready
        nats_server.start(nats_server.port)
        wait_for(lambda: listener.ready > ready)
        with closing(open_event_store(events)) as store:
            (last,) = store.append("last", -1, [NewEvent("last", "tick", b"")])
        wait_for(lambda: any(one["position"] == last for one in listener.heard))
        assert services.stop() == [0, 0]
    finally:
        stop.set()
        services.kill()
        listener.stop()

    ids = sealed_ids(config)
    assert len(ids) == len(set(ids))
    assert {*acknowledged, "last"} <= set(ids)
    with eventchain.open_chain(config) as opened:
        check_chain(opened.store, opened.events)
        trunk = opened.store.branches()[0]
        anchors = [
            Anchor(ORIGIN, height, block_link(opened.store.blocks(trunk.id, height, 1), 0), seal)
            for height, seal in {(one["height"], base64.b64decode(one["seal"])) for one in listener.heard}
        ]
        report = opened.verify(anchors)
    assert report.clean, report.wrong
    assert not report.notices  # no backlog
    assert report.events == len(ids)
    print(f"{len(ids)} events, {report.blocks} blocks, {len(anchors)} announced seals")
