"""Puts what happened to events into findings: one by one, in runs, and never without end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from eventchain.formats.event import id_for_people
from eventchain.verify.findings import Finding, Report
from eventchain.verify.leaves import NOWHERE
from eventchain.verify.walk import Walk

NAMED = 1000
"""Findings of one kind that are named one by one; more are counted."""
RUN = 8
"""More neighbours than this with the same fate are one finding."""
NEVER = "was never sealed"
PUSHED = "was never sealed; the event that stood here was moved"
SALT = "cannot be proven: its salt was replaced"
ALTERED = "is not the event that was sealed"
MANY = {
    NEVER: "were never sealed",
    PUSHED: "were never sealed; the events that stood here were moved",
    SALT: "cannot be proven: their salts were replaced",
    ALTERED: "are not the events that were sealed",
}
"""What is said of one event, and of a run of them."""


class Naming:
    """Names the events of one branch in its report."""

    def __init__(self, walk: Walk, report: Report) -> None:
        self._walk = walk
        self._report = report
        self._counts: dict[str, int] = {}
        self._last_run: Finding | None = None
        self._last_run_ends = (NOWHERE, 0)  # its last leaf, and its place in the report

    def one(self, kind: str, message: str, leaf: int, events: Any, row: int) -> None:
        self._counts[kind] = self._counts.get(kind, 0) + 1
        if self._counts[kind] > NAMED:
            return
        position = events["position"][row].as_py()
        block = self._walk.block_of(leaf) if leaf != NOWHERE else self._walk.block_over(position)
        event_id, odd = id_for_people(_text(events["id"], row))
        if odd:
            message += f", and holds a value of a kind that does not belong there in {', '.join(odd)}"
        self._report.add(
            kind,
            message,
            origin=self._walk.origin,
            height=block.height if block else None,
            position=position,
            stream=_text(events["stream"], row),
            id=None if "id" in odd else event_id,
        )

    def many(
        self, kind: str, message: str, leaves: tuple[int, int], positions: tuple[int, int], count: int
    ) -> None:
        """One finding for a run of events, which goes on with the last one where they meet."""
        before, (end, number) = self._last_run, self._last_run_ends
        if (
            before is not None
            and (before.kind, before.message) == (kind, message)
            and 0 <= end == leaves[0] - 1
        ):
            merged = replace(before, last=positions[1], count=before.count + count)
            self._report.findings[number] = merged
        else:
            first = leaves[0]
            block = self._walk.block_of(first) if first != NOWHERE else self._walk.block_over(positions[0])
            number = len(self._report.findings)
            self._report.add(
                kind,
                message,
                origin=self._walk.origin,
                height=block.height if block else None,
                position=positions[0],
                last=positions[1] if count > 1 else None,
                count=count,
            )
        self._last_run, self._last_run_ends = self._report.findings[number], (leaves[1], number)

    def finish(self) -> None:
        """Say how many more there were of each kind."""
        for kind, count in self._counts.items():
            if count > NAMED:
                self._report.add(
                    kind, f"{count - NAMED} more of this kind", origin=self._walk.origin, count=count - NAMED
                )


def _text(column: Any, row: int) -> str:
    """A text value for people; an edited row may hold bytes that are not UTF-8."""
    raw = column[row].as_buffer()
    return bytes(raw).decode("utf-8", "replace") if raw is not None else ""
