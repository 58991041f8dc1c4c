"""The index check of stores whose events are not needed for it: see the contract's ``IndexCheck``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class PlainCheck:
    """Runs ``faults`` in the thread that does the work. Without it there are no indexes to check."""

    def __init__(self, faults: Callable[[], list[str]] = list) -> None:
        self._look = faults
        self._found: list[str] = []

    def work(self) -> None:
        self._found = self._look()

    def show(self, batch: Any) -> None:
        pass

    def faults(self) -> list[str]:
        return self._found
