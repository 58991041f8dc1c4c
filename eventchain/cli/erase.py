"""``eventchain erase``: lawful erasure, in place or with the events removed from the log."""

from __future__ import annotations

import getpass
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from eventchain.cli import removal
from eventchain.cli.common import (
    announce,
    config_option,
    counted,
    device_options,
    json_option,
    note,
    print_json,
    printable,
    quantity,
    say_set_aside,
    say_step,
)
from eventchain.cli.mining_time import expected_seconds, say_seconds
from eventchain.cli.progress import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from eventchain.assembly import Chain
    from eventchain.erasure.erase import Outcome
    from eventchain.erasure.plan import Matches, Plan
    from eventchain.mining.backends import Choice

INCOMPLETE = 1
SHOWN = 10
"""Positions that are printed at most; --json prints all."""


reason_option = click.option(
    "--reason", metavar="TEXT", help="Why, as the record will say for ever: no personal data."
)
actor_option = click.option(
    "--actor", metavar="NAME", help="Who, as the record will say. Default: your login name."
)


@click.command("erase")
@click.argument("event_ids", metavar="[EVENT_ID]...", nargs=-1)
@config_option
@click.option(
    "--position", "positions", type=click.IntRange(min=0), multiple=True, metavar="N", help="May be repeated."
)
@click.option("--stream", metavar="S", help="All events of a stream.")
@click.option("--where", metavar="CEL", help="All events for which this condition holds.")
@click.option(
    "--subject", metavar="KEY", help="All events that are encrypted for a subject; it keeps its key."
)
@reason_option
@actor_option
@click.option(
    "--remine",
    is_flag=True,
    help="Remove the events from the log altogether, and mine everything from their block on anew.",
)
@click.option(
    "--purge",
    is_flag=True,
    help="Destroy what is kept of replaced blocks; nothing of them can be proven any more. Needs --anchor.",
)
@click.option(
    "--anchor",
    "anchor_files",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    multiple=True,
    metavar="FILE",
    help="For --purge: anchors, of which one is of the log as it is now.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be touched, and do nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--resume", is_flag=True, help="Complete what is on record and not done.")
