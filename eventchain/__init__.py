"""Seals an event store's events into a private proof-of-work chain.

    import eventchain

    with eventchain.open_chain("eventchain.toml") as chain:
        with chain.sealing("cpu") as sealer:
            sealer.seal_backlog(1024)
        print(chain.verify().verdict)

Importing this package loads nothing heavy: the names below are looked up when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eventchain.assembly import Chain, open_chain
    from eventchain.config import Config

__all__ = ["Chain", "Config", "open_chain"]

_HOMES = {
    "Chain": "eventchain.assembly",
    "Config": "eventchain.config",
    "open_chain": "eventchain.assembly",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("eventchain")
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'eventchain' has no attribute {name!r}")
