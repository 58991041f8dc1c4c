"""A Stratum v1 miner over TCP, written from the protocol, that mines with hashlib."""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

DIFFICULTY_1 = 0xFFFF << 208
MASK = 0x1FFFE000


def sha256d(data: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


@dataclass
class Notified:
    """``mining.notify``, and the difficulty and extranonce1 that it goes with."""

    id: str
    prev: bytes
    coinbase1: bytes
    coinbase2: bytes
    version: int
    bits: int
    time: int
    clean: bool
    difficulty: float
    extranonce1: bytes

    def header(self, extranonce2: bytes, time: int, nonce: int, rolled: int = 0) -> bytes:
        root = sha256d(self.coinbase1 + self.extranonce1 + extranonce2 + self.coinbase2)
        version = self.version & ~MASK | rolled
        return struct.pack("<I", version) + self.prev + root + struct.pack("<III", time, self.bits, nonce)

    @property
    def target(self) -> int:
        return int(DIFFICULTY_1 / self.difficulty)


class Client:
    """One connection. Errors of the server come back as ``(code, reason)``."""

    def __init__(self, port: int, worker: str = "rig", timeout: float = 60.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.worker = worker
        self.extranonce1 = b""
        self.extranonce2_size = 0
        self.difficulty = 1.0
        self.mask = 0
        self.jobs: list[Notified] = []
        self._file = self.socket.makefile("rb")
        self._id = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self._file.close()
        self.socket.close()

    def send(self, line: bytes) -> None:
        self.socket.sendall(line)

    def read(self) -> dict[str, Any]:
        """The next message; notifications are taken in. Raises ConnectionError at the end."""
        line = self._file.readline()
        if not line:
            raise ConnectionError("the server closed the connection")
        message: dict[str, Any] = json.loads(line)
        if message.get("method") == "mining.set_difficulty":
            (self.difficulty,) = message["params"]
        elif message.get("method") == "mining.notify":
            job, prevhash, coinbase1, coinbase2, branch, version, bits, time, clean = message["params"]
            assert branch == []
            words = struct.unpack(">8I", bytes.fromhex(prevhash))
            self.jobs.append(
                Notified(
                    job, struct.pack("<8I", *words), bytes.fromhex(coinbase1), bytes.fromhex(coinbase2),
                    int(version, 16), int(bits, 16), int(time, 16), clean, self.difficulty, self.extranonce1,
                )
            )  # fmt: skip
        return message

    def call(self, method: str, *params: Any) -> Any:
        self._id += 1
        self.send(json.dumps({"id": self._id, "method": method, "params": params}).encode() + b"\n")
        while (message := self.read()).get("id") != self._id:
            pass
        return message["result"] if message["error"] is None else tuple(message["error"][:2])

    def login(self, password: str = "x", *, roll: bool = False) -> Any:
        if roll:
            options = {"version-rolling.mask": "1fffe000", "version-rolling.min-bit-count": 2}
            answer = self.call("mining.configure", ["version-rolling"], options)
            self.mask = int(answer["version-rolling.mask"], 16)
        _, extranonce1, self.extranonce2_size = self.call("mining.subscribe", "test/1.0")
        self.extranonce1 = bytes.fromhex(extranonce1)
        return self.call("mining.authorize", self.worker, password)

    def job(self) -> Notified:
        """The newest job, waiting for the first one."""
        while not self.jobs:
            self.read()
        return self.jobs[-1]

    def next_job(self) -> Notified:
        """The first job that comes from now on. Only where one is sure to come."""
        seen = len(self.jobs)
        while len(self.jobs) == seen:
            self.read()
        return self.jobs[-1]

    def submit(
        self, job: Notified, extranonce2: bytes, time: int, nonce: int, rolled: int | None = None
    ) -> Any:
        version = [] if rolled is None else [f"{rolled:08x}"]
        return self.call(
            "mining.submit", self.worker, job.id, extranonce2.hex(), f"{time:08x}", f"{nonce:08x}", *version
        )

    def search(self, job: Notified, start: int = 0, count: int = 2**22) -> tuple[bytes, int, int, int] | None:
        """Extranonce2, time, nonce and rolled version bits of a share: everything that may be rolled is."""
        for number in range(start, start + count):
            nonce, kind = number // 4, number % 4
            extranonce2 = struct.pack("<I", kind & 1)
            time = job.time + kind // 2
            rolled = self.mask & (number << 13)
            header = job.header(extranonce2, time, nonce, rolled)
            if int.from_bytes(sha256d(header), "little") <= job.target:
                return extranonce2, time, nonce, rolled
        return None

    def mine_one(self) -> Any:
        """A share of the newest job, as the server answers it."""
        job = self.job()
        found = self.search(job)
        assert found is not None
        extranonce2, time, nonce, rolled = found
        return self.submit(job, extranonce2, time, nonce, rolled if self.mask else None)


class Mining:
    """A thread that mines until the connection ends or it is stopped."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.answers: list[Any] = []
        self._thread = threading.Thread(target=self._mine, daemon=True)
        self._thread.start()

    def _mine(self) -> None:
        with suppress(OSError, ValueError):  # the server, or the test, closed it
            while True:
                job = self.client.job()
                self.answers.append(self.client.mine_one())
                while self.client.jobs[-1] is job:
                    self.client.read()

    def stop(self) -> None:
        with suppress(OSError):
            self.client.socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self.client.close()
