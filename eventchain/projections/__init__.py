"""Projections: folds over sealed events. They know event batches and nothing of chains, stores or mining.

A projection derives from ``Projection`` and is given one ``Event`` after the other. Importing this package
loads nothing heavy: the names are looked up when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eventchain.projections.event import Event
    from eventchain.projections.projection import Projection

__all__ = ["Event", "Projection"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from importlib import import_module

        return getattr(import_module(f"eventchain.projections.{name.lower()}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
