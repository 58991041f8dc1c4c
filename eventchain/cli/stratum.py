"""``eventchain stratum``: seal events as they arrive, by SHA-256d miners that exist."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from eventchain.cli.common import config_option
from eventchain.cli.run import logged, serve, service_options


@click.command("stratum")
@config_option
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Where miners connect. Default: the configuration's, [stratum] listen.",
)
@service_options
def command(
    config_file: Path,
    listen: str | None,
    block_events: int | None,
    block_seconds: float | None,
    log: str,
) -> None:
    """Seal events as they arrive, by Stratum v1 miners that connect.

    It goes on until it is stopped, and is the same as `eventchain run --backend stratum`. The password that
    miners must know is the configuration's, [stratum] password; without one anybody may mine who reaches the
    port.
    """
    from eventchain.config import Config

    with logged(log) as stop:
        config = Config.load(config_file)
        if listen:
            config = replace(config, stratum=replace(config.stratum, listen=listen))
        serve(config, block_events, block_seconds, "stratum", None, stop)
