"""Lawful erasures: what the records say was erased, and whether it is, and nothing else.

A record counts when it is sealed and nothing is wrong with it. An event that it covers has a commitment in
the place of its salt, and neither data nor metadata; its row stays where the event store is EventChain's own.
Of an event that was removed from the log there is nothing: :mod:`.incarnations` holds the old log against the
new one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from eventchain.contracts.chain_store import TILE, ChainStore
from eventchain.errors import FormatError
from eventchain.formats.erasure import TYPE, Erasure, branch_of
from eventchain.formats.manifest import base_origin, incarnation_of
from eventchain.verify.findings import Report
from eventchain.verify.leaves import NOWHERE, LeafTable, Window
from eventchain.verify.naming import RUN, Naming
from eventchain.verify.walk import Walk

UNRECORDED = "has a commitment in the place of its salt, and no sealed record says why"
PAYLOAD = "is erased by a record, and its payload is still in the event store"
SALTED = "is erased by a record, and its salt is still in the chain store"
MANY = {
    UNRECORDED: "have commitments in the place of their salts, and no sealed record says why",
    PAYLOAD: "are erased by a record, and their payloads are still in the event store",
    SALTED: "are erased by a record, and their salts are still in the chain store",
}
"""What is said of one event, and of a run of them."""
KINDS = {UNRECORDED: "erased", PAYLOAD: "unerased", SALTED: "unerased"}
NOBODY = -1


@dataclass(frozen=True, slots=True)
class Record:
    """``number``: its position on the branch; ``height``: of its block there; ``time``: microseconds."""

    number: int
    height: int
    time: int
    erasure: Erasure


@dataclass
class Records:
    """The sealed records of a chain in which nothing is wrong. Their ranges as columns, rising and apart from
    each other: firsts, lasts, owners (m,) int64, the owner being the record by its place in ``every``.
    ``damaged``: some may be missing here, which is a finding already."""

    origin: str = ""
    damaged: bool = False
    every: list[Record] = field(default_factory=list)
    removals: list[Record] = field(default_factory=list)
    done: list[Record] = field(default_factory=list)  # of the removals, those that were carried out
    claims: list[int] = field(default_factory=list)  # how many positions are each one's
    firsts: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    lasts: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    owners: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def removed(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the event at each position (n,) was removed from the log: (n,)."""
        found = np.zeros(len(positions), np.bool_)
        for record in self.done:
            found |= record.erasure.covers(positions)
        return found

    def of(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which record covers each position (n,): (n,), −1 for none."""
        if not len(self.firsts):
            return np.full(len(positions), NOBODY, np.int64)
        at = np.searchsorted(self.firsts, positions, side="right") - 1
        return np.where((at >= 0) & (positions <= self.lasts[at]), self.owners[at], NOBODY)


def read_records(store: ChainStore, trunk: Walk, walk: Walk | None, report: Report) -> Records:
    """The records on a branch that has been checked, if there is one; what is wrong with them is
    reported."""
    if walk is None:
        said = (block.said for block in trunk.blocks.spoken() if block.said)
        named = {child.origin for manifest in said for child in manifest.children}
        return Records(damaged=branch_of(trunk.origin) in named)
    known = [finding for finding in report.wrong if finding.origin == walk.origin]
    told = {finding.position for finding in known}
    if walk.blocks and (walk.parent is not trunk or walk.fork != 0) and report.clean:
        report.add(
            "branch", "does not fork off the genesis, as a branch of erasures does", origin=walk.origin
        )
    sealed = np.flatnonzero(walk.blocks.column("sealed"))
    size = int(walk.blocks.column("end")[sealed[-1]]) if len(sealed) else 0
    # A record that is not sealed where a block is broken may have been.
    damaged = bool(known) or (size < walk.size and not report.clean)
    records = Records(walk.origin, damaged)
    after: int | None = None
    while (batch := store.events(walk.branch.id, after, 1024)).num_rows:
        for row in range(batch.num_rows):
            number = after = batch["position"][row].as_py()
            block = walk.block_of(number) if 0 <= number < size else None
            if number in told or block is None or block.said is None or block.vague:
                continue  # a finding already, or not sealed
            try:
                erasure = _read(batch, row, walk.origin, block.said.built, trunk.origin)
            except FormatError as error:
                records.damaged = True
                if not known:  # else it may follow from that
                    where = {"origin": walk.origin, "height": block.height, "position": number}
                    report.add("branch", error.message, **where)
                continue
            time = batch["time"][row].as_py()
            every = records.every if erasure.removal is None else records.removals
            every.append(Record(number, block.height, time, erasure))
    now = incarnation_of(trunk.origin)
    records.done = [one for one in records.removals if incarnation_of(one.erasure.origin) < now]
    _lay_out(records, report)
    return records


def _read(batch: Any, row: int, origin: str, built: int, trunk: str) -> Erasure:
    """The record of one event. Raises FormatError where it is none of this branch, built then."""
    number = batch["position"][row].as_py()
    texts = [batch[name][row].as_buffer().to_pybytes() for name in ("stream", "id", "type")]
    numbers = [batch[name][row].as_py() for name in ("version", "time", "metadata")]
    wanted = [origin, f"{origin}/{number}", TYPE]
    if texts != [text.encode() for text in wanted] or numbers != [number, built * 10**6, None]:
        raise FormatError("its event is no erasure record as of when it was built")
    data = batch["data"][row]
    erasure = Erasure.parse(data.as_buffer().to_pybytes() if data.is_valid else b"")
    if base_origin(erasure.origin) != base_origin(trunk):
        raise FormatError(f"an erasure record of {erasure.origin}, which is another chain")
    return erasure


def _lay_out(records: Records, report: Report) -> None:
    """The ranges of all records as columns; one that an earlier record has is reported and left out."""
    ranges = sorted(
        (first, last, owner)
        for owner, record in enumerate(records.every)
        for first, last in record.erasure.ranges
    )
    kept: list[tuple[int, int, int]] = []
    for first, last, owner in ranges:
        if kept and first <= kept[-1][1]:
            record = records.every[max(owner, kept[-1][2])]
            report.add(
                "unerased",
                "the record names events that another one names",
                origin=records.origin,
                height=record.height,
                position=record.number,
            )
            continue
        kept.append((first, last, owner))
    table = np.array(kept, np.int64).reshape(-1, 3)
    records.firsts, records.lasts, records.owners = table.T
    records.claims = [0] * len(records.every)
    removed = [pair for record in records.done for pair in record.erasure.ranges]
    for first, last, owner in kept:
        records.claims[owner] += last - first + 1
        for start, end in removed:  # later: that is no longer in the log
            records.claims[owner] -= max(0, min(last, end) - max(first, start) + 1)


class ErasureCheck:
    """Holds the leaves of one branch against the records that may cover them.

    ``keeps_rows``: the event store is one whose rows stay.
    """

    def __init__(
        self, walk: Walk, table: LeafTable, records: Records, keeps_rows: bool, report: Report
    ) -> None:
        self._walk, self._table, self._records, self._report = walk, table, records, report
        self._keeps_rows = keeps_rows
        self._blind = False  # positions are missing, a finding
        self._counts = np.zeros(len(records.every), np.int64)  # of the leaves that each covers
        self._wrong: dict[str, list[tuple[NDArray[np.int64], Any]]] = {}

    def take(self, window: Window) -> None:
        """The next window, before its events."""
        self._blind |= bool((window.positions == NOWHERE).any())
        owners = self._records.of(window.positions)
        self._counts += np.bincount(owners[owners != NOBODY], minlength=len(self._counts))

    def concerns(self, window: Window) -> bool:
        """Whether there is anything to look at."""
        return window.salts.commitments is not None or bool(len(self._records.firsts))

    def match(
        self, window: Window, batch: Any, indices: NDArray[np.int64], fits: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """The events of leaves of the window, by their place in it, and which of them fit: (n,) each. Gives
        which are no suspects: those that fit, and those whose fault is told here."""
        recorded = self._records.of(window.positions[indices]) != NOBODY
        erased = window.salts.erased[indices]
        null = [batch.column(name).is_null().to_numpy(False) for name in ("data", "metadata")]
        payload = ~(null[0] & null[1])
        salted = recorded & ~erased & ~payload & window.salts.salts[indices].any(axis=1)
        leaves = window.first + indices
        for message, rows in (
            (UNRECORDED, fits & erased & ~recorded),
            (PAYLOAD, fits & recorded & payload),
            (SALTED, salted),
        ):
            if rows.any():
                at = np.flatnonzero(rows)
                names = batch.select(["position", "stream", "id"]).take(pa.array(at))
                self._wrong.setdefault(message, []).append((leaves[at], names))
        self._report.erased += int((fits & recorded & erased & ~payload).sum())
        return np.asarray(fits | salted, np.bool_)

    def excused(self, window: Window, seen: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Leaves of the window without an event, (n,), whose rows an erasure took as well."""
        gone = ~seen & (self._records.of(window.positions) != NOBODY) & window.salts.erased
        gone &= not self._keeps_rows
        self._report.erased += int(gone.sum())
        return np.asarray(gone, np.bool_)

    def finish(self) -> None:
        self._tell_wrong()
        self._tell_unfinished()
        for owner, record in enumerate(self._records.every):
            erasure = record.erasure
            lacking = self._records.claims[owner] - int(self._counts[owner])
            if lacking and not self._blind and not self._table.doubted and not self._table.cut:
                self._tell_record(
                    "unerased", record, f"the record names {lacking} positions that the log does not have"
                )
            self._tell_record(
                "erasure",
                record,
                f"erased by {erasure.actor}: {erasure.reason}",
                count=erasure.count,
                notice=True,
            )
        for record in self._records.removals:
            erasure = record.erasure
            if record in self._records.done:
                done = f"removed by {erasure.actor}: {erasure.reason}"
                self._tell_record("erasure", record, done, count=erasure.count, notice=True)
            else:
                left = "the chain still has what the record removed"
                self._tell_record("unerased", record, left, count=erasure.count)

    def _tell_record(self, kind: str, record: Record, message: str, **more: Any) -> None:
        where = {"origin": self._records.origin, "height": record.height, "position": record.number}
        self._report.add(kind, message, **where, **more)

    def _tell_wrong(self) -> None:
        naming = Naming(self._walk, self._report)
        for message, parts in self._wrong.items():
            leaves = np.concatenate([part for part, _ in parts])
            names = pa.Table.from_batches([batch for _, batch in parts]).combine_chunks().to_batches()[0]
            order = np.argsort(leaves)
            if message is UNRECORDED and self._records.damaged:  # or each would follow from one finding
                self._report.add(
                    "erased",
                    "erased as it seems; the records that could say why are damaged",
                    origin=self._walk.origin,
                    position=names["position"][int(order[0])].as_py(),
                    last=names["position"][int(order[-1])].as_py(),
                    count=len(order),
                )
                continue
            for run in np.split(order, np.flatnonzero(np.diff(leaves[order]) != 1) + 1):
                if len(run) <= RUN:
                    for row in run.tolist():
                        naming.one(KINDS[message], message, int(leaves[row]), names, row)
                    continue
                ends = (int(leaves[run[0]]), int(leaves[run[-1]]))
                positions = (names["position"][int(run[0])].as_py(), names["position"][int(run[-1])].as_py())
                naming.many(KINDS[message], MANY[message], ends, positions, len(run))
        naming.finish()

    def _tell_unfinished(self) -> None:
        """Pieces that say that an erasure in them is not complete."""
        for index in sorted(self._table.unfinished):
            end = min(self._walk.size, (index + 1) * TILE)
            _, positions, _ = self._table.beside(index * TILE, end)
            known = positions != NOWHERE
            block = self._walk.block_of(index * TILE)
            if (self._records.of(positions[known]) != NOBODY).any():
                kind = "unerased"
                message = f"an erasure in piece {index} is not complete: what it destroyed may be in files"
            else:
                kind = "piece"
                message = f"piece {index} says that an erasure is not complete, and no record knows of one"
            self._report.add(kind, message, origin=self._walk.origin, height=block.height if block else None)
