"""A real fleet for tests: a NATS server, worker processes, and workers that do not play by the rules."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nats
import numpy as np
from eventchain_fleet import FleetBackend, coordinator
from eventchain_fleet.connection import consumer_of, stream_of, worker_subject
from eventchain_fleet.messages import Done, Here, Piece
from nats_server import NatsServer

from eventchain.contracts.backend import Solutions
from eventchain.mining.backends import open_backend

coordinator.FIRST_WORKER_SECONDS = 60.0  # where the machine is busy, workers are late


class WorkerProcess:
    """``eventchain worker`` in a process of its own, at 30% of the time unless told otherwise: tests share
    their machine."""

    def __init__(self, url: str, *options: str) -> None:
        command = [sys.executable, "-m", "eventchain", "worker", "--nats", url, "--json", "--backend", "cpu"]
        self.process = subprocess.Popen(
            [*command, "--duty", "30%", *options],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        self.said: list[dict[str, Any]] = []
        self._first = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.said.append(json.loads(line))
                self._first.set()
        self._first.set()

    def ready(self) -> WorkerProcess:
        assert self._first.wait(60)
        assert self.said, self.kill()
        return self

    def kill(self, number: int = signal.SIGKILL) -> str:
        """Returns what it said on stderr."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)
        self.process.wait(30)
        self._reader.join(30)
        assert self.process.stderr is not None
        if self.process.stderr.closed:
            return ""
        with self.process.stderr as lines:
            return lines.read()


class Fleet:
    def __init__(self, folder: Path, workers: int = 1, *options: str) -> None:
        folder.mkdir(exist_ok=True)
        self.server = NatsServer(folder)
        self.backends: list[FleetBackend] = []
        self.workers = [WorkerProcess(self.server.url, *options) for _ in range(workers)]
        for worker in self.workers:
            worker.ready()

    def open(self, **settings: Any) -> FleetBackend:
        backend = open_backend("fleet", {"nats": self.server.url, **settings})
        assert isinstance(backend, FleetBackend)
        self.backends.append(backend)
        return backend

    def close(self) -> None:
        for backend in self.backends:
            backend.close()
        for worker in self.workers:
            worker.kill()
        self.server.kill()


@contextmanager
def fleet_in(folder: Path, workers: int = 1, *options: str) -> Iterator[Fleet]:
    fleet = Fleet(folder, workers, *options)
    try:
        yield fleet
    finally:
        fleet.close()


def documented(containing: str) -> str:
    """The one NATS configuration in docs/fleet.md that has this in it."""
    page = (Path(__file__).parents[1] / "docs" / "fleet.md").read_text("utf-8")
    blocks = re.findall(r"^```nats\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (block,) = (block for block in blocks if containing in block)
    return block


Answer = Callable[[Piece], bytes | None]


class Rogue:
    """Speaks the fleet's messages by itself and answers a piece as it is told; ``answer`` returns the bytes
    of a ``done``, or None for none. Every piece is acknowledged. It claims ``size_class``."""

    def __init__(
        self, url: str, answer: Answer, *, size_class: int = 20, name: str = "rogue.1", group: str = "workers"
    ) -> None:
        self.pieces = 0
        self.shut: list[bytes] = []
        self._url, self._answer, self._class = url, answer, size_class
        self._name, self.group = name, group
        self._stop = threading.Event()
        self._here = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()
        assert self._here.wait(30)

    async def _run(self) -> None:
        connection = await nats.connect(self._url)

        async def on_shut(message: Any) -> None:
            self.shut.append(message.data)

        await connection.subscribe(worker_subject("shut", self.group, self._name), cb=on_shut)
        pull = await connection.jetstream().pull_subscribe_bind(
            consumer_of(self._class), stream_of(self.group)
        )
        here = Here(0, self._class, 2.0**self._class, 0, 0, "a rogue").encode()
        while not self._stop.is_set():
            await connection.publish(worker_subject("here", self.group, self._name), here)
            await connection.flush()
            self._here.set()
            try:
                (message,) = await pull.fetch(1, timeout=0.3)
            except Exception:
                await asyncio.sleep(0.05)
                continue
            self.pieces += 1
            await message.ack()
            answer = self._answer(Piece.decode(message.data))
            if answer is not None:
                await connection.publish(worker_subject("done", self.group, self._name), answer)
        await connection.close()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(30)


def lie(piece: Piece) -> bytes:
    """Says that the first counter of the first header solves it."""
    solutions = Solutions(np.zeros(1, np.uint32), piece.work.start[:1].copy())
    return Done(piece.search, piece.token, solutions).encode()


def keep_silent(piece: Piece) -> None:
    """Takes work and gives nothing back."""


def find_nothing(piece: Piece) -> bytes:
    """Says at once that there is no solution."""
    none = Solutions(np.empty(0, np.uint32), np.empty(0, np.uint64))
    return Done(piece.search, piece.token, none).encode()
