"""The one error family. Foreign exceptions become one of these at the edge where they enter."""

from __future__ import annotations


class EventChainError(Exception):
    """Anything that this package refuses to do or cannot do.

    ``hint`` says what the reader can do about it; the command line prints it under the message.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        between = "\n" if "\n" in self.message else " "  # the last line may point into the one above it
        return f"{self.message}{between}({self.hint})" if self.hint else self.message


class FormatError(EventChainError):
    """Bytes that are not what the format says: a manifest, header, anchor, event or import line."""


class ConfigError(EventChainError):
    """The configuration file, an option or a URL is wrong."""


class StoreError(EventChainError):
    """An event store or a chain store cannot be opened, read or written."""


class ConflictError(StoreError):
    """Optimistic concurrency: the stream is not at the expected version."""


class LockedError(StoreError):
    """Another writer holds the chain store."""


class PolicyError(EventChainError):
    """A block that the chain's policy in force does not allow."""


class NotSealedError(EventChainError):
    """An event was not sealed in the time that its application was ready to wait."""


class BackendError(EventChainError):
    """A mining backend or device cannot be used, or gave wrong answers."""


class ProjectionError(EventChainError):
    """A projection or a filter that cannot be used, or that failed at an event."""
