"""What the service knows of itself: written by the sealing thread, read by metrics and health."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from eventchain.service.backlog import Backlog
from eventchain.service.watermark import Watermark

STARTING, STANDBY, SEALING, WAITING = "starting", "standby", "sealing", "waiting for a store"
ROLES = (STARTING, STANDBY, SEALING, WAITING)
STALE_SECONDS = 30.0
"""A service that has not come round for so long is not well."""


@dataclass
class State:
    """What was sealed, ``hashes`` and errors count since the start of the process; ``rates``: hashes a second
    of each device; ``capacity``: events a second that the devices can seal in full blocks; ``newest``:
    position in the event store; ``fence``: seconds for which open transactions have held sealing back."""

    clock: Callable[[], float] = time.monotonic
    role: str = STARTING
    backlog: Backlog = field(default_factory=Backlog)
    events_sealed: int = 0
    blocks_sealed: int = 0
    snapshots_sealed: int = 0
    hashes: int = 0
    rates: dict[str, float] = field(default_factory=dict)
    capacity: float = 0.0
    newest: int | None = None
    fence: float = 0.0
    hardware_errors: dict[str, int] = field(default_factory=dict)
    store_errors: int = 0
    projection_errors: int = 0
    watermark: Watermark | None = None
    trouble: str = ""
    _seen: float = 0.0

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        self._seen = self.clock()

    def alive(self) -> None:
        self._seen = self.clock()

    @property
    def healthy(self) -> bool:
        """Sealing, or standing by, and not stuck."""
        return self.role in (SEALING, STANDBY) and self.clock() < self._seen + STALE_SECONDS

    @property
    def falling_behind(self) -> float:
        """Events a second by which more arrive than can be sealed."""
        return max(0.0, self.backlog.arrival - self.capacity) if self.capacity else 0.0
