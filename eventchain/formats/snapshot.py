"""A snapshot's event: how the state of a projection stands in the log of its branch.

The state is the event's data; its metadata says whose state it is, and of what.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields

from eventchain.errors import FormatError

TYPE = "eventchain.snapshot"
"""The event's type."""
MAX_SIZE = 2**53 - 1
"""The largest integer that every reader of JSON gets right (RFC 8785, section 3.2.2.3)."""


def event_id(parent: str, height: int) -> str:
    """The event's id, from the block whose state it is."""
    return f"{parent}/{height}"


@dataclass(frozen=True, slots=True)
class About:
    """What a snapshot's metadata says. filter: in its one spelling, empty for none; fingerprint: of the
    projection's code; projection: its name; size: leaves of the parent's log that the state covers."""

    filter: str
    fingerprint: str
    projection: str
    size: int

    def __bytes__(self) -> bytes:
        """RFC 8785 JSON. Raises FormatError for a size that JSON cannot hold."""
        if not 0 <= self.size <= MAX_SIZE:
            raise FormatError(f"a snapshot of {self.size} events: JSON numbers end at 2^53-1")
        # Of these types, Python's own spelling is RFC 8785's; the fields are in the order of their names.
        text = json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":"))
        try:
            return text.encode()
        except UnicodeEncodeError:
            raise FormatError(f"{text[:80]!r} holds what is no Unicode") from None

    @classmethod
    def parse(cls, raw: bytes | None) -> About:
        """Raises FormatError for anything that does not print back to the same bytes."""
        try:
            values = json.loads(raw or b"")
            about = cls(**values)
            kinds = {field.name: int if field.name == "size" else str for field in fields(cls)}
            if all(type(values[name]) is kind for name, kind in kinds.items()) and bytes(about) == raw:
                return about
        except (ValueError, TypeError, RecursionError):
            pass
        except FormatError as error:
            raise FormatError(f"a snapshot's metadata: {error.message}") from None
        raise FormatError(f"{(raw or b'')[:80]!r} is not a snapshot's metadata")
