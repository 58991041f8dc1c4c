"""``eventchain run``: seal events as they arrive."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from eventchain.cli.common import announce, config_option, device_options


@click.command("run")
@config_option
@click.option("--block-events", type=click.IntRange(min=1), help="Events in a block, at most.")
@click.option(
    "--block-seconds", type=click.FloatRange(min=0), help="Close a block after so long, full or not."
)
@click.option("--listen", metavar="HOST:PORT", help="Serve /metrics and /healthz there.")
@click.option("--log", type=click.Choice(["json", "text"]), default="json", show_default=True)
@device_options
def command(
    config_file: Path,
    block_events: int | None,
    block_seconds: float | None,
    listen: str | None,
    log: str,
    backend: str | None,
    device: str | None,
) -> None:
    """Seal events as they arrive, until it is stopped.

    A block is closed when it is full, or a while after its first event. One process seals; others started for
    the same chain stand by and take over. Stores that go away are waited for. The configuration's [announce]
    says who is told of what is sealed. SIGTERM and Ctrl-C stop it; what is linked and not mined by then is
    mined by the next run.
    """
    from eventchain.assembly import choose_as_configured
    from eventchain.config import Config
    from eventchain.service.announcers import configured
    from eventchain.service.log import log_to_stderr, say
    from eventchain.service.metrics import served
    from eventchain.service.run import Service

    config = Config.load(config_file)
    choice = choose_as_configured(config.mining, backend, device, config.fleet)
    announce(choice)
    log_to_stderr(as_json=log == "json")
    service = Service(
        config,
        choice,
        list(configured(config.announce)),
        block_events=block_events or config.mining.block_events,
        block_seconds=config.run.block_seconds if block_seconds is None else block_seconds,
    )

    def stop(number: int, frame: Any) -> None:
        service.stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    with ExitStack() as stack:
        if listen or config.run.listen:
            port = stack.enter_context(served(service.state, listen or config.run.listen or ""))
            say("listening", port=port)
        service.run()
