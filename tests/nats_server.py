"""A real NATS server for tests."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen


class NatsServer:
    """A nats-server with JetStream on a free port. ``options``: more of its command line; not ``healthy``: do
    not wait until it is, as in a cluster it is not without the others."""

    def __init__(self, folder: Path, *options: str, healthy: bool = True) -> None:
        self._folder, self._options = folder, options
        self._ports = folder / "ports"
        self._ports.mkdir(exist_ok=True)
        self._log = folder / "nats.log"
        self.start(healthy=healthy)

    def start(self, port: int = -1, *, healthy: bool = True) -> None:
        program = Path(sys.executable).parent / "nats-server"
        for old in self._ports.iterdir():
            old.unlink()
        command = [
            program,
            "-a",
            "127.0.0.1",
            "-p",
            str(port),
            "-m",
            "-1",
            "-js",
            "-sd",
            self._folder / "jetstream",
            *self._options,
        ]
        self._process = subprocess.Popen(
            [*command, "--ports_file_dir", self._ports, "-l", self._log], stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            found = list(self._ports.glob("*.ports"))
            if found and found[0].read_text().strip():
                urls = json.loads(found[0].read_text())
                self.url, self.port = urls["nats"][0], int(urls["nats"][0].rpartition(":")[2])
                self._health = urls["monitoring"][0] + "/healthz"
                if healthy:
                    self.wait_until_healthy()
                return
            time.sleep(0.02)
        raise AssertionError(self._log.read_text())

    def wait_until_healthy(self) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with suppress(OSError), urlopen(self._health):
                return
            time.sleep(0.05)
        raise AssertionError(self._log.read_text())

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


class NatsCluster:
    """Three nats-servers that replicate among them."""

    def __init__(self, folder: Path) -> None:
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
        ports = [one.getsockname()[1] for one in sockets]
        for one in sockets:
            one.close()
        routes = ",".join(f"nats://127.0.0.1:{port}" for port in ports)
        self.nodes: dict[str, NatsServer] = {}
        for number, port in enumerate(ports):
            name = f"n{number}"
            (folder / name).mkdir()
            options = ("-cluster", f"nats://127.0.0.1:{port}", "-routes", routes, "--cluster_name", "fleet")
            self.nodes[name] = NatsServer(folder / name, *options, "-n", name, healthy=False)
        for node in self.nodes.values():
            node.wait_until_healthy()

    @property
    def url(self) -> str:
        return ",".join(node.url for node in self.nodes.values())

    def kill(self) -> None:
        for node in self.nodes.values():
            node.kill()
