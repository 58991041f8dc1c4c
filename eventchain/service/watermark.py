"""How far a chain is sealed, as it is announced."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from typing import Any

from eventchain.chain.sealing import Sealer


@dataclass(frozen=True, slots=True)
class Watermark:
    """Every event of ``origin``'s log up to ``size`` of them is sealed: in store order those up to
    ``position`` (None while there is none). ``height`` and ``seal`` are of the newest sealed block: with its
    link they make an anchor. ``time`` is unix seconds, of the announcement."""

    origin: str
    height: int
    seal: bytes
    position: int | None
    size: int
    time: int

    @classmethod
    def of(cls, sealer: Sealer, now: float) -> Watermark | None:
        """The trunk's watermark now, None where no block is sealed. What it names is durable."""
        trunk = sealer.builder.trunk
        if trunk.sealed is None:
            return None
        reached = sealer.sealed
        return cls(
            trunk.branch.origin,
            trunk.sealed.height,
            trunk.sealed.seal,
            reached.position,
            reached.size,
            int(now),
        )

    def as_dict(self) -> dict[str, Any]:
        """JSON values; the position as a number, which is exact in JSON readers up to 2^53."""
        return {
            "origin": self.origin,
            "height": self.height,
            "seal": b64encode(self.seal).decode("ascii"),
            "position": self.position,
            "size": self.size,
            "time": self.time,
        }
