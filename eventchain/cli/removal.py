"""``eventchain erase --remine`` and ``--purge``: what removes events from the log altogether."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eventchain.cli.common import (
    Ticker,
    announce,
    counted,
    duration,
    note,
    print_json,
    quantity,
    say_set_aside,
    say_step,
)
from eventchain.cli.mining_time import expected_seconds, say_seconds

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from eventchain.assembly import Chain
    from eventchain.chain.sealing import Progress
    from eventchain.erasure.remove import RemovalPlan, Remover
    from eventchain.formats.anchor import Anchor
    from eventchain.mining.backends import Choice


def remove(chain: Chain, choice: Choice, plan: RemovalPlan, reason: str, actor: str) -> tuple[int, Any]:
    """Put the removal on record and carry it out; how many events were deleted, and the positions of those
    that wait for the administrator of their store."""
    with chain.removing(choice, say_set_aside) as remover:
        remover.record(plan, reason, actor, chain.mining.block_events or 2**62, _mining())
        return _carry_out(chain, remover)


def resume(chain: Chain, backend: str | None, device: str | None) -> tuple[int, Any]:
    """Complete a removal, where one is under way."""
    import numpy as np

    from eventchain.erasure.remove import finish, pending, removed_positions

    if pending(chain.store) is not None:
        choice = chain.choose(backend, device)
        announce(choice)
        with chain.removing(choice, say_set_aside) as remover:
            return _carry_out(chain, remover)
    if not len(removed_positions(chain.store)) and not chain.store.incarnations():
        return 0, np.empty(0, np.int64)
    with chain.store.writer():
        return finish(chain.store, chain.events, say_step)


def _carry_out(chain: Chain, remover: Remover) -> tuple[int, Any]:
    from eventchain.erasure.remove import finish

    try:
        remover.rebuild(_mining(), lambda what, count: note(f"{what}: {counted(count, 'block')}"))
        return finish(chain.store, chain.events, say_step)
    except BaseException:
        note("The removal is on record and not complete; `eventchain erase --resume` goes on.")
        raise


def _mining() -> Callable[[Progress], None]:
    """Shows how far the mining is, every few seconds."""
    due = Ticker()

    def report(progress: Progress) -> None:
        if due():
            left = progress.expected_hashes / progress.rate if progress.rate else None
            note(
                f"{counted(progress.blocks_sealed, 'block')} sealed, {quantity(progress.rate, 'H/s')}, "
                f"{duration(left) if left is not None else '?'} left"
            )

    return report


def purge(chain: Chain, anchors: Sequence[Anchor], as_json: bool) -> None:
    from eventchain.erasure.remove import purge

    with chain.store.writer():
        count = purge(chain.store, anchors, lambda what, number: note(f"{what}: {number}"))
    if as_json:
        print_json({"purged": count})
    else:
        click.echo(f"purged {counted(count, 'archive')}" if count else "there is no archive")


def anchors_of(chain: Chain, files: Sequence[Path]) -> list[Anchor]:
    """The configuration's, and those in the files."""
    return [*chain.anchors, *(anchor for file in files for anchor in _anchors(file))]


def _anchors(file: Path) -> list[Anchor]:
    from eventchain.errors import ConfigError
    from eventchain.formats.anchor import Anchor

    try:
        return [Anchor.parse(line) for line in file.read_text(encoding="utf-8").splitlines() if line]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{file}: {error}", hint="`eventchain verify --anchor FILE` writes the newest anchors"
        ) from None


# -- printing -----------------------------------------------------------------------------------------


def print_purge_plan(chain: Chain, anchors: Sequence[Anchor], as_json: bool) -> bool:
    """Whether there is anything to purge."""
    from eventchain.erasure.remove import archives_to_purge

    archives = archives_to_purge(chain.store, anchors)
    blocks = [int(chain.store.last_block(one.id).heights[0]) + 1 - one.height for one in archives]
    if as_json:
        told = [
            {"origin": one.origin, "from_block": one.height, "blocks": count}
            for one, count in zip(archives, blocks, strict=True)
        ]
        print_json({"archives": told})
        return bool(archives)
    for one, count in zip(archives, blocks, strict=True):
        note(f"to purge: the archive of {one.origin}, {counted(count, 'block')} from block {one.height} on")
    if archives:
        note("afterwards no anchor and no checkpoint of these blocks can be recognised any more")
    return bool(archives)


def print_plan(chain: Chain, plan: RemovalPlan, listed: str, as_json: bool, dry_run: bool) -> None:
    """``listed``: the positions, for people."""
    if as_json and dry_run:
        print_json(
            {
                "events": len(plan.positions),
                "positions": plan.positions.tolist(),
                "from_block": plan.height,
                "blocks": plan.blocks,
                "events_kept": plan.events,
                "blocks_to_mine": plan.to_mine,
                "hashes": plan.hashes,
                "closed": plan.closed,
                "seconds": expected_seconds(plan),
            }
        )
        return
    note(f"to remove: {counted(len(plan.positions), 'event')}, at {listed}")
    note(
        f"to rebuild: {counted(plan.blocks, 'block')} from block {plan.height} on, with {plan.events:,} "
        f"other events; to mine: {counted(plan.to_mine, 'block')}, about {quantity(plan.hashes, 'H')}"
    )
    if dry_run:
        say_seconds(plan)
    for branch, count in plan.closed.items():
        note(f"to be closed: {branch}, with {counted(count, 'snapshot')}; sealing takes new ones afterwards")
    if not hasattr(chain.events, "remove"):
        note("the events lie in another application's store: what to run there is printed at the end")
    note(
        "not reached: backups, replicas, exports, checkpoints on paper, and what was derived from the events"
    )


How = Callable[[Any, bool], str]
"""What the administrator of another application's store has to run, for positions; True: to delete events."""


def as_dict(outcome: tuple[int, NDArray[np.int64]], how: How) -> dict[str, Any]:
    deleted, waiting = outcome
    values: dict[str, Any] = {"removed": deleted, "to_remove": waiting.tolist()}
    return values | ({"how_to_remove": how(waiting, True)} if len(waiting) else {})


def print_outcome(chain: Chain, outcome: tuple[int, NDArray[np.int64]], how: How) -> None:
    deleted, waiting = outcome
    if deleted:
        click.echo(f"removed {counted(deleted, 'event')}")
    if len(waiting):
        note(
            f"{counted(len(waiting), 'event')} left the log and must leave {chain.events.url} too. "
            "Run this there, then `eventchain erase --resume`:"
        )
        click.echo(how(waiting, True))
