"""The chain tree: that every child branch lies under its parent's work, and anchors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from eventchain.contracts.chain_store import ChainStore
from eventchain.errors import FormatError
from eventchain.formats.anchor import Anchor
from eventchain.formats.manifest import Pointer, base_origin, incarnation_of
from eventchain.formats.snapshot import TYPE, About, event_id
from eventchain.verify.findings import Finding, Report
from eventchain.verify.incarnations import Archives
from eventchain.verify.walk import Block, Walk, find_walk

SNAPSHOTS, SNAPSHOT_BYTES = 16, 64 * 2**20
"""Snapshots read at first; then as many as make up so many bytes."""


def check_children(walks: dict[str, Walk], report: Report) -> list[tuple[str, Finding]]:
    """Every ``child`` line against the branch that it names, and every child block against the line that
    must name it. Gives, and does not report, the origin and a finding of each named branch that is gone: it
    may have been closed lawfully."""
    gone: list[tuple[str, Finding]] = []
    for parent in walks.values():
        named: dict[str, list[tuple[int, Pointer]]] = {}
        for block in parent.blocks.spoken():
            for pointer in block.said.children if block.said and not block.broken else ():
                named.setdefault(pointer.origin, []).append((block.height, pointer))
        for origin, pointers in named.items():
            child = walks.get(origin)
            if child is not None:
                _check_named(parent, origin, child, pointers, report)
                continue
            height, pointer = pointers[0]
            message = f"the branch {origin} is gone: the block names its block {pointer.height}"
            gone.append((origin, Finding("branch", message, parent.origin, height)))
        for child in walks.values():
            if child.parent is parent:
                _check_all_named(parent, child, named.get(child.origin, []), report)
    return gone


def _check_named(
    parent: Walk, origin: str, child: Walk, pointers: list[tuple[int, Pointer]], report: Report
) -> None:
    """The first line that is not met; the others follow from it."""
    if not child.blocks or child.headless:
        return  # a finding already
    if child.parent is not parent:
        report.add(
            "branch",
            f"the branch {origin} no longer forks off {parent.origin}",
            origin=origin,
            height=child.blocks[0].height,
        )
        return
    newest = -1
    for height, pointer in pointers:
        at = child.own(pointer.height)
        if child.gone(pointer.height) or (at is not None and at.broken):
            continue  # a finding already
        if at is None or at.link != pointer.link:
            what = "is gone" if at is None else "is another now"
            report.add(
                "branch",
                f"block {pointer.height}, which block {height} of {parent.origin} names, {what}",
                origin=origin,
                height=pointer.height,
            )
            return
        if pointer.height <= newest:
            report.add(
                "manifest", f"names {origin} {pointer.height} again", origin=parent.origin, height=height
            )
            return
        by = parent.own(height)
        said = by.said if by else None
        if at.said is not None and said is not None and at.said.built > said.built:
            report.add(
                "time", f"names {origin} {pointer.height}, built later", origin=parent.origin, height=height
            )
            return
        newest = pointer.height


def _check_all_named(parent: Walk, child: Walk, pointers: list[tuple[int, Pointer]], report: Report) -> None:
    """Every child block that was built before a parent's block is named by then."""
    read = child.blocks.column("read")
    built, heights = child.blocks.column("built")[read], child.blocks.column("height")[read]
    if (np.diff(built) < 0).any():
        return  # a finding already
    over = parent.blocks.column("height")
    # From a block on that is a finding already, whom the parent named is not known.
    known = parent.blocks.column("read") & ~parent.blocks.column("broken")
    known &= np.diff(over, prepend=parent.fork) <= 1
    named = np.full(len(over), -1, np.int64)
    for height, pointer in pointers:
        named[parent.blocks.row_of(height)] = pointer.height
    due = np.searchsorted(built, parent.blocks.column("built"), side="left")
    newest = np.concatenate([[-1], heights])[due]  # due to be named by each block of the parent
    late = (newest > np.maximum.accumulate(named)) & (over > child.fork) & (due > 0)
    at = np.flatnonzero(late | ~known)[:1]
    if len(at) and known[at[0]]:
        height = int(newest[at[0]])
        report.add(
            "branch",
            f"block {height} was built before block {int(over[at[0]])} of {parent.origin}, "
            "which does not name it",
            origin=child.origin,
            height=height,
        )


