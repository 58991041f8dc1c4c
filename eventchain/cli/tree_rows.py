"""What is drawn of a chain tree, row by row: the terminal and the SVG show the same rows.

A root is a vertical line of blocks that are worth naming and of gaps between them. Each branch is one row
under the block that it forks off; its own branches follow it, indented. Branches that are not shown are
counted in the gap where they fork.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from eventchain.chain.lineage import Kind, Landmark, Lineage, Tree
from eventchain.cli.common import counted, printable, quantity

MOST = 30
"""Branches that are shown of more; --all shows all."""
NOUNS = {
    Kind.TRUNK: "event",
    Kind.SNAPSHOTS: "snapshot",
    Kind.ERASURES: "erasure record",
    Kind.EVENTS: "event",
}


class Shape(Enum):
    TITLE = "title"
    BLOCK = "block"
    FORK = "fork"  # a block that is named for its branches only
    GAP = "gap"
    BRANCH = "branch"
    FOLD = "fold"


@dataclass(frozen=True, slots=True)
class Row:
    """``name`` and then ``facts``. ``rails``: for every line left of this row's own, whether it goes on
    below; the first is the root's own. sealed: what the row is about is sealed."""

    shape: Shape
    name: str
    facts: tuple[str, ...]
    sealed: bool = True
    rails: tuple[bool, ...] = ()
    kind: Kind = Kind.TRUNK
    lineage: Lineage | None = None


def chosen(tree: Tree, depth: int | None, every: bool) -> set[int]:
    """The ids of the branches to show: all down to ``depth``; of too many the records of erasures, those
    that wait to be sealed and those that grew last, with what they hang on."""
    within = [lineage for at, lineage in tree.walk() if depth is None or at <= depth]
    shown = {id(root) for root in tree.roots}
    if every or len(within) - len(shown) <= MOST:
        return {id(lineage) for lineage in within}
    within.sort(key=lambda one: (one.kind != Kind.ERASURES, not one.unsealed, -one.built, -one.fork))
    for lineage in within:
        path = []
        above: Lineage | None = lineage
        while above is not None and id(above) not in shown:
            path.append(id(above))
            above = above.parent
        if len(shown) + len(path) <= MOST + len(tree.roots):
            shown.update(path)
    return shown


def rows_of(root: Lineage, shown: Collection[int]) -> list[Row]:
    """The rows of one root, its title first."""
    rows = list(_root_rows(root, shown))
    # Below the last row of the root's line nothing goes on.
    last = max((i for i, row in enumerate(rows) if len(row.rails) <= 1), default=0)
    return [
        Row(row.shape, row.name, row.facts, row.sealed, (i < last, *row.rails[1:]), row.kind, row.lineage)
        for i, row in enumerate(rows)
    ]


def _root_rows(root: Lineage, shown: Collection[int]) -> Iterator[Row]:
    facts = (_content(root), *_fork(root), *([_newest(root)] if root.pin else []), _state(root))
    yield Row(Shape.TITLE, printable(root.origin), facts, not root.unsealed, lineage=root)
    here = [child for child in root.children if id(child) in shown]
    forks = {child.fork for child in here}
    marks = [mark for mark in root.landmarks if _notable(root, mark) or mark.height in forks]
    hidden = [child for child in root.children if id(child) not in shown]
    above: Landmark | None = None
    for mark in marks:
        if above is not None:
            yield from _gap(root, above, mark, hidden)
        yield _block(root, mark)
        yield from _branches([child for child in here if child.fork == mark.height], shown)
        above = mark
    over = above.height if above else -2  # what forks off nowhere comes last
    yield from _fold([child for child in hidden if child.fork >= over])
    known = {mark.height for mark in marks}
    yield from _branches([child for child in here if child.fork not in known], shown)


def _notable(root: Lineage, mark: Landmark) -> bool:
    ends = (root.fork + 1, root.sealed_height, root.height)
    return mark.policy is not None or mark.height in ends


# -- the root's own line


def _block(root: Lineage, mark: Landmark) -> Row:
    roles = []
    if mark.height == root.fork + 1:
        roles.append("genesis" if root.kind == Kind.TRUNK else "first block")
    if mark.height == root.sealed_height:
        roles.append("newest sealed")
    if mark.height == root.height:
        roles.append("head")
    if mark.policy is not None:
        roles.append(f"policy {mark.policy}")
    sealed = mark.height <= root.sealed_height
    events = mark.size - mark.before
    facts = [when(mark.built), *([counted(events, NOUNS[root.kind])] if events else []), ", ".join(roles)]
    if not sealed:
        facts.append("not sealed yet")
    shape = Shape.BLOCK if roles else Shape.FORK
    return Row(shape, f"{mark.height:,}", tuple(filter(None, facts)), sealed, kind=root.kind)


