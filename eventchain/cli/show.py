"""``eventchain show``: one block or one event, and the proof that it is in the chain."""

from __future__ import annotations

from base64 import b64encode
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eventchain.cli.common import config_option, json_option, note, print_json, printable

if TYPE_CHECKING:
    from eventchain.assembly import Chain
    from eventchain.chain.rows import Read
    from eventchain.chain.view import BlockView, ChainView, Event, Hidden
    from eventchain.contracts.chain_store import Branch

PAGE = 64
"""Events of a child branch that are read at a time: each may be a state of any size."""
SHOWN = 2000
"""Characters of data and metadata that are shown; --json shows all."""


@click.command("show")
@click.argument("what", metavar="HEIGHT|EVENT_ID|POSITION")
@config_option
@click.option(
    "--branch", metavar="NAME", help="A child branch, as `eventchain tree` names it. Default: the trunk."
)
@click.option("--block", "kind", flag_value="block", help="It is a block's height.")
@click.option("--event", "kind", flag_value="event", help="It is an event's id.")
@click.option("--position", "kind", flag_value="position", help="It is an event's position.")
@click.option(
    "--proof", is_flag=True, help="Print the event's inclusion proof, with its salt, as JSON; check it."
)
@json_option
def command(
    what: str, config_file: Path, branch: str | None, kind: str | None, proof: bool, as_json: bool
) -> None:
    """Show a block or an event.

    Digits mean a block's height, or an event's position where there is no such block or a proof is wanted;
    everything else means an event's id. A proof contains everything that an outsider needs to recompute it,
    against the newest sealed block; exit 1 when it does not hold.
    """
    from eventchain.assembly import open_chain
    from eventchain.chain.view import ChainView
    from eventchain.errors import ConfigError

    if proof and kind == "block":
        raise ConfigError("a block needs no proof", hint="`eventchain verify` checks blocks")
    with open_chain(config_file) as chain, chain.store.snapshot():
        view = ChainView(chain.store, _branch(chain, branch) if branch else None)
        block = None if proof else _block(view, what, kind)
        if block is not None:
            (_block_json if as_json else _print_block)(view, block)
            return
        events = _events(chain, view, what, kind)
        if not events:
            raise ConfigError(
                f"there is no {_wanted(what, kind)}", hint="--block, --event and --position choose"
            )
        if len(events) > 1:
            note(
                f"{len(events)} events have the id {printable(what)}; `eventchain verify` says which is wrong"
            )
        if proof:
            _proof(view, events[0])
        elif as_json:
            print_json([_event_json(chain, view, event) for event in events])
        else:
            for event in events:
                _print_event(chain, view, event)


def _digits(what: str) -> int | None:
    return int(what) if what.isascii() and what.isdecimal() and len(what) < 20 else None


def _wanted(what: str, kind: str | None) -> str:
    names = {"block": f"block {what}", "event": f"event {what}", "position": f"event at position {what}"}
    return printable(names.get(kind or "", f"block, event or position {what}"))


def _block(view: ChainView, what: str, kind: str | None) -> BlockView | None:
    height = _digits(what)
    return view.block(height) if kind in (None, "block") and height is not None else None


def _branch(chain: Chain, name: str) -> Branch:
    from eventchain.cli.branches import named

    branches = chain.store.branches()
    origin = named([branch.origin for branch in branches], name)
    return next(branch for branch in branches if branch.origin == origin)


def _events(chain: Chain, view: ChainView, what: str, kind: str | None) -> list[Event]:
    """The trunk's are in the event store, those of a child branch with it."""
    from eventchain.chain.view import event_at, events_of

    trunk, position = chain.store.branches()[0], _digits(what)
    read = chain.events.read if view.branch == trunk else partial(chain.store.events, view.branch.id)
    if kind in (None, "position") and position is not None:
        found = event_at(read, position)
        if found is not None:
            return [found]
    if kind in ("position", "block"):
        return []
    return events_of(chain.events.find(what)) if view.branch == trunk else _find(read, what)


def _find(read: Read, event_id: str) -> list[Event]:
    """The events of a child branch with this id: it has few, and no index."""
    from pyarrow import compute

    from eventchain.chain.view import events_of

    found: list[Event] = []
    after: int | None = None
    while (batch := read(after, PAGE)).num_rows:
        after = batch["position"][-1].as_py()
        found += events_of(batch.filter(compute.equal(batch["id"], event_id)))
    return found


# -- a block ------------------------------------------------------------------------------------------


def _state(view: ChainView, height: int, mined: bool) -> str:
    if not mined:
        return "not mined yet"
    return "sealed" if height <= view.sealed_height else "mined, above a block that is not"


def _header_fields(block: BlockView) -> dict[str, Any]:
    """The header's fields as they are printed: digests in base64, bit fields in hex."""
    import numpy as np

    from eventchain.formats.header import HEADER
    from eventchain.formats.manifest import encode_digest

    header = np.frombuffer(block.header, HEADER)[0]
    return {
        "version": f"{int(header['version']):08x}",
        "prev": encode_digest(header["prev"].tobytes()),
        "merkle_root": encode_digest(header["merkle_root"].tobytes()),
        "time": int(header["time"]),
        "bits": f"{int(header['bits']):08x}",
        "nonce": int(header["nonce"]),
    }


