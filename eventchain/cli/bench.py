"""``eventchain bench``: how fast each device is."""

from __future__ import annotations

from typing import Any

import click

from eventchain.cli.common import json_option, note, print_json, printable

MANY_BITS = 12


@click.command("bench")
@click.option("--backend", metavar="NAME", help="Measure this backend only.")
@click.option(
    "--device", metavar="SEL", help="Measure these devices only: indices as 0,2 or a part of a name."
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.01, 3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How long each measurement takes, about.",
)
@json_option
def command(backend: str | None, device: str | None, seconds: float, as_json: bool) -> None:
    """Measure each backend and device, in MH/s.

    On one hard header, and on many headers of 12 bits each.
    Each device passes its known-answer test first. A backend that cannot be used is named on stderr.
    """
    from eventchain.errors import BackendError, ConfigError
    from eventchain.mining.backends import available, choose, measure

    rows: list[dict[str, Any]] = []
    for name in [backend] if backend else available():
        try:
            choice = choose(name, device)
        except (BackendError, ConfigError) as error:
            if backend:
                raise
            note(f"{name}: {error.message}")
            continue
        for left_out, reason in choice.reasons.items():
            note(f"not measured: {left_out}: {reason}")
        for one in choice.devices:
            hard = measure(one, seconds)
            many = measure(one, seconds, difficulty=MANY_BITS)
            rows.append(
                {
                    "backend": choice.name,
                    "device": one.name,
                    "one_header_mhs": round(hard / 1e6, 3),
                    "many_headers_mhs": round(many / 1e6, 3),
                }
            )
            if not as_json:
                click.echo(
                    f"{choice.name} / {printable(one.name)}: {hard / 1e6:.2f} MH/s one header, "
                    f"{many / 1e6:.2f} MH/s many headers of {MANY_BITS} bits"
                )
    if not rows:
        raise BackendError("no backend is usable", hint="`eventchain backends` says why")
    if as_json:
        print_json(rows)
