"""``eventchain snapshot``: states of projections, taken, restored, checked and compared."""

from __future__ import annotations

import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from eventchain.cli.common import (
    announce,
    config_option,
    counted,
    device_options,
    duration,
    json_option,
    note,
    print_json,
    printable,
    say_set_aside,
)
from eventchain.cli.progress import shown
from eventchain.cli.snapshot_text import (
    change_json,
    change_text,
    checked_json,
    everything,
    facts_of,
    known,
    print_checked,
    print_rows,
    replayed,
    rows_of,
    summary,
)

FINDINGS = 1


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
        for series in known(chain, *names):
            series.check()
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
            print_rows([summary(chain, series) for series in everything(chain)], as_json, "no projections")
        else:
            (series,) = known(chain, name)
            print_rows(list(rows_of(chain, series)), as_json, "no snapshots")


@group.command("show")
@click.argument("name")
@click.option("--at", type=When(), metavar="HEIGHT|TIME", help="The newest one up to there. Default: of all.")
@config_option
@json_option
def show(name: str, at: Any, config_file: Path, as_json: bool) -> None:
    """Show what one snapshot says of itself, the newest by default. `restore` prints states."""
    from eventchain.assembly import open_chain

    with open_chain(config_file) as chain:
        (series,) = known(chain, name)
        facts = facts_of(chain, series, at)
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
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path, allow_dash=True),
    metavar="FILE",
    help="Default: stdout.",
)
@config_option
def restore(name: str, at: Any, output: Path | None, config_file: Path) -> None:
    """Print the state of a projection, as its bytes are sealed.

    It begins at the newest snapshot that fits and replays the events since; each is held against its leaf.
    """
    from eventchain.assembly import open_chain
    from eventchain.interchange.files import replaced

    with open_chain(config_file) as chain:
        began = time.monotonic()
        restored = chain.restore(name, at, replayed())
        dump = restored.dump
        seconds = time.monotonic() - began
    if restored.notice:
        note(restored.notice)
    begin = f"the snapshot of block {restored.snapshot.height}" if restored.snapshot else "no snapshot"
    note(
        f"{name} at block {restored.height}: {begin} and {counted(restored.replayed, 'event')}, "
        f"in {duration(seconds)}"
    )
    if output is not None:
        with replaced(output) as file:
            file.write(dump)
        return
    click.echo(dump, nl=sys.stdout.isatty())


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
        series = known(chain, *names) if names else everything(chain)
        checked = []
        for one in chain.check_snapshots([one.name for one in series], replayed()):
            checked.append(one)
            if not as_json and one.fault:
                print_checked(one)
    wrong = [one for one in checked if one.fault]
    skipped = [one for one in checked if one.notice]
    if as_json:
        print_json(
            {
                "snapshots": len(checked),
                "wrong": [checked_json(one) for one in wrong],
                "not_compared": [checked_json(one) for one in skipped],
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
        before, after = (chain.restore(name, at, replayed()) for at in (first, second))
    changes = list(differences(before.dump, after.dump))
    if as_json:
        print_json(
            {
                "first": before.height,
                "second": after.height,
                "changes": [change_json(one) for one in changes],
            }
        )
        return
    for change in changes:
        click.echo(change_text(change))
    note(f"block {before.height} to block {after.height}: {counted(len(changes), 'change')}")
