"""Event stores: where the events are that the chain seals. One file a store, found by its URL's scheme."""

from __future__ import annotations

from eventchain.eventstores.open import open_event_store

__all__ = ["open_event_store"]
