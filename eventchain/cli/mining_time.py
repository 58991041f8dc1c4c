"""How long the mining takes that a plan asks for, on each backend that is usable here."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

from eventchain.cli.common import about, note

if TYPE_CHECKING:
    from eventchain.erasure.plan import Plan
    from eventchain.erasure.remove import RemovalPlan

MEASURED = 0.3
"""Seconds that each device is measured for a plan."""


def say_seconds(plan: Plan | RemovalPlan) -> None:
    for name, value in expected_seconds(plan).items():
        note(f"mining on {name}: {about(value)}")


def expected_seconds(plan: Plan | RemovalPlan) -> dict[str, float]:
    """By the backend's name."""
    from math import log2

    if not plan.to_mine:
        return {}
    rates = _rates(log2(max(1, plan.hashes / plan.to_mine)))
    return {name: plan.hashes / rate for name, rate in rates.items()}


@cache
def _rates(difficulty: float) -> dict[str, float]:
    """Hashes a second at a difficulty, in bits. Measured once for all plans of a command."""
    from eventchain.errors import BackendError, ConfigError
    from eventchain.mining.backends import available, choose, measure_all

    found = {}
    for name in available():
        with suppress(BackendError, ConfigError):
            found[name] = measure_all(choose(name, None).devices, MEASURED, difficulty=difficulty)
    return found
