"""However the service is told to stop and whatever it is doing: it ends soon, with 0, and nothing is lost."""

from __future__ import annotations

import signal
import socket
import sqlite3
import threading
import time
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

import pytest
from chains import Chain as Files
from chains import Work, new_chain
from click.testing import CliRunner
from postgres import Server
from running import Process

from eventchain.cli import cli
from eventchain.contracts.event_store import NewEvent
from eventchain.eventstores import open_event_store
from eventchain.formats.header import bits_for_difficulty
from eventchain.formats.policy import Policy


def started(files: Files, *, forced: bool = True) -> Process:
    file = files.folder / "eventchain.toml"
    file.write_text('store = "sqlite:///events.db"\nchain = "sqlite:///chain.db"\n')
    return Process(file, "--block-seconds", "0", forced=forced)


def append(files: Files, first: int, count: int) -> None:
    with closing(open_event_store(files.events_url)) as events:
        Work(None, events, None).append(first, count)


def messages(process: Process) -> list[str]:
    return [line["message"] for line in process.log]


def test_while_it_catches_up(tmp_path):
    """What is mined by then stays, and the next one goes on there."""
    policy = Policy(bits_for_difficulty(10), 10, 100_000, 0, "eventchain-sqlite/1")
    files = new_chain(tmp_path, policy)
    append(files, 0, 30_000)
    with started(files, forced=False).ending() as service:
        service.says("catching up")
        service.has_sealed(1)
        assert service.stop() == 0
        assert "caught up" not in messages(service)
    with files.opened() as (store, _):
        mined = store.blocks(store.branches()[0].id, 0, 100_000).headers["time"] > 0
    assert mined.sum() > 1
    assert files.verify().wrong == []


def test_a_standby(tmp_path):
    files = new_chain(tmp_path)
    with started(files).ending() as leader:
        leader.says("sealing")
        with started(files).ending() as standby:
            standby.says("standby")
            assert standby.stop() == 0
        append(files, 0, 5)
        leader.has_sealed(5)
        assert leader.stop() == 0
    files.check()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_again_and_again(tmp_path, number):
    """To its end."""
    files = new_chain(tmp_path)
    with started(files).ending() as service:
        service.says("sealing")
        while service.alive:
            service.send(number)
            time.sleep(0.002)
        assert service.ended() == 0


def test_at_any_moment_of_the_start(tmp_path):
    files = new_chain(tmp_path)
    with started(files).ending() as service:
        service.says("devices")
        assert service.stop() == 0


def test_while_a_store_is_away(tmp_path):
    files = new_chain(tmp_path)
    files.events_file.rename(tmp_path / "aside")
    with started(files, forced=False).ending() as service:
        service.says("waiting for a store")
        assert service.stop() == 0


def test_while_another_program_holds_the_chain_file(tmp_path):
    """SQLite waits for it in a place where no signal reaches Python."""
    files = new_chain(tmp_path)
    with (
        started(files).ending() as service,
        closing(sqlite3.connect(files.chain_file, isolation_level=None)) as other,
    ):
        service.says("sealing")
        other.execute("BEGIN IMMEDIATE")
        append(files, 0, 5)
        assert service.stop() == 0
        other.execute("ROLLBACK")
    with started(files).ending() as service:
        service.has_sealed(5)
        assert service.stop() == 0
    files.check()


class Network:
    """Lies between a client and a server's socket, and can be cut: then nothing answers any more, and nobody
    is told that."""

    def __init__(self, folder: Path, server: Path) -> None:
        self._server = server
        self._open: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / ".s.PGSQL.5432"))
        self._listener.listen()
        self.cut = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(str(self._server))
                self._open += [client, server]
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._forward, args=pair, daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if not self.cut.is_set():
                    target.sendall(data)
            if not self.cut.is_set():
                target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        for one in (self._listener, *self._open):
            with suppress(OSError):  # not connected any more
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def test_while_the_network_is_dead(tmp_path: Path, postgres: Server) -> None:
    url = postgres.new_database()
    near = url.partition("?")[0] + f"?host={quote(str(tmp_path))}"
    config = tmp_path / "eventchain.toml"
    options = ["--origin", "a.b/c", "--difficulty", "4", "--backend", "reference"]
    with closing(Network(tmp_path, Path(postgres.sockets, ".s.PGSQL.5432"))) as network:
        begun = CliRunner().invoke(cli, ["init", "-C", str(config), *options, "--store", near])
        assert begun.exit_code == 0, begun.output
        process = Process(config, "--block-seconds", "0")
        with process.ending() as service, closing(open_event_store(url)) as events:
            events.append("s", -1, [NewEvent("first", "t", b"")])
            service.has_sealed(1)
            network.cut.set()
            events.append("s", 0, [NewEvent("second", "t", b"")])
            assert service.stop() == 0
