"""How far sealing is behind the event store, in events and in seconds, and how fast events arrive.

Only positions are looked at: whatever the store, whatever the events say of their own time.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

SAMPLE_SECONDS = 0.25
WINDOW_SECONDS = 300.0
"""Over how long the arrival of events is measured."""


MAX_WAITING = 4096
"""Samples of what waits that are kept."""


@dataclass(frozen=True, slots=True)
class Sample:
    time: float
    head: int


class Backlog:
    """Fed with the store's head; times are of one monotonic clock, in seconds.

    events: positions above the sealed one, which are the events that wait, or more where positions have gaps
    seconds: since when the oldest of these has been seen
    """

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque()
        self._waiting: deque[Sample] = deque()  # when each head that is not sealed yet was first seen
        self._sealed = -1
        self._now = 0.0

    def observe(self, now: float, head: int | None, sealed: int | None) -> None:
        self._now, self._sealed = now, -1 if sealed is None else sealed
        if head is not None:
            self._take(now, head)
        while self._waiting and self._waiting[0].head <= self._sealed:
            self._waiting.popleft()
        if head is None:
            return
        if not self._samples or now >= self._samples[-1].time + SAMPLE_SECONDS:
            self._samples.append(Sample(now, head))
        while len(self._samples) > 2 and self._samples[0].time < now - WINDOW_SECONDS:
            self._samples.popleft()

    def _take(self, now: float, head: int) -> None:
        if head <= max(self._waiting[-1].head if self._waiting else -1, self._sealed):
            return
        since = now
        if self._waiting and now < self._waiting[-1].time + SAMPLE_SECONDS:
            since = self._waiting.pop().time  # few samples, and never a younger age than the true one
        self._waiting.append(Sample(since, head))
        if len(self._waiting) > MAX_WAITING:  # sealing is far behind: older ages in bigger steps
            rows = list(self._waiting)
            self._waiting = deque(
                Sample(rows[i].time, rows[min(i + 1, len(rows) - 1)].head) for i in range(0, len(rows), 2)
            )

    @property
    def events(self) -> int:
        return max(0, self._waiting[-1].head - self._sealed) if self._waiting else 0

    @property
    def seconds(self) -> float:
        return self._now - self._waiting[0].time if self._waiting else 0.0

    @property
    def arrival(self) -> float:
        """Events a second over the last minutes, as far as positions have no gaps."""
        if len(self._samples) < 2:
            return 0.0
        first, last = self._samples[0], self._samples[-1]
        return max(0, last.head - first.head) / max(last.time - first.time, SAMPLE_SECONDS)
