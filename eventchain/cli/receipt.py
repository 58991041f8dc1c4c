"""``eventchain receipt`` and ``eventchain wait``: whether an event is sealed, and waiting until it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eventchain.cli.common import config_option, counted, json_option, note, print_json, printable

if TYPE_CHECKING:
    from eventchain.chain.sealed import Receipt

NOT_SEALED = 1


@click.command("receipt")
@click.argument("event_id")
@config_option
@json_option
def receipt_command(event_id: str, config_file: Path, as_json: bool) -> None:
    """Say whether an event is sealed, and in which block.

    Exit 0 when it is sealed, 1 when it is pending.
    """
    from eventchain.assembly import open_chain

    with open_chain(config_file) as chain:
        receipt = chain.receipt(event_id)
    _print(receipt, as_json)
    if not receipt.sealed:
        click.get_current_context().exit(NOT_SEALED)


@click.command("wait")
@click.argument("event_id")
@config_option
@click.option(
    "--confirmations",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Sealed blocks on top of the event's own.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="How long to wait at most. Default: for ever.",
)
@json_option
def wait_command(
    event_id: str, config_file: Path, confirmations: int, timeout: float | None, as_json: bool
) -> None:
    """Wait until an event is sealed, and print its receipt.

    Something else has to seal it meanwhile. Exit 1 when it is not sealed within the time.
    """
    from eventchain.assembly import open_chain
    from eventchain.errors import NotSealedError

    with open_chain(config_file) as chain:
        try:
            receipt = chain.wait_sealed(event_id, confirmations=confirmations, timeout=timeout)
        except NotSealedError as error:
            note(f"{error.message}\nhint: {error.hint}")
            receipt = chain.receipt(event_id)
            _print(receipt, as_json)
            click.get_current_context().exit(NOT_SEALED)
    _print(receipt, as_json)


def _print(receipt: Receipt, as_json: bool) -> None:
    event = receipt.event
    if as_json:
        values: dict[str, Any] = {
            "id": event.id.decode("utf-8", "replace"),
            "position": event.position,
            "state": "sealed" if receipt.sealed else "pending",
            "block": receipt.block,
            "time": receipt.time,
            "confirmations": receipt.confirmations,
            "erased": receipt.erased,
        }
        print_json(values)
        return
    name = f"event {printable(event.id.decode('utf-8', 'replace'))} at position {event.position}"
    if receipt.erased:
        name += ", erased"
    if receipt.sealed:
        click.echo(
            f"{name}: sealed in block {receipt.block}, "
            f"{counted(receipt.confirmations, 'sealed block')} on top"
        )
    elif receipt.block is None:
        click.echo(f"{name}: pending, in no block yet")
    else:
        click.echo(f"{name}: pending, in block {receipt.block}, which is not sealed yet")
