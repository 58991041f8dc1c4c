"""``eventchain run``: seal events as they arrive."""

from __future__ import annotations

import logging
import sys
from contextlib import ExitStack
from pathlib import Path
from threading import Event

import click

from eventchain.cli.common import config_option, device_options


@click.command("run")
@config_option
@click.option(
    "--block-events",
    type=click.IntRange(min=1),
    metavar="N",
    help="Most events in a block. Default: the configuration's; the policy may allow fewer.",
)
@click.option(
    "--block-seconds",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Close a block after so long, full or not. Default: the configuration's.",
)
@click.option("--listen", metavar="HOST:PORT", help="Serve /metrics and /healthz there.")
@click.option(
    "--log",
    type=click.Choice(["json", "text"]),
    default="json",
    show_default=True,
    help="How each line of the log on stderr is written.",
)
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
    from eventchain.errors import EventChainError
    from eventchain.service.log import log_to_stderr, say
    from eventchain.service.stop import stop_on_signals

    stop = Event()
    log_to_stderr(as_json=log == "json")
    stop_on_signals(stop)
    try:
        _serve(config_file, block_events, block_seconds, listen, backend, device, stop)
    except EventChainError as error:
        say(error.message, level=logging.ERROR, **({"hint": error.hint} if error.hint else {}))
        sys.exit(2)


def _serve(
    config_file: Path,
    block_events: int | None,
    block_seconds: float | None,
    listen: str | None,
    backend: str | None,
    device: str | None,
    stop: Event,
) -> None:
    from eventchain.assembly import choose_as_configured
    from eventchain.config import Config
    from eventchain.service.announcers import configured
    from eventchain.service.log import say
    from eventchain.service.metrics import served
    from eventchain.service.run import Service

    config = Config.load(config_file)
    choice = choose_as_configured(config.mining, backend, device, config.backends)
    say("devices", backend=choice.name, devices=[one.name for one in choice.devices])
    for name, reason in choice.set_aside.items():
        say("a device is set aside", level=logging.WARNING, device=name, reason=reason)
    service = Service(
        config,
        choice,
        list(configured(config.announce)),
        block_events=block_events or config.mining.block_events,
        block_seconds=config.run.block_seconds if block_seconds is None else block_seconds,
        stop=stop,
    )
    with ExitStack() as stack:
        if listen or config.run.listen:
            port = stack.enter_context(served(service.state, listen or config.run.listen or ""))
            say("listening", port=port)
        service.run()