def _gap(root: Lineage, above: Landmark, below: Landmark, hidden: list[Lineage]) -> Iterator[Row]:
    """The blocks between two that are named, and the branches that fork off there unnamed."""
    blocks, events = below.height - above.height - 1, below.before - above.size
    if blocks:
        sealed = below.height - 1 <= root.sealed_height
        facts = [_many(events, NOUNS[root.kind])] if events > 0 else []
        facts += [] if sealed else ["not sealed yet"]
        yield Row(Shape.GAP, counted(blocks, "block"), tuple(facts), sealed)
    yield from _fold([child for child in hidden if above.height <= child.fork < below.height])


def _fold(hidden: list[Lineage]) -> Iterator[Row]:
    if not hidden:
        return
    below = [lineage for child in hidden for _, lineage in child.walk()]
    first, last = hidden[0].fork, hidden[-1].fork
    where = f"off block {first:,}" if first == last else f"off blocks {first:,} to {last:,}"
    facts = [where]
    facts += [
        _many(total, NOUNS[kind])
        for kind in (Kind.SNAPSHOTS, Kind.ERASURES, Kind.EVENTS)
        if (total := sum(lineage.size for lineage in below if lineage.kind == kind))
    ]
    waiting = sum(lineage.unsealed > 0 for lineage in below)
    facts.append(f"{waiting:,} not sealed to the end" if waiting else "sealed")
    yield Row(Shape.FOLD, f"… {counted(len(below), 'branch', 'es')}", tuple(facts), not waiting)


# -- branches


def _branches(children: list[Lineage], shown: Collection[int]) -> Iterator[Row]:
    """Rows of these branches and all that are shown below them."""
    waiting: list[tuple[tuple[bool, ...], Lineage]] = [((True,), child) for child in reversed(children)]
    while waiting:
        rails, lineage = waiting.pop()
        own = [child for child in lineage.children if id(child) in shown]
        facts = [f"off block {lineage.fork:,}", _content(lineage), _newest(lineage), _state(lineage)]
        facts += _below(lineage, own)
        name, sealed = printable(lineage.name), not lineage.unsealed
        yield Row(Shape.BRANCH, name, tuple(facts), sealed, rails, lineage.kind, lineage)
        for number, child in enumerate(reversed(own)):
            waiting.append(((*rails, number > 0), child))


def _fork(root: Lineage) -> tuple[str, ...]:
    return (f"off block {root.fork:,} of {printable(root.forks_off)}",) if root.forks_off else ()


def _content(lineage: Lineage) -> str:
    if lineage.kind == Kind.TRUNK:
        return f"{counted(lineage.blocks, 'block')}, {_many(lineage.size, 'event')}"
    return _many(lineage.size, NOUNS[lineage.kind])


def _newest(lineage: Lineage) -> str:
    if lineage.pin is not None:
        return f"newest of block {lineage.pin.height:,}"
    return f"newest {when(lineage.built)}"


def _state(lineage: Lineage) -> str:
    if not lineage.unsealed:
        return "sealed"
    waiting = counted(lineage.unsealed, "block")
    if lineage.unsealed == lineage.blocks:
        return f"nothing sealed, {waiting} to be mined"
    return f"sealed through block {lineage.sealed_height:,}, {waiting} to be mined"


def _below(lineage: Lineage, shown: list[Lineage]) -> tuple[str, ...]:
    left = len(lineage.children) - len(shown)
    if not left:
        return ()
    return (f"+ {counted(left, 'branch', 'es')} of its own",)


def _many(count: int, noun: str) -> str:
    """``1 event``, ``2,000 events``, ``1.2 M events``."""
    return counted(count, noun) if count < 1_000_000 else f"{quantity(count)} {noun}s"


def when(built: int) -> str:
    """``2026-11-27 19:45``, in UTC."""
    try:
        return f"{datetime.fromtimestamp(built, UTC):%Y-%m-%d %H:%M}"
    except (OverflowError, ValueError, OSError):
        return "no date"
