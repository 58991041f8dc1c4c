"""Verification: re-reads everything, trusts nothing, names what is wrong.

It shares the formats with the builder and none of its logic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from eventchain.contracts.chain_store import Blocks, Branch, ChainStore
from eventchain.contracts.event_store import EventStore, IndexCheck
from eventchain.errors import FormatError
from eventchain.formats.anchor import Anchor
from eventchain.formats.erasure import branch_of
from eventchain.formats.manifest import Manifest, base_origin
from eventchain.formats.policy import other_source
from eventchain.verify.blocks import walk_branch
from eventchain.verify.erasures import Records, read_records
from eventchain.verify.events import check_branch, check_store
from eventchain.verify.findings import Finding, Report
from eventchain.verify.incarnations import Archives, read_archives
from eventchain.verify.tree import check_anchors, check_children, check_snapshots
from eventchain.verify.walk import Walk

__all__ = ["Finding", "Report", "verify"]


def verify(
    store: ChainStore,
    events: EventStore,
    anchors: Sequence[Anchor] = (),
    *,
    now: float,
    progress: Callable[[int], None] = lambda leaves: None,
) -> Report:
    """Check a whole chain store against its event store and the anchors.

    ``now`` is the verifier's clock in unix seconds; ``progress`` is told of every run of leaves checked.
    Raises StoreError where a store cannot be read at all.
    """
    indexes = events.index_check()
    with ThreadPoolExecutor(1) as beside:
        work = beside.submit(indexes.work)
        with store.snapshot():  # a mine may be going on
            return _verify(store, events, anchors, now, progress, indexes, work)


def _verify(
    store: ChainStore,
    events: EventStore,
    anchors: Sequence[Anchor],
    now: float,
    progress: Callable[[int], None],
    indexes: IndexCheck,
    work: Future[None],
) -> Report:
    report = Report()
    walks: dict[str, Walk] = {}
    for branch in _parents_first(store, report):
        walks[branch.origin] = walk_branch(store, branch, walks, report, now)
    trunk = next((walk for walk in walks.values() if walk.trunk), None)
    if not walks:
        report.add("branch", "the chain store holds no chain")
    if trunk is not None:
        policy = trunk.blocks[0].said.policy if trunk.blocks[0].said else None
        if policy is not None and policy.source != events.source:
            report.add(
                "policy",
                other_source(policy.source, events.source),
                origin=trunk.origin,
                height=0,
            )
        gone = check_children(walks, report)
    records, erasures, archives = Records(), None, Archives()
    if trunk is not None:
        erasures = walks.get(branch_of(trunk.origin))
        if erasures is not None:  # before the events that its records are about
            check_branch(store, erasures, report, progress)
        records = read_records(store, trunk, erasures, report)
        archives = read_archives(store, trunk, walks, records, report)
        report.findings += [finding for origin, finding in gone if origin not in archives.closed]
    for walk in walks.values():
        if walk is trunk:
            ours = hasattr(events, "erase")
            check_store(store, walk, events.read, report, progress, indexes.show, records, ours)
            _no_events_of(store, walk, report)
        elif walk is not erasures:
            check_branch(store, walk, report, progress)
            check_snapshots(store, walk, report)
    work.result()
    if found := indexes.faults():
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        report.add("index", f"the application may read what is not there: {found[0]}{more}", count=len(found))
    _add_strays(store, report)
    check_anchors(walks, anchors, archives, report)
    report.sort(list(walks))
    report.blocks = sum(len(walk.blocks) for walk in walks.values())
    report.sealed_blocks = sum(int(walk.blocks.column("sealed").sum()) for walk in walks.values())
    if report.clean:
        report.newest = [anchor for walk in walks.values() if (anchor := _newest(walk)) is not None]
    return report


def _no_events_of(store: ChainStore, trunk: Walk, report: Report) -> None:
    """The trunk's events are in the event store, and none of them in the chain store."""
    if stray := store.events(trunk.branch.id, None, 1000).num_rows:
        more = " or more" if stray == 1000 else ""
        report.add(
            "stray",
            f"branch_events: {stray}{more} rows of the trunk, whose events are elsewhere",
            count=stray,
        )


def _newest(walk: Walk) -> Anchor | None:
    sealed = np.flatnonzero(walk.blocks.column("sealed"))
    if not len(sealed):
        return None
    block = walk.blocks[int(sealed[-1])]
    assert block.said is not None
    return Anchor(block.said.origin, block.height, block.link, block.seal)


def _parents_first(store: ChainStore, report: Report) -> list[Branch]:
    """All branches, each after the one that it forks from; those that fork in a circle come last."""
    waiting: dict[str, tuple[Branch, str | None]] = {}
    for row in store.branches():
        said = [_said(store.blocks(row.id, 0, 1)), _said(store.last_block(row.id))]
        branch = row
        ends = {base_origin(one.origin) for one in said if one}
        if said[0] and said[1] and len(ends) == 1 and said[1].origin != row.origin:
            report.add("branch", f"its row calls it {row.origin[:80]!r}", origin=said[1].origin)
            branch = Branch(row.id, said[1].origin)  # its own blocks know better
        if base_origin(branch.origin) in map(base_origin, waiting):
            report.add("branch", "two branches of one origin", origin=branch.origin)
            continue
        fork = said[0].fork if said[0] else None
        waiting[branch.origin] = branch, base_origin(fork.origin) if fork else None
    ordered: list[Branch] = []
    while waiting:
        known = set(map(base_origin, waiting))
        ready = [origin for origin, (_, parent) in waiting.items() if parent not in known]
        for origin in ready or list(waiting):
            ordered.append(waiting.pop(origin)[0])
    return ordered


def _add_strays(store: ChainStore, report: Report) -> None:
    """One finding for all rows with the same reason."""
    alike: dict[str, list[str]] = {}
    for stray in store.strays():
        alike.setdefault(stray.rpartition(":")[2], []).append(stray)
    for strays in alike.values():
        more = f", and {len(strays) - 1} more like it" if len(strays) > 1 else ""
        report.add("stray", strays[0] + more, count=len(strays))


def _said(block: Blocks) -> Manifest | None:
    try:
        return Manifest.parse(block.manifests[0]) if len(block) else None
    except FormatError:
        return None  # a finding of the walk
