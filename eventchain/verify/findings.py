"""What verification says: findings (something is wrong) and notices (something to know)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from eventchain.formats.anchor import Anchor

KINDS = {
    "altered": "an event is not the one that was sealed",
    "missing": "a sealed event is not in its store",
    "inserted": "an event stands below the sealed position and was never sealed",
    "reordered": "a sealed event stands at another position",
    "shifted": "a run of sealed events stands at positions moved by a constant",
    "index": "queries of the event store give something else than its rows",
    "erased": "an event's payload or salt was destroyed, and no sealed record says so",
    "unerased": "a record says that an event was erased, and it is not gone",
    "erasure": "events were lawfully erased or removed, as a record says",
    "archive": "what is kept of a replaced part of the log is not what was replaced lawfully",
    "unproven": "of what a removal replaced nothing is kept, so that nothing can be proven of it",
    "salt-replaced": "a salt or position beside a leaf was replaced; the event cannot be proven",
    "hole": "a block that must be mined is not",
    "unsealed-tail": "the newest blocks are built and not mined yet",
    "link": "a block does not follow the one before it",
    "header": "a header is not what its block says",
    "work": "a header does not meet its target",
    "time": "a block's time is impossible",
    "seal": "a named seal is not the block's: a solution was replaced",
    "policy": "a block breaks the policy in force",
    "manifest": "a manifest is broken or says what cannot be",
    "block": "a block is missing",
    "tile": "a stored tile is not what the log says",
    "piece": "stored salts or positions are missing or malformed",
    "branch": "a branch is dropped, unknown or not where it was",
    "anchor": "the chain does not contain the anchor",
    "stray": "a row of the chain store belongs to nothing",
    "backlog": "events that are not in the chain yet",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """``height`` is the block's, ``last`` the last position of a run of ``count``. A notice is not counted
    against the chain."""

    kind: str
    message: str
    origin: str = ""
    height: int | None = None
    position: int | None = None
    last: int | None = None
    count: int = 1
    stream: str | None = None
    id: str | None = None
    notice: bool = False

    def as_dict(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value not in (None, "")}


@dataclass
class Report:
    """Everything that one verification found. ``erased``: how many of the events lawfully are; ``anchors``:
    how many were given and met; ``anchored_height``: the trunk's highest block that they hold; ``newest``:
    anchors of each branch's newest sealed block, the trunk's first, to be kept outside both stores (none
    where anything is wrong).
    """

    findings: list[Finding] = field(default_factory=list)
    blocks: int = 0
    sealed_blocks: int = 0
    events: int = 0
    erased: int = 0
    anchors: int = 0
    anchored_height: int | None = None
    newest: list[Anchor] = field(default_factory=list)

    def add(self, kind: str, message: str, **where: Any) -> None:
        assert kind in KINDS, kind
        self.findings.append(Finding(kind, message, **where))

    def sort(self, origins: Sequence[str]) -> None:
        """By branch, block and position; what concerns no block last."""
        order = {origin: number for number, origin in enumerate(origins)}
        nowhere = 2**63
        self.findings.sort(
            key=lambda finding: (
                order.get(finding.origin, len(order)),
                nowhere if finding.height is None else finding.height,
                nowhere if finding.position is None else finding.position,
            )
        )

    @property
    def wrong(self) -> list[Finding]:
        return [finding for finding in self.findings if not finding.notice]

    @property
    def notices(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.notice]

    @property
    def clean(self) -> bool:
        return not self.wrong

    @property
    def verdict(self) -> str:
        if not self.clean:
            return "findings"
        return "clean" if self.anchors else "self-consistent only"
