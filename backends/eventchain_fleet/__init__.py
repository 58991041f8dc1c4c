"""The ``fleet`` backend: workers on many hosts, reached through NATS JetStream. See docs/fleet.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eventchain.contracts.backend import Device, Solutions, Work
from eventchain.errors import BackendError
from eventchain.mining.backends import choose
from eventchain_fleet.connection import DEFAULT_GROUP, Login, check_group
from eventchain_fleet.coordinator import Coordinator

SEARCHES = 9
"""At once: while one waits for its last pieces, the others keep the workers busy."""
SLICE_SECONDS = 9.0
"""Of a search, while others run beside it: some pieces for each worker."""


class FleetDevice:
    """One of the searches that a fleet does at once; all of them use all workers."""

    slice_seconds = SLICE_SECONDS

    def __init__(self, coordinator: Coordinator, number: int) -> None:
        self.name = f"search {number}"
        self._coordinator = coordinator

    @property
    def hashes_per_second(self) -> float:
        return self._coordinator.rate / SEARCHES

    def search(self, work: Work) -> Solutions:
        return self._coordinator.search(work)

    def interrupt(self) -> None:
        self._coordinator.interrupt()


class FleetBackend:
    name = "fleet"

    def __init__(self, coordinator: Coordinator) -> None:
        self.devices: Sequence[Device] = [FleetDevice(coordinator, n + 1) for n in range(SEARCHES)]
        self._coordinator = coordinator

    @property
    def summary(self) -> str:
        return self._coordinator.summary

    def close(self) -> None:
        self._coordinator.close()


def open_backend(
    *,
    nats: str | None = None,
    groups: Sequence[str] = (DEFAULT_GROUP,),
    fallback: str | None = None,
    **login: Any,
) -> FleetBackend:
    """Join the fleet as the one who hands out work.

    nats and ``login``: see :class:`Login`; groups: of workers; fallback: the backend of this host that
    searches while there is no worker

    Raises BackendError where no NATS server is named, it cannot be used, or nobody is there to search.
    """
    if nats is None:
        raise BackendError(
            "no NATS server is named", hint='name one in the configuration: [fleet] nats = "nats://host:4222"'
        )
    local = choose(fallback).searchers if fallback else ()
    return FleetBackend(Coordinator(Login(nats, **login), [check_group(one) for one in groups], local))
