"""What ``eventchain snapshot`` says of snapshots, for people and as JSON."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from eventchain.cli.common import Ticker, console, counted, note, print_json, printable, quantity

if TYPE_CHECKING:
    from eventchain.assembly import Chain
    from eventchain.snapshots.check import Checked
    from eventchain.snapshots.difference import Change
    from eventchain.snapshots.series import Series

SHOWN = 5
"""Changes of one snapshot that are printed."""
LONGEST = 80
"""Characters of a value that are printed."""


def known(chain: Chain, *names: str) -> list[Series]:
    from eventchain.snapshots.series import series_named

    return series_named(chain.store, chain.projections, *names)


def everything(chain: Chain) -> list[Series]:
    from eventchain.snapshots.series import all_series

    return list(all_series(chain.store, chain.projections).values())


def summary(chain: Chain, series: Series) -> dict[str, Any]:
    from eventchain.snapshots.branch import SnapshotBranch
    from eventchain.snapshots.series import branch_of

    facts: dict[str, Any] = {
        "name": series.name,
        "projection": series.spec.use,
        "of": series.spec.of or "",
        "filter": str(series.filter),
        "every": str(series.spec.every or ""),
        "snapshots": 0,
        "newest": None,
        "built": None,
    }
    branch = branch_of(chain.store, series.origin)
    if branch is not None:
        taken = SnapshotBranch(chain.store, chain.events, branch)
        newest = taken.newest()
        if newest is not None:
            facts["snapshots"] = len(taken)
            facts["newest"] = taken.pinned(newest).height
            facts["built"] = _moment(taken.view.said(taken.view.block_of(newest)).built)
    return facts


def rows_of(chain: Chain, series: Series) -> Any:
    from eventchain.chain.view import ChainView
    from eventchain.snapshots.series import branch_of

    parent = branch_of(chain.store, series.parent)
    view = ChainView(chain.store, parent) if parent else None
    for pin in chain.snapshots(series.name):
        yield {
            "height": pin.height,
            "events": view.size(pin.height) if view else None,
            "block": pin.block,
            "built": _moment(pin.built),
        }


def facts_of(chain: Chain, series: Series, at: Any) -> dict[str, Any]:
    from hashlib import sha256

    from eventchain.errors import ProjectionError
    from eventchain.formats.manifest import encode_digest
    from eventchain.snapshots.branch import SnapshotBranch
    from eventchain.snapshots.restore import height_by
    from eventchain.snapshots.series import branch_of

    if isinstance(at, datetime):
        at = height_by(chain.store, chain.events, series, at.timestamp())
    branch = branch_of(chain.store, series.origin)
    taken = SnapshotBranch(chain.store, chain.events, branch) if branch else None
    index = taken.newest(at) if taken else None
    if taken is None or index is None:
        raise ProjectionError(
            f"there is no snapshot of {series.name}{'' if at is None else f' up to block {at}'}",
            hint=f"its first is of block {taken.pinned(0).height}"
            if taken
            else f"`eventchain snapshot take {series.name}` takes one",
        )
    stored = taken.read(index)
    block = taken.view.block(stored.pin.block)
    assert block is not None
    assert block.said.pin is not None
    return {
        "name": series.name,
        "branch": taken.view.branch.origin,
        "block": stored.pin.block,
        "link": encode_digest(block.link),
        "seal": encode_digest(block.seal) if block.seal else None,
        "built": _moment(stored.pin.built),
        "of": f"{stored.pin.parent} {stored.height}",
        "of_link": encode_digest(block.said.pin.link),
        "events": stored.about.size,
        "filter": stored.about.filter,
        "fingerprint": stored.about.fingerprint,
        "fits": series.misfit(stored.about) or "yes",
        "bytes": len(stored.state),
        "sha256": sha256(stored.state).hexdigest(),
    }


def print_rows(rows: list[dict[str, Any]], as_json: bool, nothing: str) -> None:
    if as_json:
        print_json(rows)
        return
    if not rows:
        note(nothing)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for key, value in rows[0].items():
        table.add_column(key, justify="right" if isinstance(value, int) else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    console().print(table)


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else printable(str("" if value is None else value))


def print_checked(one: Checked) -> None:
    click.echo(f"{one.series.name} at block {one.height}: {one.fault}")
    for change in one.changes[:SHOWN]:
        click.echo(f"  {change_text(change)}")
    if len(one.changes) > SHOWN:
        click.echo(f"  and {len(one.changes) - SHOWN} more")
    if one.changes:
        last = "the beginning" if one.since is None else f"the right snapshot of block {one.since}"
        if one.event is None:
            click.echo(f"  no event since {last} changes this")
        else:
            event = f"{printable(one.event.id.decode('utf-8', 'replace'))} at position {one.event.position}"
            click.echo(f"  the first event since {last} that changes this: {event}")


def checked_json(one: Checked) -> dict[str, Any]:
    event = one.event
    return {
        "name": one.series.name,
        "height": one.height,
        "message": one.fault or one.notice,
        "changes": [change_json(change) for change in one.changes],
        "since": one.since,
        "position": event.position if event else None,
        "id": event.id.decode("utf-8", "replace") if event else None,
    }


def change_json(change: Change) -> dict[str, Any]:
    from eventchain.snapshots.difference import ABSENT

    sides = {"before": change.before, "after": change.after}
    return {"path": change.path} | {side: value for side, value in sides.items() if value is not ABSENT}


def change_text(change: Change) -> str:
    from eventchain.snapshots.difference import ABSENT

    path = printable(change.path) or "the whole state"
    if change.path == "" and change.before is None and change.after is None:
        return path
    if change.before is ABSENT:
        return f"{path}: added {_short(change.after)}"
    if change.after is ABSENT:
        return f"{path}: removed {_short(change.before)}"
    return f"{path}: {_short(change.before)} to {_short(change.after)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return printable(text if len(text) <= LONGEST else f"{text[:LONGEST]}…")


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def replayed() -> Any:
    """Progress of a replay: how many events, and how fast."""
    began, due, done = time.monotonic(), Ticker(1.0 if sys.stderr.isatty() else 3.0), 0

    def told(events: int) -> None:
        nonlocal done
        done += events
        if due():
            note(f"{counted(done, 'event')} replayed, {quantity(done / (time.monotonic() - began))} events/s")

    return told
