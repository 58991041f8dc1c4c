"""Waiting for a state: the machine may be busy, or stand still for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

PATIENCE = 60.0
"""Seconds, for what takes one or two where nothing else runs."""


def wait_for(condition: Callable[[], Any], every: float = 0.01) -> None:
    """Until it holds, looking every so many seconds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(every)
