"""From a URL to an event store."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote

from eventchain.errors import ConfigError
from eventchain.urls import without_password

GROUP = "eventchain.eventstores"


class FileURL(NamedTuple):
    path: str
    options: dict[str, str]


def open_event_store(url: str, *, create: bool = False) -> Any:
    """The event store of a URL, an :class:`~eventchain.contracts.event_store.EventStore`.

    ``create`` makes a store that does not exist yet, where that is ours to do. Raises ConfigError for a URL
    that no installed adapter knows, StoreError when the store cannot be opened.
    """
    scheme, colon, _ = url.partition("://")
    adapters = {entry.name: entry for entry in entry_points(group=GROUP)}
    if not colon or scheme not in adapters:
        known = ", ".join(f"{name}://" for name in sorted(adapters)) or "none is installed"
        shown = without_password(url)
        raise ConfigError(f"{shown!r} is not the URL of a known event store", hint=f"known: {known}")
    try:
        adapter = adapters[scheme].load()
    except ImportError as error:
        raise ConfigError(f"the adapter for {scheme}:// cannot be loaded: {error}") from error
    if not create:
        return adapter(url)
    if not getattr(adapter, "creatable", False):
        raise ConfigError(f"{scheme}:// reads a store that its own application creates and writes")
    return adapter(url, create=True)


def parse_file_url(url: str, *known: str) -> FileURL:
    """``scheme:///relative/path``, ``scheme:////absolute/path``, with percent escapes and the ``known``
    options after ``?``. Raises ConfigError."""
    rest = url.partition("://")[2]
    location, _, query = rest.partition("?")
    if not location.startswith("/") or len(location) == 1:
        raise ConfigError(
            f"{url!r} names no file",
            hint="three slashes before a relative path, four before an absolute one: sqlite:///events.db",
        )
    path = unquote(location[1:], errors="surrogateescape")
    if "\0" in path:
        raise ConfigError(f"the path in {url!r} has a NUL character")
    try:
        options = dict(parse_qsl(query, strict_parsing=True, keep_blank_values=True)) if query else {}
    except ValueError as error:
        raise ConfigError(f"the options of {url!r} cannot be read: {error}") from error
    for name in options.keys() - set(known):
        raise ConfigError(
            f"{url!r} has an unknown option {name!r}", hint=f"known: {', '.join(known) or 'none'}"
        )
    return FileURL(path, options)
