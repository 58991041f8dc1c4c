"""What the service shows of itself: its metrics and its health."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

from eventchain.service.pages import served_pages
from eventchain.service.state import ROLES, State


class _Collected:
    """The state as metric families, made when they are asked for."""

    def __init__(self, state: State) -> None:
        self._state = state

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        state = self._state
        with state.lock:
            mark = state.watermark
            gauges = {
                "backlog_events": (
                    "Events that are not sealed (gaps in positions count)",
                    state.backlog.events,
                ),
                "backlog_seconds": ("Since when the oldest of them is there", state.backlog.seconds),
                "arrival_events_per_second": ("Events arriving, over five minutes", state.backlog.arrival),
                "capacity_events_per_second": ("Events that the devices can seal", state.capacity),
                "falling_behind_events_per_second": ("Arrival above capacity", state.falling_behind),
                "fence_age_seconds": ("For how long open transactions hold back sealing", state.fence),
            }
            counters = {
                "events_sealed": ("Events sealed by this process", state.events_sealed),
                "blocks_sealed": ("Blocks sealed by this process", state.blocks_sealed),
                "snapshots_sealed": ("Snapshots sealed by this process", state.snapshots_sealed),
                "projection_errors": (
                    "Projections that failed and get no more snapshots",
                    state.projection_errors,
                ),
                "hashes": ("Hashes tried by this process", state.hashes),
                "store_errors": ("Failures of the event store or the chain store", state.store_errors),
            }
            rates, errors, role = dict(state.rates), dict(state.hardware_errors), state.role
        if mark is not None:
            gauges["sealed_height"] = ("The newest sealed block", mark.height)
            if mark.position is not None:
                gauges["sealed_position"] = ("The highest sealed position", mark.position)
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(f"eventchain_{name}", text, value)
        for name, (text, value) in counters.items():
            yield CounterMetricFamily(f"eventchain_{name}", text, value)
        speed = GaugeMetricFamily("eventchain_device_mhs", "MH/s of a device", labels=["device"])
        for device, rate in rates.items():
            speed.add_metric([device], rate / 1e6)
        yield speed
        faults = CounterMetricFamily(
            "eventchain_hardware_errors", "Times that a device failed or was wrong", labels=["device"]
        )
        for device, count in errors.items():
            faults.add_metric([device], count)
        yield faults
        roles = GaugeMetricFamily("eventchain_role", "1 for what the service is doing", labels=["role"])
        for one in ROLES:
            roles.add_metric([one], float(one == role))
        yield roles


def served(state: State, listen: str) -> AbstractContextManager[int]:
    """See :func:`served_pages`."""

    def health() -> tuple[bool, dict[str, Any]]:
        with state.lock:
            values = {"healthy": state.healthy, "role": state.role, "trouble": state.trouble}
            return state.healthy, values | {
                "watermark": state.watermark.as_dict() if state.watermark else None
            }

    return served_pages(_Collected(state), health, listen)