def check_snapshots(store: ChainStore, walk: Walk, report: Report) -> None:
    """What a snapshot's event says of itself against the block that it pins."""
    after: int | None = None
    pins = {
        block.first: block
        for block in walk.blocks.spoken()
        if block.said is not None and block.said.pin is not None and not block.vague
    }
    told = {finding.position for finding in report.findings if finding.origin == walk.origin}
    rows = SNAPSHOTS
    while pins:
        batch: Any = store.events(walk.branch.id, after, rows)
        if not batch.num_rows:
            return
        for row in range(batch.num_rows):
            index = after = batch["position"][row].as_py()
            block = pins.get(index)
            if block is None or index in told:
                continue
            if wrong := _snapshot_fault(walk, block, batch, row):
                report.add("branch", wrong, origin=walk.origin, height=block.height, position=index)
        rows = max(1, min(1024, SNAPSHOT_BYTES * batch.num_rows // max(1, batch.nbytes)))


def _snapshot_fault(walk: Walk, block: Block, batch: Any, row: int) -> str | None:
    """What is wrong with a snapshot's event, in words."""
    assert block.said is not None
    assert block.said.pin is not None
    pin = block.said.pin
    if (
        batch["stream"][row].as_buffer().to_pybytes() != walk.origin.encode()
        or batch["version"][row].as_py() != pin.height
        or batch["id"][row].as_buffer().to_pybytes() != event_id(pin.origin, pin.height).encode()
        or batch["type"][row].as_buffer().to_pybytes() != TYPE.encode()
        or batch["time"][row].as_py() != block.said.built * 10**6
    ):
        return f"its event is no snapshot of {pin.origin} {pin.height} as of when it was built"
    try:
        about = About.parse(batch["metadata"][row].as_py())
    except FormatError as error:
        return f"its event is no snapshot: {error.message}"
    if about.projection != base_origin(walk.origin).rpartition("/")[2]:
        return f"its event is a snapshot of the projection {about.projection[:80]!r}"
    parent = walk.parent
    pinned = parent.own(pin.height) if parent is not None else None
    if pinned is not None and not pinned.vague and not pinned.broken and pinned.end != about.size:
        return f"its event claims to cover {about.size} events; the block that it pins ends at {pinned.end}"
    return None


def check_anchors(
    walks: dict[str, Walk], anchors: Sequence[Anchor], archives: Archives, report: Report
) -> None:
    """Every anchor against the chain. Between two chains of one origin the anchor decides, not the work."""
    gone = []
    newest: dict[str, int] = {}  # the newest incarnation of each branch of which an anchor was met
    for anchor in anchors:
        walk = find_walk(walks, anchor.origin)
        block = walk.own(anchor.height) if walk is not None else None
        said = block.said if block is not None else None
        if walk is None or (said.origin if said else walk.origin) != anchor.origin:
            gone.append(anchor)  # the branch, or its incarnation
        elif _meets(walk, block, anchor, report):
            met = max(newest.get(base_origin(anchor.origin), 0), incarnation_of(anchor.origin))
            newest[base_origin(anchor.origin)] = met
            height = anchor.height
            while walk.parent is not None:  # its links hold the parent's blocks up to the fork
                walk, height = walk.parent, walk.fork
            _met(height, report)
    for anchor in gone:
        _check_replaced(anchor, archives, newest.get(base_origin(anchor.origin), 0), report)


def _met(height: int, report: Report) -> None:
    report.anchors += 1
    report.anchored_height = max(height, report.anchored_height or 0)


def _meets(walk: Walk, block: Block | None, anchor: Anchor, report: Report) -> bool:
    tell = partial(report.add, "anchor", origin=anchor.origin, height=anchor.height)
    if not walk.blocks:
        tell(f"there is no branch {anchor.origin}")
    elif block is None:
        tell(f"the anchored block {anchor.height} is gone: the chain ends at {walk.blocks[-1].height}")
    elif block.link != anchor.link:
        tell(f"block {anchor.height} is not the anchored one: the chain was rewritten at or below it")
    elif block.seal is None:
        tell(f"the anchored block {anchor.height} was sealed and is no longer")
    elif anchor.seal is not None and block.seal != anchor.seal:
        tell(f"a solution at or below the anchored block {anchor.height} was replaced")
    else:
        return True
    return False


def _check_replaced(anchor: Anchor, archives: Archives, newest: int, report: Report) -> None:
    """An anchor of a branch or an incarnation that is no longer there: where a removal replaced or closed it,
    what is archived decides."""
    tell = partial(report.add, "anchor", origin=anchor.origin, height=anchor.height)
    if (record := archives.closed.get(anchor.origin)) is not None:
        tell(f"of a branch that was closed lawfully, by the record {record}", notice=True)
        return
    record = archives.records.get(anchor.origin)
    if record is None:
        tell(f"there is no branch {anchor.origin}")
        return
    block = archives.block(anchor)
    if block is None and anchor.origin in archives.every:
        tell(f"the anchored block {anchor.height} is not in the archive of {anchor.origin}")
    elif block is None:
        message = (
            f"block {anchor.height} was replaced, as the record {record} says, and nothing is kept of it"
        )
        tell(message, notice=newest > incarnation_of(anchor.origin))
    elif (
        block.said.origin != anchor.origin
        or block.link != anchor.link
        or (anchor.seal is not None and block.seal != anchor.seal)
    ):
        tell(f"block {anchor.height} of what was replaced by the record {record} is not the anchored one")
    else:
        tell(f"block {anchor.height} was replaced lawfully, as the record {record} says", notice=True)
        _met(archives.held(anchor), report)
