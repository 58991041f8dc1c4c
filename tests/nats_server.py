"""A real NATS server for tests."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

from ports import free_ports


class NatsServer:
    """A nats-server with JetStream on a free port. ``options``: more of its command line; not ``healthy``: do
    not wait until it is, as in a cluster it is not without the others; not ``jetstream``: as the file of its
    configuration says."""

    def __init__(self, folder: Path, *options: str, healthy: bool = True, jetstream: bool = True) -> None:
        self._folder, self._options, self._jetstream = folder, options, jetstream
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
            *(("-js", "-sd", self._folder / "jetstream") if self._jetstream else ()),
            *self._options,
        ]
        self._process = subprocess.Popen(
            [*command, "--ports_file_dir", self._ports, "-l", self._log], stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 60
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
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with suppress(OSError), urlopen(self._health):
                return
            time.sleep(0.05)
        raise AssertionError(self._log.read_text())

    def reload(self) -> None:
        """Read the configuration file again."""
        self._process.send_signal(signal.SIGHUP)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


class NatsCluster:
    """Three nats-servers that replicate among them."""

    def __init__(self, folder: Path) -> None:
        ports = free_ports(3)
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


@contextmanager
def configured(folder: Path, configuration: str, *options: str) -> Iterator[NatsServer]:
    """With this configuration file, ``nats.conf`` in the folder, which is made."""
    folder.mkdir(exist_ok=True)
    (folder / "nats.conf").write_text(configuration)
    server = NatsServer(folder, "-c", str(folder / "nats.conf"), *options)
    try:
        yield server
    finally:
        server.kill()
