"""Events from and to files: CloudEvents 1.0 JSON Lines and Parquet."""

from __future__ import annotations

from eventchain.interchange.files import read_events, write_events

__all__ = ["read_events", "write_events"]
