"""An anchor: one sealed block, written down where the event store's administrator cannot reach.

``origin height link seal``, one line; an anchor of the genesis may leave the seal out. Rows alone hold no
outside truth: only an anchor tells a chain from a perfect imitation of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from eventchain.errors import FormatError
from eventchain.formats.manifest import check_origin, decode_digest, encode_digest, parse_number


@dataclass(frozen=True, slots=True)
class Anchor:
    """link, seal: 32 raw bytes; seal is None only at height 0."""

    origin: str
    height: int
    link: bytes
    seal: bytes | None = None

    def __str__(self) -> str:
        seal = f" {encode_digest(self.seal)}" if self.seal is not None else ""
        return f"{self.origin} {self.height} {encode_digest(self.link)}{seal}"

    @classmethod
    def parse(cls, text: str) -> Anchor:
        """Raises FormatError for anything but one anchor."""
        fields = text.strip().split(" ")
        if len(fields) not in (3, 4):
            raise FormatError(
                f"{text.strip()[:80]!r} is not an anchor", hint="an anchor reads: origin height link seal"
            )
        anchor = cls(
            check_origin(fields[0]),
            parse_number(fields[1]),
            decode_digest(fields[2]),
            decode_digest(fields[3]) if len(fields) == 4 else None,
        )
        if anchor.seal is None and anchor.height:
            raise FormatError(
                "an anchor without a seal that is not of the genesis", hint="append the block's seal"
            )
        return anchor