@device_options
@json_option
def command(
    event_ids: tuple[str, ...],
    config_file: Path,
    positions: tuple[int, ...],
    stream: str | None,
    where: str | None,
    subject: str | None,
    reason: str | None,
    actor: str | None,
    remine: bool,
    purge: bool,
    anchor_files: tuple[Path, ...],
    dry_run: bool,
    yes: bool,
    resume: bool,
    backend: str | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Destroy the payloads of sealed events, lawfully: with a record.

    A record of what is erased, by whom and why, is sealed first. Then data and metadata are destroyed in the
    event store, and the salts in the chain store. Rows, leaves and blocks stay, and nothing else is mined
    anew; stream, id, type and time stay readable and proven.
    With --remine the events leave the log: all blocks from theirs on are built anew and mined as one batch,
    and then take the place of the old ones, of which headers, leaf hashes and positions are archived.
    It can be broken off at any moment; --resume completes it. Where the event store is another
    application's, what to run there is printed, and --resume afterwards sees that it was done. Exit 1 while
    an erasure is not complete.
    """
    from eventchain.assembly import open_chain
    from eventchain.errors import ConfigError

    selectors = Selectors(stream, where, subject)
    chosen = bool(event_ids or positions or any(one is not None for one in selectors))
    if purge:
        if chosen or resume or remine:
            raise ConfigError("--purge stands alone", hint="first remove, then `eventchain verify --anchor`")
        with open_chain(config_file) as chain:
            anchors = removal.anchors_of(chain, anchor_files)
            there = removal.print_purge_plan(chain, anchors, as_json and dry_run)
            if dry_run:
                return
            if there and not yes:
                confirm()
            removal.purge(chain, anchors, as_json)
        return
    if resume == chosen:
        raise ConfigError(
            "no events are chosen" if not resume else "--resume takes no events",
            hint="name ids, --position, --stream, --where or --subject; --resume completes what is on record",
        )
    if resume and dry_run:
        raise ConfigError(
            "what --resume completes was planned before", hint="`eventchain verify` says what that is"
        )
    if chosen and not dry_run:
        require_reason(reason)
    with open_chain(config_file) as chain:
        if remine and chosen:
            meant = _meant(chain, [*event_ids, *positions], selectors)
            _remove(chain, meant, reason or "", actor, dry_run, yes, as_json, backend, device)
            return
        removed = removal.resume(chain, backend, device) if resume else None
        plan = None
        if chosen:
            plan = _plan(chain, [*event_ids, *positions], selectors)
            print_plan(chain, plan, as_json, dry_run)
            if dry_run:
                return
            if len(plan.places) and not yes:
                confirm()
        if plan is None or len(plan.places):
            choice = chain.choose(backend, device)
            announce(choice)
            due = [] if plan is None else [(plan, reason or "")]
            seal_records(chain, choice, due, actor or login())
        outcome = complete_records(chain)
        print_outcome(chain, outcome, as_json, removed)
    if len(outcome.waiting) or len(outcome.lost) or (removed is not None and len(removed[1])):
        click.get_current_context().exit(INCOMPLETE)


class Selectors(NamedTuple):
    """What names many events, each None where it is not used."""

    stream: str | None
    where: str | None
    subject: str | None

    def matches(self, chain: Chain) -> Iterator[tuple[str, Matches]]:
        """Which events each means, and where that is, in words."""
        if self.stream is not None:
            from eventchain.erasure.plan import in_stream

            yield f"in the stream {self.stream!r}", in_stream(self.stream)
        if self.where is not None:
            from eventchain.erasure.plan import chosen_by
            from eventchain.errors import ConfigError
            from eventchain.projections.filter import Filter

            if not self.where.strip():
                raise ConfigError("--where has no condition", hint="as 'type == \"SignedUp\"'")
            yield f"where {self.where}", chosen_by(chain.events, Filter(where=self.where))
        if self.subject is not None:
            from eventchain.cli.keys import keys_of
            from eventchain.subjects.forget import of_handles

            yield f"of the subject {self.subject!r}", of_handles(keys_of(chain).handles(self.subject))


def _plan(chain: Chain, events: Sequence[str | int], selectors: Selectors) -> Plan:
    from eventchain.erasure.plan import plan_erasure

    return plan_erasure(chain.store, chain.events, _meant(chain, events, selectors))


def _meant(chain: Chain, events: Sequence[str | int], selectors: Selectors) -> Any:
    """The positions of the events that were named, rising."""
    import numpy as np

    from eventchain.erasure.plan import positions_of, positions_where
    from eventchain.errors import ConfigError

    meant = [positions_of(chain.events, events)]
    for which, matches in selectors.matches(chain):
        meant.append(positions_where(chain.events, matches))
        if not len(meant[-1]):
            raise ConfigError(f"there is no event {which}", hint="was it erased, or is it spelled otherwise?")
    return np.unique(np.concatenate(meant))


def _remove(
    chain: Chain,
    positions: Any,
    reason: str,
    actor: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    backend: str | None,
    device: str | None,
) -> None:
    from eventchain.erasure.remove import plan_removal

    plan = plan_removal(chain.store, chain.events, positions)
    removal.print_plan(chain, plan, _listed(positions), as_json, dry_run)
    if dry_run:
        return
    if not yes:
        confirm()
    choice = chain.choose(backend, device)
    announce(choice)
    outcome = removal.remove(chain, choice, plan, reason, actor or login())
    if as_json:
        print_json(removal.as_dict(outcome, partial(_how, chain)) | {"complete": not len(outcome[1])})
    else:
        removal.print_outcome(chain, outcome, partial(_how, chain))
    if len(outcome[1]):
        click.get_current_context().exit(INCOMPLETE)


def require_reason(reason: str | None) -> None:
    from eventchain.errors import ConfigError

    if not (reason or "").strip():
        raise ConfigError("an erasure needs a reason", hint='--reason "request of 3 May, Art. 17 GDPR"')


def login() -> str:
    from eventchain.errors import ConfigError

    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:
        raise ConfigError("who erases is not known here", hint="--actor NAME says it") from error


def is_terminal() -> bool:
    """Whether there is somebody to ask."""
    return sys.stdin.isatty()


def confirm() -> None:
    from eventchain.errors import ConfigError

    if not is_terminal():
        raise ConfigError("an erasure wants to be confirmed", hint="--yes does not ask")
    if not click.confirm("Destroy them? It cannot be undone", err=True):
        raise ConfigError("nothing was erased")


def seal_records(chain: Chain, choice: Choice, due: Sequence[tuple[Plan, str]], actor: str) -> None:
    """Seal a record of each plan for its reason, and whatever waits to be sealed."""
    from eventchain.erasure.erase import record

    with chain.sealing(choice, say_set_aside) as sealer:
        limit = chain.mining.block_events or sealer.builder.trunk.policy.events
        with shown(sealer, chain.events.head(), limit) as report:
            if not due:
                sealer.seal_backlog(limit, report)
            for plan, reason in due:
                record(sealer, plan, reason, actor, limit, report)


def complete_records(chain: Chain) -> Outcome:
    from eventchain.erasure.erase import complete

    try:
        with chain.store.writer():
            return complete(chain.store, chain.events, say_step)
    except BaseException:
        note("What is on record is not all destroyed; `eventchain erase --resume` goes on.")
        raise


# -- printing -----------------------------------------------------------------------------------------


def plan_as_dict(plan: Plan) -> dict[str, Any]:
    """For --dry-run."""
    return {
        "events": len(plan.places),
        "positions": sorted(plan.places.positions.tolist()),
        "already_erased": plan.already,
        "blocks": plan.blocks,
        "blocks_to_mine": plan.to_mine,
        "hashes": plan.hashes,
        "snapshots": plan.snapshots,
        "seconds": expected_seconds(plan),
    }


def print_plan(chain: Chain, plan: Plan, as_json: bool, dry_run: bool) -> None:
    if as_json and dry_run:
        print_json(plan_as_dict(plan))
        return
    if plan.already:
        note(f"{counted(plan.already, 'event')} on record already as erased")
    if not len(plan.places):
        return
    note(
        f"to erase: {counted(len(plan.places), 'event')} in {counted(plan.blocks, 'block')}, "
        f"at {_listed(plan.places.positions)}"
    )
    note(f"to mine: the record and the block that names it, about {quantity(plan.hashes, 'H')}")
    if dry_run:
        say_seconds(plan)
    for branch, count in plan.snapshots.items():
        note(f"may hold what was derived from them: {counted(count, 'snapshot')} of {branch}")
    if not hasattr(chain.events, "erase"):
        note("the payloads lie in another application's store: what to run there is printed at the end")
    note("not reached: backups, replicas, exports, and what was derived from the events")


def print_outcome(
    chain: Chain, outcome: Outcome, as_json: bool, removed: tuple[int, Any] | None = None
) -> None:
    """``removed``: what became of removals, where they were looked at."""
    waiting = removed is not None and len(removed[1])
    if as_json:
        values: dict[str, Any] = {
            "erased": outcome.erased.tolist(),
            "waiting": outcome.waiting.tolist(),
            "lost": outcome.lost.tolist(),
            "complete": not len(outcome.waiting) and not len(outcome.lost) and not waiting,
        }
        if removed is not None and (removed[0] or waiting):
            values |= removal.as_dict(removed, partial(_how, chain))
        if len(outcome.waiting):
            values["how_to_erase"] = _how(chain, outcome.waiting)
        print_json(values)
        return
    if removed is not None:
        removal.print_outcome(chain, removed, partial(_how, chain))
    if len(outcome.erased):
        click.echo(f"erased {counted(len(outcome.erased), 'event')}")
    elif not len(outcome.waiting) and not (removed and removed[0]) and not waiting:
        click.echo("nothing is left to erase")
    if len(outcome.lost):
        note(
            f"not as sealed, so that no commitment could be kept: {_listed(outcome.lost)}; "
            "`eventchain verify` names them"
        )
    if len(outcome.waiting):
        note(
            f"the payloads of {counted(len(outcome.waiting), 'event')} are still in {chain.events.url}. "
            "Run this there, then `eventchain erase --resume`:"
        )
        click.echo(_how(chain, outcome.waiting))


def _how(chain: Chain, positions: Any, rows: bool = False) -> str:
    from eventchain.formats.erasure import ranges_of

    ranges = ranges_of(positions)
    told = getattr(chain.events, "how_to_erase", None)  # an adapter from elsewhere may not have it
    what = "the events" if rows else "data and metadata of the events"
    how = str(told(ranges, rows=rows)) if told else f"destroy {what} at {ranges}"
    return printable(how.replace("\n", "\0")).replace("\\x00", "\n")


def _listed(positions: Any) -> str:
    """``position 7``, ``positions 3 to 5, 9``."""
    import numpy as np

    from eventchain.formats.erasure import ranges_of

    ranges = ranges_of(np.sort(positions))
    parts = [str(first) if first == last else f"{first} to {last}" for first, last in ranges[:SHOWN]]
    more = f" and {len(ranges) - SHOWN:,} more" if len(ranges) > SHOWN else ""
    return f"position{'s' if len(positions) > 1 else ''} {', '.join(parts)}{more}"
