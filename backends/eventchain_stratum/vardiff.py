"""How hard a connection's shares are: about one in five seconds from each, whatever it is."""

from __future__ import annotations

SPACING = 5.0
"""Seconds between two shares."""
FIRST_WORK, LEAST_WORK, MOST_WORK = 2**22, 2**16, 2**72
"""Expected hashes of a share: of a connection's first ones, of the slowest miner, and of any."""
WINDOW_SHARES, WINDOW_SECONDS = 24, 60.0
"""After so many shares or so long the work is set anew."""
STEADY = 2.0
"""It stays as it is within this factor: a change is a new job."""


class Vardiff:
    """now: seconds of a clock that only rises."""

    def __init__(self, now: float) -> None:
        self.work = FIRST_WORK
        self._since = now
        self._shares = 0
        self._hashes = 0
        self._before = 0, 0.0  # hashes and seconds of the window before

    def rate(self, now: float) -> float:
        """Hashes a second, over this window and the one before."""
        hashes, seconds = self._before
        return (hashes + self._hashes) / max(seconds + now - self._since, 1.0)

    def share(self, work: int) -> None:
        """A share of so many expected hashes came."""
        self._shares += 1
        self._hashes += work

    def adjust(self, now: float) -> bool:
        """Look at what came. True when the work has changed."""
        seconds = now - self._since
        if self._shares < WINDOW_SHARES and seconds < WINDOW_SECONDS:
            return False
        wanted = self._hashes / max(seconds, 1e-3) * SPACING if self._shares else self.work / 4
        self._before = self._hashes, seconds
        self._since, self._shares, self._hashes = now, 0, 0
        if 1 / STEADY <= wanted / self.work <= STEADY:
            return False
        before = self.work
        self.work = int(min(max(wanted, LEAST_WORK), MOST_WORK))
        return self.work != before
