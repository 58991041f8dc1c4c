"""``eventchain mine``: seals the backlog."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from eventchain.cli.common import (
    Percentage,
    announce,
    config_option,
    counted,
    device_options,
    duration,
    json_option,
    note,
    print_json,
    say_set_aside,
)
from eventchain.cli.progress import shown

if TYPE_CHECKING:
    from eventchain.chain.sealing import Progress

FINDINGS = 1


@click.command("mine")
@config_option
@device_options
@click.option(
    "--block-events",
    type=click.IntRange(min=1),
    metavar="N",
    help="Most events in a block. Default: the configuration's; the policy may allow fewer.",
)
@click.option(
    "--duty",
    type=Percentage(),
    envvar="EVENTCHAIN_DUTY",
    show_envvar=True,
    metavar="SHARE",
    help="How much of the time devices work, as 30%: the rest is left to whatever else the host is for. "
    "Default: the configuration's.",
)
@click.option(
    "--link-only", is_flag=True, help="Build and link the blocks, and leave the mining to a later run."
)
@json_option
def command(
    config_file: Path,
    backend: str | None,
    device: str | None,
    block_events: int | None,
    duty: int | None,
    link_only: bool,
    as_json: bool,
) -> None:
    """Seal every event that is not sealed yet.

    What is built and not mined yet is mined too, and the snapshots are taken that the configuration's
    projections make due; exit 1 when one of those fails.
    It can be interrupted at any moment, also by kill -9: what is mined is kept and the next run goes on.
    Blocks that were linked with --link-only may be mined elsewhere: on a copy of the chain store, by
    another host and another backend.
    """
    from eventchain.assembly import open_chain

    failed: dict[str, str] = {}
    with open_chain(config_file) as chain:
        if link_only:
            sealing = chain.linking()
        else:
            choice = chain.choose(backend, device)
            announce(choice)
            sealing = chain.sealing(
                choice, say_set_aside, duty, on_dropped=failed.__setitem__, on_notice=note
            )
        began = time.monotonic()
        try:
            with sealing as sealer:
                trunk = sealer.builder.trunk
                limit = block_events or chain.mining.block_events or trunk.policy.events
                head = chain.events.head()
                with shown(sealer, head, limit) as report:
                    (sealer.link_backlog if link_only else sealer.seal_backlog)(limit, report)
        except KeyboardInterrupt:
            note("What is sealed is kept; the next `eventchain mine` goes on from here.")
            raise
    _summary(sealer.progress, time.monotonic() - began, trunk.unsealed, link_only, failed, as_json)
    if failed:
        for name, reason in failed.items():
            note(f"no more snapshots of {name}: {reason}")
        click.get_current_context().exit(FINDINGS)


def _summary(
    progress: Progress,
    seconds: float,
    unsealed: int,
    link_only: bool,
    failed: dict[str, str],
    as_json: bool,
) -> None:
    events = progress.events_built if link_only else progress.events_sealed
    if as_json:
        keys = (
            "events_built", "events_sealed", "blocks_built", "blocks_sealed", "snapshots_sealed", "hashes",
            "sealed_position",
        )  # fmt: skip
        everything = asdict(progress)
        print_json(
            {key: everything[key] for key in keys}
            | {
                "blocks_unsealed": unsealed,
                "seconds": round(seconds, 3),
                "events_per_second": round(events / seconds, 1),
                "mhs": round(progress.hashes / seconds / 1e6, 3),
                "failed": failed,
            }
        )
        return
    built, sealed = counted(progress.blocks_built, "block"), counted(progress.blocks_sealed, "block")
    if link_only:
        done = f"linked {counted(events, 'event')} in {built} in {duration(seconds)}"
        wait = f"{counted(unsealed, 'block')} to be mined"
        click.echo(f"{done if progress.blocks_built else 'nothing to link'}; {wait}")
        return
    if not progress.blocks_sealed:
        click.echo("nothing to seal: every event is sealed already")
        return
    taken = f", {counted(progress.snapshots_sealed, 'snapshot')}" if progress.snapshots_sealed else ""
    click.echo(
        f"sealed {counted(events, 'event')} in {sealed}{taken} in {duration(seconds)}: "
        f"{events / seconds:,.0f} events/s, {progress.hashes / seconds / 1e6:.2f} MH/s"
    )
