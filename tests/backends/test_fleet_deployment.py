"""The configurations in docs/fleet.md, on real NATS servers."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from eventchain_fleet.connection import this_host
from fleet_hosts import WorkerProcess, documented
from nats_logins import Authority, Nkey
from nats_server import NatsServer
from ports import free_ports

from eventchain.contracts.backend import Work
from eventchain.formats.header import HEADER, bits_for_difficulty
from eventchain.mining.backends import open_backend
from eventchain.mining.check import check


def here(configuration: str, folder: Path, leaves: Sequence[int]) -> str:
    """With files of the test, this machine's name, and the ports that a leaf can connect to."""
    for number, port in enumerate(leaves, 1):
        configuration = configuration.replace(f"n{number}.example.com:7422", f"127.0.0.1:{port}")
    configuration = re.sub(r"/etc/nats/(n1|eu1)\.", f"{folder}/server.", configuration)
    return configuration.replace("/etc/nats/ca.pem", f"{folder}/ca.pem").replace("web7", this_host())


def test_workers_at_a_leaf_mine_for_a_coordinator_at_a_cluster(tmp_path, monkeypatch):
    ca = Authority(tmp_path)
    ca.issue("server")
    seeds = {name: Nkey().written(tmp_path / name) for name in ("COORDINATOR", "WORKER", "WATCHER", "LEAF")}
    monkeypatch.setenv("LEAF_SEED", seeds["LEAF"].seed.decode())
    accounts = documented("{ nkey: COORDINATOR }").replace(
        "{ nkey: COORDINATOR }", "{ nkey: COORDINATOR }\n" + documented("nkey: LEAF,")
    )
    node, leaf = documented("server_name: n1"), documented("server_name: eu1")
    ports = free_ports(6)
    routes, leaves = ports[:3], ports[3:]
    accounts = accounts.removeprefix("jetstream: enabled\n")  # which the node's own file has
    for name, key in seeds.items():
        known = re.compile(rf"nkey: {name}\b")
        accounts, leaf = known.sub(f"nkey: {key.public}", accounts), known.sub(f"nkey: {key.public}", leaf)

    def started(name: str, configuration: str) -> NatsServer:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "accounts.conf").write_text(here(accounts, tmp_path, leaves))
        (folder / "nats.conf").write_text(here(configuration, tmp_path, leaves))
        server = NatsServer(folder, "-c", str(folder / "nats.conf"), healthy=False, jetstream=False)
        stack.callback(server.kill)
        return server

    with ExitStack() as stack:
        nodes = []
        for number, (port, leaf_port) in enumerate(zip(routes, leaves, strict=True), 1):
            others = ", ".join(f"nats-route://127.0.0.1:{other}" for other in routes if other != port)
            own = re.sub(r"routes: \[.*\]", f"routes: [{others}]", node)
            own = own.replace("server_name: n1", f"server_name: n{number}")
            own = own.replace("/var/lib/nats", f"{tmp_path}/n{number}")
            own = own.replace("0.0.0.0:6222", f"127.0.0.1:{port}")
            own = own.replace("0.0.0.0:7422", f"127.0.0.1:{leaf_port}")
            nodes.append(started(f"n{number}", own))
        for one in nodes:
            one.wait_until_healthy()
        nearby = started("leaf", leaf)
        tls = ("--tls-ca", str(ca.file))
        worker = WorkerProcess(nearby.url, *tls, "--nkey", str(tmp_path / "WORKER"), "--group", "eu")
        stack.callback(worker.kill)
        worker.ready()
        urls = ",".join(one.url for one in nodes)
        login = {"nats": urls, "nkey": str(tmp_path / "COORDINATOR"), "tls_ca": str(ca.file)}
        backend = open_backend("fleet", {**login, "groups": ["eu"]})
        stack.callback(backend.close)  # type: ignore[attr-defined]
        headers = np.frombuffer(secrets.token_bytes(80 * 100), HEADER).copy()
        headers["bits"] = bits_for_difficulty(10)
        work = Work(headers, np.zeros(100, np.uint64), 2**20, 16)
        found = backend.devices[0].search(work)
        assert len(check(work, found).index) == 100
        assert worker.process.poll() is None
