"""``eventchain status``: how far the chain is, and what a rewrite would cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eventchain.cli.common import (
    Rate,
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
)

if TYPE_CHECKING:
    from eventchain.assembly import Chain
    from eventchain.chain.cost import RewriteCost
    from eventchain.chain.view import ChainView
    from eventchain.contracts.event_store import FenceState

MAX_HOLDERS = 3
MEASURE_SECONDS = 0.3
GPU_RATE = "10G"
ASIC_RATE = "100T"


@click.command("status")
@config_option
@click.option(
    "--from",
    "heights",
    type=click.IntRange(min=0),
    multiple=True,
    metavar="K",
    help="Price a rewrite from block K on. May be repeated. Default: a few.",
)
@click.option("--rate", type=Rate(), help="This host's speed. Default: measured.")
@click.option("--gpu-rate", type=Rate(), default=GPU_RATE, show_default=True, help="One H200-class GPU.")
@click.option("--asic-rate", type=Rate(), default=ASIC_RATE, show_default=True, help="A hobby ASIC.")
@device_options
@json_option
def command(
    config_file: Path,
    heights: tuple[int, ...],
    rate: float | None,
    gpu_rate: float,
    asic_rate: float,
    backend: str | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Show what is sealed and what a rewrite would cost.

    Rates are hashes a second, as 30M, 10G or 100T. The cost is the least that a forger must pay: a rewrite
    of m events takes at least m / (block events) blocks, whatever the blocks hold now.
    """
    from eventchain.assembly import open_chain
    from eventchain.chain.cost import rewrite_cost, total_work
    from eventchain.chain.view import ChainView
    from eventchain.errors import ConfigError

    with open_chain(config_file) as chain, chain.store.snapshot():
        view = ChainView(chain.store)
        sealed = view.sealed_height
        for height in heights:
            if height > sealed:
                raise ConfigError(
                    f"block {height} is not sealed", hint=f"the newest sealed block is {sealed}"
                )
        costs = [rewrite_cost(chain.store, view, k) for k in heights or _some_heights(sealed)]
        facts = _facts(chain, view) | {"total_work": total_work(view)}
        if facts["misfit"]:
            note(f"warning: these stores do not belong together: {facts['misfit']}; see `eventchain verify`")
        if rate is None:
            rate = _measured(chain, backend, device)
        if rate is not None:
            facts |= _pace(chain, view, facts, rate)
    rates = {"host": rate, "gpu": gpu_rate, "asic": asic_rate}
    if as_json:
        print_json(
            facts
            | {"fence": facts["fence"] and facts["fence"]._asdict()}
            | {
                "rates": {name: one for name, one in rates.items() if one is not None},
                "rewrite": [_cost_as_dict(cost, rates) for cost in costs],
            }
        )
    else:
        _print(facts, costs, rates)


