"""The fleet over bad lines: NATS, the coordinator and each worker are hosts of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from eventchain_fleet import FleetBackend, connection
from fleet_hosts import WorkerProcess
from fleet_searches import Searching
from links import Host, Link, allowed
from nats_server import NatsServer
from waiting import wait_for

from eventchain.mining.backends import open_backend

pytestmark = pytest.mark.skipif(not allowed(), reason="needs network namespaces and TUN devices")


class Network:
    """Every line takes 20 ms and, once all are connected, loses one packet in twenty."""

    def __init__(self, folder) -> None:
        hub = Host()
        with hub.inside():
            self.server = NatsServer(folder, "-a", "0.0.0.0")
        self.lines = [Link(Host(), hub, delay=0.02) for _ in range(3)]
        *_, self.coordinators_line = self.lines
        self.workers = [self.hire(line) for line in self.lines[:2]]
        self.hashes_per_second = sum(
            float(worker.ready().said[-1]["hashes_per_second"]) for worker in self.workers
        )

    def url(self, line: Link) -> str:
        return f"nats://{line.far}:{self.server.port}"

    def hire(self, line: Link) -> WorkerProcess:
        with line.near_host.inside():
            return WorkerProcess(self.url(line))

    def open(self) -> FleetBackend:
        with self.coordinators_line.near_host.inside():
            backend = open_backend("fleet", {"nats": self.url(self.coordinators_line)})
        assert isinstance(backend, FleetBackend)
        for line in self.lines:
            line.loss = 0.05
        return backend

    def heal(self) -> None:
        for line in self.lines:
            line.loss, line.silent = 0.0, False

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
        self.server.kill()
        for line in self.lines:
            line.close()


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    network = Network(tmp_path_factory.mktemp("network"))
    try:
        yield network
    finally:
        network.close()


@pytest.fixture
def backend(network: Network, monkeypatch) -> Iterator[FleetBackend]:
    monkeypatch.setattr(connection, "PING_SECONDS", 1)
    backend = network.open()
    try:
        yield backend
    finally:
        network.heal()
        backend.close()


def has_workers(backend: FleetBackend, count: int) -> None:
    wait_for(lambda: len(backend._coordinator._roster.workers) == count)


def test_packets_are_lost(network, backend):
    search = Searching(backend, 2 * network.hashes_per_second)
    search.end()
    assert all(line.lost for line in network.lines)


def test_a_worker_falls_silent_and_comes_back(network, backend):
    has_workers(backend, 2)
    search = Searching(backend, 2 * network.hashes_per_second)
    search.until_out(3)
    network.lines[0].silent = True  # no end of the connection is seen, neither here nor there
    search.end()
    has_workers(backend, 1)
    network.lines[0].silent = False
    has_workers(backend, 2)


def test_the_coordinator_falls_silent_and_comes_back(network, backend, caplog):
    search = Searching(backend, 4 * network.hashes_per_second)
    search.until_out(3)
    network.coordinators_line.silent = True
    has_workers(backend, 0)
    wait_for(lambda: "does not answer" in caplog.text)
    network.coordinators_line.silent = False
    search.end()
    assert "NATS is there again" in caplog.text
