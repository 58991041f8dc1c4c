"""The ``stratum`` backend: SHA-256d miners that exist, from cpuminer to ASICs. See docs/stratum.md."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from eventchain.contracts.backend import Sealed, Task
from eventchain.errors import BackendError, ConfigError
from eventchain.urls import address
from eventchain_stratum.server import MAX_CONNECTIONS, Server


class StratumMiner:
    """All miners that connect, as one. It listens while it is used as a context."""

    width = MAX_CONNECTIONS

    def __init__(self, host: str, port: int, password: str | None) -> None:
        self.name = f"stratum on [{host}]:{port}" if ":" in host else f"stratum on {host}:{port}"
        self._address = host, port
        self._password = password
        self._server: Server | None = None

    @property
    def port(self) -> int:
        """Where it listens, also when the configuration left that to the system."""
        return self._running().port

    def mine(self, task: Task) -> Sealed:
        return self._running().mine(task)

    def _running(self) -> Server:
        if self._server is None:
            raise BackendError(f"{self.name} does not listen yet")
        return self._server

    def __enter__(self) -> Self:
        self._server = Server(*self._address, self._password)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        server, self._server = self._running(), None
        server.close()


class StratumBackend:
    name = "stratum"

    def __init__(self, miner: StratumMiner) -> None:
        self.devices = (miner,)


def open_backend(*, listen: str | None = None, password: str | None = None) -> StratumBackend:
    """listen: ``host:port`` where miners will connect, an IPv6 address in brackets; password: what they must
    know, nothing by default.

    Raises BackendError where no address is named, ConfigError where it is none.
    """
    if listen is None:
        raise BackendError(
            "no address to listen on is named",
            hint='name one in the configuration: [stratum] listen = "0.0.0.0:3333"',
        )
    found = address(listen)
    if found is None or not found[0]:
        raise ConfigError(
            f"{listen!r} is no address to listen on", hint='write [stratum] listen = "0.0.0.0:3333"'
        )
    return StratumBackend(StratumMiner(*found, password))