def _some_heights(sealed: int) -> list[int]:
    """The whole chain above its anchored genesis, its newer half and tenth, and its newest block."""
    return (
        sorted({max(1, height) for height in (1, sealed // 2, sealed * 9 // 10, sealed)})
        if sealed > 0
        else []
    )


def _facts(chain: Chain, view: ChainView) -> dict[str, Any]:
    from eventchain.chain.fit import misfit
    from eventchain.chain.view import count_after

    trunk = view.trunk
    newest = view.block(trunk.sealed_height)
    sealed_events = newest.said.size if newest is not None else 0
    linked = trunk.log.size - sealed_events
    waiting = count_after(chain.events, trunk.position)
    return {
        "misfit": misfit(chain.store, chain.events, chain.anchors),
        "origin": trunk.branch.origin,
        "policy": str(trunk.policy),
        "event_store": chain.events.url,
        "chain_store": chain.store.url,
        "event_store_head": chain.events.head(),
        "fence": fence() if (fence := getattr(chain.events, "fence", None)) else None,
        "sealed_height": trunk.sealed_height,
        "sealed_position": newest.said.position if newest is not None else None,
        "sealed_events": sealed_events,
        "built_height": trunk.height,
        "backlog_events": linked + waiting,
        "backlog_blocks": trunk.unsealed + -(-waiting // trunk.policy.events),
        "linked_events": linked,
        "linked_blocks": trunk.unsealed,
        "branches": [tip.branch.origin for tip in view.tips.values()][1:],
    }


def _pace(chain: Chain, view: ChainView, facts: dict[str, Any], rate: float) -> dict[str, float | None]:
    from time import time

    from eventchain.chain.pace import pace_of

    most = chain.mining.block_events or view.trunk.policy.events
    pace = pace_of(view, facts["backlog_events"] - facts["linked_events"], rate, most, time())
    return {
        "arriving_per_second": pace.arriving,
        "capacity_per_second": pace.capacity,
        "falling_behind_per_second": pace.falling_behind,
    }


def _waiting(fence: FenceState) -> str:
    """What holds sealing back, for people."""
    above = "events" if fence.head is None else f"events above position {fence.head}"
    if not fence.holders:
        return f"{above} wait for the grace since {duration(fence.seconds)}"
    writers = counted(len(fence.holders), "open transaction")
    more = ", …" if len(fence.holders) > MAX_HOLDERS else ""
    named = printable(", ".join(fence.holders[:MAX_HOLDERS]))
    return f"{above} wait for {writers}, the oldest of {duration(fence.seconds)}: {named}{more}"


def _measured(chain: Chain, backend: str | None, device: str | None) -> float | None:
    """This host's hashes a second, None (and a notice) where nothing can mine."""
    from eventchain.errors import BackendError
    from eventchain.mining.backends import measure_all

    try:
        choice = chain.choose(backend, device)
        return measure_all(choice.devices, MEASURE_SECONDS)
    except BackendError as error:
        note(f"this host's speed is not known: {error.message}")
        return None


def _cost_as_dict(cost: RewriteCost, rates: dict[str, float | None]) -> dict[str, Any]:
    return {
        "from_block": cost.height,
        "blocks": cost.blocks,
        "events": cost.leaves,
        "hashes": cost.hashes,
        "least_blocks": cost.least_blocks,
        "least_hashes": cost.least_hashes,
        "seconds": {name: cost.least_hashes / rate for name, rate in rates.items() if rate is not None},
    }


def _print(facts: dict[str, Any], costs: list[RewriteCost], rates: dict[str, float | None]) -> None:
    head, position, fence = facts["event_store_head"], facts["sealed_position"], facts["fence"]
    click.echo(f"chain       {facts['origin']}")
    click.echo(f"policy      {facts['policy']}")
    if fence is not None:
        click.echo(f"event store newest at position {fence.newest}")
        click.echo(f"fence       {_waiting(fence)}")
    else:
        click.echo(f"event store {'empty' if head is None else f'head at position {head}'}")
    if facts["sealed_height"] < 0:
        click.echo("sealed      nothing: the genesis is not mined yet")
    else:
        events = f"position {position} ({counted(facts['sealed_events'], 'event')})"
        through = "no event" if position is None else events
        click.echo(f"sealed      through block {facts['sealed_height']}, {through}")
    linked = f", {facts['linked_blocks']:,} of them linked" if facts["linked_blocks"] else ""
    waiting = f"{counted(facts['backlog_events'], 'event')}, {counted(facts['backlog_blocks'], 'block')}"
    click.echo(f"backlog     {waiting}{linked}")
    if "capacity_per_second" in facts:
        click.echo(f"pace        {_pace_in_words(facts)}")
    click.echo(f"total work  {quantity(facts['total_work'])} hashes")
    if facts["branches"]:
        click.echo(f"branches    {len(facts['branches']):,}; `eventchain tree` shows them")
    if not costs:
        return
    click.echo()
    _print_costs(costs, rates)
    click.echo(
        "\nThe least that a forger must mine: m events fill at least ceil(m / events) blocks at the policy's "
        "bits. It holds against whoever keeps an anchor from before the block elsewhere; nothing that is "
        "newer than the newest such anchor is protected against being cut off."
    )


def _pace_in_words(facts: dict[str, Any]) -> str:
    arriving, capacity = facts["arriving_per_second"], facts["capacity_per_second"]
    behind = facts["falling_behind_per_second"]
    said = f"this host can seal {quantity(capacity)} events/s"
    if arriving is None:
        return said
    said += f", {quantity(arriving)} arrive"
    if not behind:
        return said
    return (
        f"{said}: IT FALLS BEHIND by {quantity(3600 * behind)} events an hour; use more or faster devices, "
        "or larger blocks"
    )


def _print_costs(costs: list[RewriteCost], rates: dict[str, float | None]) -> None:
    """A table; where the terminal is too narrow for it a few lines for each cost."""
    from rich.table import Table

    names = dict(zip(rates, ("this host", "one GPU", "hobby ASIC"), strict=True))
    prices = [f"{names[key]}\n{quantity(rate, 'H/s') if rate else '?'}" for key, rate in rates.items()]
    table = Table(box=None, pad_edge=False)
    for title in ("rewrite\nfrom block", "events", "least\nblocks", "least\nhashes", *prices):
        table.add_column(title, justify="right", no_wrap=True)
    rows = []
    for cost in costs:
        times = [duration(cost.least_hashes / rate) if rate else "?" for rate in rates.values()]
        numbers = (f"{cost.height}", f"{cost.leaves:,}", f"{cost.least_blocks:,}")
        rows.append((*numbers, quantity(cost.least_hashes), *times))
        table.add_row(*rows[-1])
    out = console()
    if out.measure(table, options=out.options.update(width=240)).maximum <= out.width:
        out.print(table)
        return
    for height, events, blocks, hashes, *times in rows:
        click.echo(
            f"rewrite from block {height}\n  events {events}\n  least blocks {blocks}, hashes {hashes}"
        )
        for price, time in zip(prices, times, strict=True):
            click.echo(f"  {price.replace(chr(10), ' at ')}: {time}")
