"""``eventchain init``: a new chain with its genesis mined."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

from eventchain.cli.common import (
    about,
    announce,
    config_option,
    device_options,
    json_option,
    note,
    print_json,
    quantity,
    say_set_aside,
)
from eventchain.cli.progress import shown

MEASURE_SECONDS = 0.3
LONG = 60.0
"""Seconds a block above which there is a warning."""


@click.command("init")
@config_option
@click.option(
    "--origin", metavar="NAME", help="The chain's name, as example.com/orders. Default: the folder's."
)
@click.option(
    "--difficulty",
    type=click.FloatRange(0, 224),
    default=20,
    show_default=True,
    metavar="BITS",
    help="Expected hashes a block, in bits: 20 is a million.",
)
@click.option(
    "--block-events",
    type=click.IntRange(1, 2**63 - 1),
    default=1024,
    show_default=True,
    metavar="N",
    help="Most events in a block.",
)
@click.option(
    "--lag",
    type=click.IntRange(1, 2**63 - 1),
    default=65536,
    show_default=True,
    metavar="N",
    help="How many blocks may be built ahead of the newest mined one.",
)
@click.option(
    "--late",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    metavar="N",
    help="How many events of a block may become visible below events already sealed.",
)
@click.option(
    "--store", metavar="URL", default="sqlite:///events.db", show_default=True, help="The event store."
)
@click.option(
    "--chain", metavar="URL", default="sqlite:///chain.db", show_default=True, help="The chain store."
)
@device_options
@json_option
def command(
    config_file: Path,
    origin: str | None,
    difficulty: float,
    block_events: int,
    lag: int,
    late: int,
    store: str,
    chain: str,
    backend: str | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Begin a chain and mine its genesis.

    Writes the configuration file and creates the stores.
    The policy (difficulty, block events, lag, late) is stated by the genesis and can only be tightened
    later. An event store at an sqlite:/// or postgresql:// URL is created when it is absent; the database
    must be there. Paths in sqlite URLs are relative to the configuration file's folder. When anything fails
    nothing is left behind.
    """
    from eventchain.assembly import Chain
    from eventchain.chainstores import open_chain_store
    from eventchain.config import Mining, render, resolve, sqlite_path, write_atomically
    from eventchain.errors import ConfigError
    from eventchain.eventstores import open_event_store
    from eventchain.formats.anchor import Anchor
    from eventchain.formats.header import bits_for_difficulty, work_of
    from eventchain.formats.manifest import check_origin
    from eventchain.formats.policy import Policy
    from eventchain.mining.backends import AUTO, choose, measure_all
    from eventchain.urls import without_password

    if config_file.exists() or config_file.is_symlink():
        raise ConfigError(
            f"{config_file} exists already", hint="`eventchain status` shows its chain; -C names another file"
        )
    folder = config_file.resolve().parent
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}", hint="make it first")
    origin = check_origin(_name_of(folder) if origin is None else origin)
    bits = bits_for_difficulty(difficulty)
    store_url, chain_url = resolve(store, folder), resolve(chain, folder)
    store_file, chain_file = sqlite_path(store_url), sqlite_path(chain_url)
    if store_file is not None and store_file == chain_file:
        raise ConfigError("the event store and the chain store are one file", hint="give each its own")

    with _or_nothing() as (claim, undo), ExitStack() as stack:
        if chain_file is not None and not claim(chain_file):
            raise ConfigError(
                f"{chain_file} exists already", hint="name another with --chain, or move it away"
            )
        on_server = store_url.startswith("postgresql://")
        events = open_event_store(
            store_url, create=on_server or (store_file is not None and claim(store_file))
        )
        if on_server:
            undo.callback(events.discard)
        stack.callback(events.close)
        # What the adapter found by itself, as the one event table, is stated for good.
        store += getattr(events, "pinned_url", store_url).removeprefix(store_url)
        policy = Policy(bits, block_events, lag, late, events.source)
        chain_store = open_chain_store(chain_url, create=True)
        opened = stack.enter_context(Chain(events, chain_store))
        if chain_store.branches():  # a file would have been refused above
            raise ConfigError(f"{chain_store.url} holds a chain already", hint="name another with --chain")
        undo.callback(getattr(chain_store, "discard", lambda: None))
        choice = choose(backend or AUTO, device)
        announce(choice)
        rate = measure_all(choice.devices, MEASURE_SECONDS)
        hashes = work_of(bits)
        cost = f"{quantity(hashes)} hashes a block, {about(hashes / rate)} on this host"
        _announce_cost(cost, hashes / rate, rate)
        with opened.sealing(choice, say_set_aside) as sealer:
            with opened.store.transaction():
                genesis = sealer.builder.add_genesis(origin, policy)
            sealer.build(genesis)
            with shown(sealer, None, block_events) as report:
                sealer.seal_all(report)
            trunk = sealer.builder.trunk
            assert trunk.sealed is not None  # seal_all returns when everything is sealed
            anchor = Anchor(origin, 0, trunk.link, trunk.sealed.seal)
        mining = Mining(backend or AUTO, device, block_events)
        if not claim(config_file):
            raise ConfigError(f"{config_file} exists already", hint="another init was faster")
        try:
            secret = without_password(store + chain) != store + chain
            write_atomically(config_file, render(store, chain, anchor, mining), private=secret)
        except OSError as error:
            raise ConfigError(f"cannot write {config_file}: {error.strerror}") from error

    result: dict[str, Any] = {
        "config": str(config_file),
        "origin": origin,
        "anchor": str(anchor),
        "policy": str(policy),
        "store": without_password(store_url),
        "chain": without_password(chain_url),
        "hashes_per_block": hashes,
        "hashes_per_second": round(rate),
        "seconds_per_block": hashes / rate,
    }
    if as_json:
        print_json(result)
        return
    click.echo(f"chain       {origin} in {without_password(chain)}")
    click.echo(f"events      {without_password(store)} ({events.source})")
    click.echo(f"policy      {policy}")
    click.echo(f"difficulty  {difficulty:g} bits: {cost} ({choice.name}, {quantity(rate, 'H/s')})")
    click.echo(f"anchor      {anchor}")
    note(
        f"Keep the anchor outside the reach of whoever administers the stores; {config_file} holds it too. "
        "Without it nobody can tell this chain from a forged one."
    )


@contextmanager
def _or_nothing() -> Iterator[tuple[Callable[[Path], bool], ExitStack]]:
    """Gives a function that makes an empty file and says whether it was not there before; on any failure
    the files made so are removed again, with what SQLite and the lock laid beside them. And a stack for what
    else is to be done on failure."""
    claimed: list[Path] = []
    undo = ExitStack()

    def claim(file: Path) -> bool:
        try:
            file.open("x").close()
        except FileExistsError:
            return False
        claimed.append(file)
        return True

    try:
        yield claim, undo
    except BaseException:
        undo.close()
        for file in claimed:
            for suffix in ("", "-wal", "-shm", "-journal", ".lock"):
                file.with_name(file.name + suffix).unlink(missing_ok=True)
        raise


def _announce_cost(cost: str, seconds: float, rate: float) -> None:
    note(f"mining the genesis: {cost}")
    if seconds > LONG:
        note(
            f"warning: every block takes that long here. --difficulty {max(0, math.floor(math.log2(rate)))} "
            "would be a second or so; Ctrl-C now leaves nothing behind."
        )


def _name_of(folder: Path) -> str:
    """An origin made of the folder's name."""
    name = re.sub(r"[^a-z0-9._-]+", "-", folder.name.lower()).strip("-._")
    return "events" if name in ("", "tile", "checkpoint") else name
