"""``eventchain snapshot``: states of projections, taken, restored, checked and compared."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eventchain.cli.common import (
    Ticker,
    announce,
    config_option,
    console,
    counted,
    device_options,
    duration,
    json_option,
    note,
    print_json,
    printable,
    quantity,
    say_set_aside,
)
from eventchain.cli.progress import shown

if TYPE_CHECKING:
    from eventchain.assembly import Chain
    from eventchain.projections.spec import Every
    from eventchain.snapshots.check import Checked
    from eventchain.snapshots.difference import Change
    from eventchain.snapshots.series import Series

FINDINGS = 1
SHOWN = 5
"""Changes of one snapshot that are printed."""
LONGEST = 80
"""Characters of a value that are printed."""


class When(click.ParamType[Any]):
    """A height, or a time as ``2026-11-27`` (its end, in UTC) or ``2026-11-27T09:00:00Z``."""

    name = "height|time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        if value.isascii() and value.isdecimal():
            return int(value)
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is neither a height nor a time as 2026-11-27T09:00:00Z", param, ctx)
        if len(value) == len("2026-11-27"):
            moment = moment.replace(hour=23, minute=59, second=59)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@click.group("snapshot")
def group() -> None:
    """Snapshots of projections: take, restore, verify and compare them.

    The configuration names the projections, as [projection.NAME]. A snapshot is the state of one at a sealed
    block, sealed itself as an entry of a branch of the chain. Heights are of the blocks whose states they
    are.
    """


@group.command("take")
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@config_option
@device_options
@json_option
def take(
    names: tuple[str, ...], config_file: Path, backend: str | None, device: str | None, as_json: bool
) -> None:
    """Take snapshots of projections at the newest sealed block, and seal them.

    All are made in one pass over the events. What is built and not mined yet is mined first. A projection
    whose snapshot covers every sealed event already gets none.
    """
    from eventchain.assembly import open_chain

    dropped: dict[str, str] = {}
    with open_chain(config_file) as chain:
        _known(chain, names)
        choice = chain.choose(backend, device)
        announce(choice)
        began = time.monotonic()
        sealing = chain.sealing(
            choice, say_set_aside, take=names, on_dropped=dropped.__setitem__, on_notice=note
        )
        with sealing as sealer, shown(sealer, None, sealer.builder.trunk.policy.events) as report:
            sealer.seal_all(report)
            sealer.seal_snapshots(report)
        taken, seconds = sealer.progress.snapshots_sealed, time.monotonic() - began
    if as_json:
        print_json({"snapshots": taken, "seconds": round(seconds, 3), "failed": dropped})
    elif taken:
        click.echo(f"took {counted(taken, 'snapshot')} in {duration(seconds)}")
    elif not dropped:
        click.echo("nothing to take: every sealed event is covered already")
    for name, reason in dropped.items():
        note(f"no snapshot of {name}: {reason}")
    if dropped:
        click.get_current_context().exit(FINDINGS)


@group.command("list")
@click.argument("name", required=False)
@config_option
@json_option
def list_command(name: str | None, config_file: Path, as_json: bool) -> None:
    """List the projections, or all snapshots of one."""
    from eventchain.assembly import open_chain

    with open_chain(config_file) as chain:
        if name is None:
            _print_rows([_summary(chain, series) for series in _all(chain)], as_json, "no projections")
        else:
            _print_rows(list(_rows(chain, _known(chain, [name])[0])), as_json, "no snapshots")


@group.command("show")
@click.argument("name")
@click.option("--at", type=When(), metavar="HEIGHT|TIME", help="The newest one up to there. Default: of all.")
@config_option
@json_option
def show(name: str, at: Any, config_file: Path, as_json: bool) -> None:
    """Show what one snapshot says of itself, the newest by default. `restore` prints states."""
    from eventchain.assembly import open_chain

    with open_chain(config_file) as chain:
        facts = _facts(chain, _known(chain, [name])[0], at)
    if as_json:
        print_json(facts)
        return
    width = max(map(len, facts))
    for key, value in facts.items():
        click.echo(f"{key.replace('_', ' '):<{width}}  {printable(str(value))}")


@group.command("restore")
@click.argument("name")
@click.option(
    "--at",
    type=When(),
    metavar="HEIGHT|TIME",
    help="The state at this sealed block, or at the newest one that was built by this time. Default: the "
    "newest sealed block.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Default: stdout.")
@config_option
def restore(name: str, at: Any, output: Path | None, config_file: Path) -> None:
    """Print the state of a projection, as its bytes are sealed.

    It begins at the newest snapshot that fits and replays the events since; each is held against its leaf.
    """
    from eventchain.assembly import open_chain
    from eventchain.config import write_atomically

    with open_chain(config_file) as chain:
        began = time.monotonic()
        restored = chain.restore(name, at, _replayed())
        seconds = time.monotonic() - began
    if restored.notice:
        note(f"{restored.notice}; all events are replayed")
    begin = f"the snapshot of block {restored.snapshot.height}" if restored.snapshot else "no snapshot"
    note(
        f"{name} at block {restored.height}: {begin} and {counted(restored.replayed, 'event')}, "
        f"in {duration(seconds)}"
    )
    if output is not None:
        write_atomically(output, restored.dump)
        return
    click.echo(restored.dump, nl=sys.stdout.isatty())


@group.command("verify")
@click.argument("names", nargs=-1, metavar="[NAME…]")
@config_option
@json_option
def verify(names: tuple[str, ...], config_file: Path, as_json: bool) -> None:
    """Replay the events and compare every snapshot with what they give, byte for byte.

    Of all projections by default, in one pass over the events. The first snapshot that differs is compared
    member by member, and the first event named since the last right one that changes what differs. It trusts
    the chain and its events: `eventchain verify` checks those. Exit 1 when a snapshot is wrong.
    """
    from eventchain.assembly import open_chain

    with open_chain(config_file) as chain:
        series = _known(chain, names) if names else _all(chain)
        checked = []
        for one in chain.check_snapshots([one.name for one in series], _replayed()):
            checked.append(one)
            if not as_json and one.fault:
                _print_checked(one)
    wrong = [one for one in checked if one.fault]
    skipped = [one for one in checked if one.notice]
    if as_json:
        print_json(
            {
                "snapshots": len(checked),
                "wrong": [_checked_json(one) for one in wrong],
                "not_compared": [_checked_json(one) for one in skipped],
            }
        )
    else:
        for (name, notice), count in Counter((one.series.name, one.notice) for one in skipped).items():
            note(f"{name}: {counted(count, 'snapshot')} not compared: {notice}")
        right = len(checked) - len(wrong) - len(skipped)
        more = f", {len(skipped)} not compared" if skipped else ""
        click.echo(f"{counted(right, 'snapshot')} right, {len(wrong)} wrong{more}")
    if wrong:
        click.get_current_context().exit(FINDINGS)


@group.command("diff")
@click.argument("name")
@click.argument("first", type=When(), metavar="A")
@click.argument("second", type=When(), metavar="B")
@config_option
@json_option
def diff(name: str, first: Any, second: Any, config_file: Path, as_json: bool) -> None:
    """Compare the states of a projection at two sealed blocks, by heights or times A and B.

    Exit 0 also where they differ.
    """
    from eventchain.assembly import open_chain
    from eventchain.snapshots.difference import differences

    with open_chain(config_file) as chain:
        before, after = (chain.restore(name, at, _replayed()) for at in (first, second))
    changes = list(differences(before.dump, after.dump))
    if as_json:
        print_json(
            {
                "first": before.height,
                "second": after.height,
                "changes": [_change_json(one) for one in changes],
            }
        )
        return
    for change in changes:
        click.echo(_change_text(change))
    note(f"block {before.height} to block {after.height}: {counted(len(changes), 'change')}")


# -- what is printed ----------------------------------------------------------------------------------


def _known(chain: Chain, names: Any) -> list[Series]:
    from eventchain.snapshots.series import series_named

    return [series_named(chain.store, chain.projections, name) for name in names]


def _all(chain: Chain) -> list[Series]:
    from eventchain.snapshots.series import all_series

    return list(all_series(chain.store, chain.projections).values())


def _summary(chain: Chain, series: Series) -> dict[str, Any]:
    from eventchain.snapshots.branch import SnapshotBranch
    from eventchain.snapshots.series import branch_of

    facts: dict[str, Any] = {
        "name": series.name,
        "projection": series.spec.use,
        "of": series.spec.of or "",
        "filter": str(series.filter),
        "every": _every(series.spec.every),
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


def _every(every: Every | None) -> str:
    if every is None:
        return ""
    return f"{every.events} events" if every.events is not None else duration(every.seconds or 0)


def _rows(chain: Chain, series: Series) -> Any:
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


def _facts(chain: Chain, series: Series, at: Any) -> dict[str, Any]:
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
            hint=f"`eventchain snapshot take {series.name}` takes one",
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


def _print_rows(rows: list[dict[str, Any]], as_json: bool, nothing: str) -> None:
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


def _print_checked(one: Checked) -> None:
    click.echo(f"{one.series.name} at block {one.height}: {one.fault}")
    for change in one.changes[:SHOWN]:
        click.echo(f"  {_change_text(change)}")
    if len(one.changes) > SHOWN:
        click.echo(f"  and {len(one.changes) - SHOWN} more")
    if one.changes:
        last = "the beginning" if one.since is None else f"the right snapshot of block {one.since}"
        if one.event is None:
            click.echo(f"  no event since {last} changes this")
        else:
            event = f"{printable(one.event.id.decode('utf-8', 'replace'))} at position {one.event.position}"
            click.echo(f"  the first event since {last} that changes this: {event}")


def _checked_json(one: Checked) -> dict[str, Any]:
    event = one.event
    return {
        "name": one.series.name,
        "height": one.height,
        "message": one.fault or one.notice,
        "changes": [_change_json(change) for change in one.changes],
        "since": one.since,
        "position": event.position if event else None,
        "id": event.id.decode("utf-8", "replace") if event else None,
    }


def _change_json(change: Change) -> dict[str, Any]:
    from eventchain.snapshots.difference import ABSENT

    sides = {"before": change.before, "after": change.after}
    return {"path": change.path} | {side: value for side, value in sides.items() if value is not ABSENT}


def _change_text(change: Change) -> str:
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


def _replayed() -> Any:
    """Progress of a replay: how many events, and how fast."""
    began, due, done = time.monotonic(), Ticker(1.0 if sys.stderr.isatty() else 3.0), 0

    def told(events: int) -> None:
        nonlocal done
        done += events
        if due():
            note(f"{counted(done, 'event')} replayed, {quantity(done / (time.monotonic() - began))} events/s")

    return told
