"""Paths to a value of an event, as filters write them: ``type``, ``data.case.channel``, ``data["a:b"]``."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from eventchain.errors import ProjectionError

COLUMNS = ("stream", "type", "id")
PAYLOADS = ("data", "metadata")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MEMBER = re.compile(r'\.([A-Za-z_][A-Za-z0-9_]*)|\[("(?:[^"\\]|\\.)*")\]')


@dataclass(frozen=True, slots=True)
class Path:
    """column: of the event; members: from the payload's object inwards, none for a column that is text."""

    column: str
    members: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Path:
        """Raises ProjectionError."""
        root = _NAME.match(text)
        column, at, members = (root[0], root.end(), []) if root else ("", 0, [])
        while match := _MEMBER.match(text, at):
            try:
                members.append(match[1] or json.loads(match[2]))
            except ValueError:
                break
            at = match.end()
        if at != len(text) or not ((column in COLUMNS and not members) or (column in PAYLOADS and members)):
            raise ProjectionError(
                f"{text!r} is not a path into an event",
                hint='as stream, type, data.amount, data["org:group"].name or metadata.user',
            )
        return cls(column, tuple(members))

    def __str__(self) -> str:
        parts = (f".{name}" if _NAME.fullmatch(name) else f"[{json.dumps(name)}]" for name in self.members)
        return self.column + "".join(parts)