def _block_json(view: ChainView, block: BlockView) -> None:
    from eventchain.formats.manifest import encode_digest

    print_json(
        {
            "origin": block.said.origin,
            "height": block.said.height,
            "state": _state(view, block.said.height, block.mined),
            "first_leaf": block.first,
            "leaves": block.said.size - block.first,
            "manifest": block.manifest.decode("ascii").splitlines(),
            "header": _header_fields(block),
            "header_hex": block.header.hex(),
            "extranonce": block.extranonce,
            "link": encode_digest(block.link),
            "seal": encode_digest(block.seal) if block.seal is not None else None,
        }
    )


def _print_block(view: ChainView, block: BlockView) -> None:
    from eventchain.formats.manifest import encode_digest

    click.echo(
        f"block {block.said.height} of {block.said.origin}: {_state(view, block.said.height, block.mined)}"
    )
    count = block.said.size - block.first
    click.echo(
        f"  leaves {block.first} to {block.said.size - 1} of the log, {count:,}" if count else "  no leaves"
    )
    click.echo("manifest")
    for line in block.manifest.decode("ascii").splitlines():
        click.echo(f"  {line}")
    click.echo("header")
    for name, value in (_header_fields(block) | {"extranonce": block.extranonce}).items():
        click.echo(f"  {name} {value}")
    click.echo(f"link {encode_digest(block.link)}")
    click.echo(f"seal {encode_digest(block.seal) if block.seal is not None else 'not sealed yet'}")


# -- an event -----------------------------------------------------------------------------------------


def _place(chain: Chain, view: ChainView, index: int | None, event: Event, hidden: Hidden) -> dict[str, Any]:
    """Where the chain has the event. Whether it is still what was sealed is said too, and who erased it."""
    from eventchain.chain.proof import leaf_of
    from eventchain.formats.manifest import encode_digest

    if index is None:
        return {"state": "not in the chain yet"}
    height, leaf = view.block_of(index), view.log.leaf(index)
    place = {
        "state": "sealed" if height <= view.sealed_height else "not mined yet",
        "block": height,
        "index": index,
        "leaf": encode_digest(leaf),
        "as_sealed": leaf_of(event, hidden) == leaf,
    }
    return place if hidden.commitment is None else place | {"erased": _erasure(chain, event.position)}


def _erasure(chain: Chain, position: int) -> dict[str, Any] | None:
    """The record of the event's erasure."""
    from eventchain.erasure.records import Records

    record = Records(chain.store).of(position)
    if record is None:
        return None
    erasure = record.erasure
    return {"record": record.id, "actor": erasure.actor, "reason": erasure.reason, "time": record.time}


def _unknown(value: int) -> int | None:
    return None if value == -(2**63) else value


def _event_json(chain: Chain, view: ChainView, event: Event) -> dict[str, Any]:
    from eventchain.chain.view import Hidden

    index, hidden = view.index_of(event.position), Hidden(None)
    if index is not None:
        event, hidden = view.hidden(event, index)
    values: dict[str, Any] = {
        "position": event.position,
        "stream": event.stream.decode("utf-8", "replace"),
        "version": _unknown(event.version),
        "id": event.id.decode("utf-8", "replace"),
        "type": event.type.decode("utf-8", "replace"),
        "time": _unknown(event.time),
    }
    for name, value in (("data", event.data), ("metadata", event.metadata)):
        try:
            values[name] = None if value is None else value.decode("utf-8")
        except UnicodeDecodeError:
            values[f"{name}_base64"] = b64encode(value or b"").decode("ascii")
    return values | _place(chain, view, index, event, hidden)


def _print_event(chain: Chain, view: ChainView, event: Event) -> None:
    for name, value in _event_json(chain, view, event).items():
        if isinstance(value, str) and len(value) > SHOWN:
            value = f"{value[:SHOWN]}… ({len(value):,} characters)"
        if name == "time" and value is not None:
            value = f"{value} ({_iso(value)})"
        if name == "as_sealed":
            value = "yes" if value else "NO: the event or its salt was changed after it was sealed"
        if name == "erased":
            value = _told(value)
        if value is None:
            value = "null" if name in ("data", "metadata") else "unknown"
        click.echo(f"{name.replace('_', ' '):<15} {printable(str(value))}")


def _told(erasure: dict[str, Any] | None) -> str:
    if erasure is None:
        return "WITHOUT A RECORD"
    return f"{_iso(erasure['time'])} by {erasure['actor']}: {erasure['reason']} ({erasure['record']})"


def _iso(microseconds: int) -> str:
    from datetime import UTC, datetime, timedelta

    try:
        return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)).isoformat()
    except OverflowError:
        return "no date"


def _proof(view: ChainView, event: Event) -> None:
    from eventchain.chain.proof import check_proof, proof_as_dict

    found = view.prove(event)
    wrong = check_proof(found)
    print_json(proof_as_dict(found))
    for reason in wrong:
        note(f"the proof does not hold: {reason}")
    if wrong:
        click.get_current_context().exit(1)
    note(
        f"The proof holds against block {found.block.said.height}. "
        "Compare that block's seal with one that was kept elsewhere."
    )
