"""``eventchain backends``: what can mine here."""

from __future__ import annotations

import click

from eventchain.cli.common import json_option, print_json, printable


@click.command("backends")
@json_option
def command(as_json: bool) -> None:
    """List what can mine here, or why it cannot."""
    from eventchain.mining.backends import survey

    found = survey()
    if as_json:
        print_json(
            [
                {"name": one.name, "devices": list(one.devices)}
                | ({} if one.devices else {"reason": one.reason, "hint": one.hint})
                | ({"set_aside": one.faults} if one.faults else {})
                for one in found
            ]
        )
        return
    for one in found:
        if one.devices:
            click.echo(one.name)
            for index, device in enumerate(one.devices):
                fault = one.faults.get(device)
                click.echo(
                    f"  {index}: {printable(device)}{f': set aside: {printable(fault)}' if fault else ''}"
                )
        else:
            click.echo(f"{one.name}: not usable: {printable(one.reason)}")
            if one.hint:
                click.echo(f"  hint: {printable(one.hint)}")
