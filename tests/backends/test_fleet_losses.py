"""The fleet when NATS loses part of what it keeps, or a coordinator dies, in the middle of a search."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import nats
import pytest
from eventchain_fleet import coordinator, worker
from eventchain_fleet.connection import ALIVE, Login, coordinator_subject, stream_of
from eventchain_fleet.messages import Alive, Piece
from eventchain_fleet.roster import DEPTH, Queue
from eventchain_fleet.worker import Worker
from fleet_hosts import Fleet, fleet_in
from fleet_searches import Searching, one_hard
from waiting import PATIENCE

from eventchain.errors import BackendError
from eventchain.mining.backends import Choice, open_backend

STREAM = stream_of("workers")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    with fleet_in(tmp_path_factory.mktemp("fleet"), 1) as fleet:
        yield fleet


def rate_of(fleet: Fleet) -> float:
    return sum(float(worker.said[-1]["hashes_per_second"]) for worker in fleet.workers)


def with_jetstream(fleet: Fleet, do: Callable[[Any], Awaitable[Any]]) -> None:
    async def run() -> None:
        connection = await nats.connect(fleet.server.url)
        await do(connection.jetstream())
        await connection.close()

    asyncio.run(run())


def test_messages_vanish(tmp_path, monkeypatch):
    """Those that a worker held, which dies, and those that nobody held. Streams live in memory: taking them
    out is what an older copy, or a disk that lied, would come to."""
    monkeypatch.setattr(coordinator, "LEASE_SECONDS", 3.0)
    missed = []
    monkeypatch.setattr(Queue, "missed", lambda queue, since, now: missed.append(now - since))
    with fleet_in(tmp_path, 2) as fleet:
        backend = fleet.open()
        search = Searching(backend, rate_of(fleet))
        search.until_out(DEPTH + 1)  # more than the other one can hold
        fleet.workers[0].kill()
        with_jetstream(fleet, lambda jetstream: jetstream.purge_stream(STREAM))
        search.end()
        assert missed


@pytest.mark.parametrize("what", ["consumers", "stream"])
def test_they_are_made_again(fleet: Fleet, monkeypatch, what):
    monkeypatch.setattr(coordinator, "LOOK_SECONDS", 0.5)

    async def delete(jetstream: Any) -> None:
        if what == "stream":
            await jetstream.delete_stream(STREAM)
        for consumer in await jetstream.consumers_info(STREAM) if what == "consumers" else ():
            await jetstream.delete_consumer(STREAM, consumer.name)

    with closing(fleet.open()) as backend:
        search = Searching(backend, 2 * rate_of(fleet))
        search.until_out(DEPTH)
        with_jetstream(fleet, delete)
        search.end()


@contextmanager
def working(url: str) -> Iterator[Worker]:
    """A worker in this process."""
    one = Worker(Login(url), "workers", Choice("reference", tuple(open_backend("reference").devices)))

    def run() -> None:
        with pytest.raises(BackendError, match="the test is over"):
            one.run()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield one
    finally:
        loop = one._end.get_loop()
        loop.call_soon_threadsafe(one.end, BackendError("the test is over"))
        thread.join(PATIENCE)


def test_a_new_coordinator_frees_the_workers_of_one_that_died(fleet: Fleet, monkeypatch):
    """And not of one that lives."""
    monkeypatch.setattr(worker, "SILENT_SECONDS", 1e9)
    living, dead = 1, 2
    with working(fleet.server.url) as one:

        async def play() -> None:
            connection = await nats.connect(fleet.server.url)
            await connection.subscribe(coordinator_subject(living))
            for coordinator in (living, dead):
                while coordinator not in one._heard:
                    await connection.publish(ALIVE, Alive(coordinator, 1, 1, 1.0, 1.0, "here").encode())
                    await asyncio.sleep(0.05)
            assert not one.is_void(Piece(dead, 1, 1, one_hard(1)))
            await asyncio.to_thread(fleet.open)
            async with asyncio.timeout(PATIENCE):
                while not one.is_void(Piece(dead, 1, 1, one_hard(1))):
                    await asyncio.sleep(0.01)
            assert not one.is_void(Piece(living, 1, 1, one_hard(1)))
            await connection.close()

        asyncio.run(play())
