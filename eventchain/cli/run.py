"""``eventchain run``: seal events as they arrive."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, TypeVar

import click

from eventchain.cli.common import config_option, device_options

if TYPE_CHECKING:
    from eventchain.config import Config

F = TypeVar("F", bound=Callable[..., Any])


def service_options(command: F) -> F:
    for option in (
        click.option(
            "--log",
            type=click.Choice(["json", "text"]),
            default="json",
            show_default=True,
            help="How each line of the log on stderr is written.",
        ),
        click.option(
            "--block-seconds",
            type=click.FloatRange(min=0),
            metavar="SECONDS",
            help="Close a block after so long, full or not. Default: the configuration's.",
        ),
        click.option(
            "--block-events",
            type=click.IntRange(min=1),
            metavar="N",
            help="Most events in a block. Default: the configuration's; the policy may allow fewer.",
        ),
    ):
        command = option(command)
    return command


@click.command("run")
@config_option
@service_options
@click.option("--listen", metavar="HOST:PORT", help="Serve /metrics and /healthz there.")
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
    from eventchain.config import Config

    with logged(log) as stop:
        config = Config.load(config_file)
        if listen:
            config = replace(config, run=replace(config.run, listen=listen))
        serve(config, block_events, block_seconds, backend, device, stop)


@contextmanager
def logged(log: str) -> Iterator[Event]:
    """All that happens within goes to the log, in this form, and what is wrong there ends with exit code 2.
    SIGTERM and Ctrl-C set the event."""
    from eventchain.errors import EventChainError
    from eventchain.service.log import log_to_stderr, say
    from eventchain.service.stop import ignore_signals, stop_on_signals

    stop = Event()
    log_to_stderr(as_json=log == "json")
    stop_on_signals(stop)
    try:
        yield stop
    except EventChainError as error:
        say(error.message, level=logging.ERROR, **({"hint": error.hint} if error.hint else {}))
        sys.exit(2)
    finally:
        ignore_signals()


def serve(
    config: Config,
    block_events: int | None,
    block_seconds: float | None,
    backend: str | None,
    device: str | None,
    stop: Event,
) -> None:
    """Seal until stopped; what is None is the configuration's."""
    from eventchain.assembly import choose_as_configured
    from eventchain.service.announcers import configured
    from eventchain.service.log import say
    from eventchain.service.metrics import served
    from eventchain.service.run import Service

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
        if config.run.listen:
            say("listening", port=stack.enter_context(served(service.state, config.run.listen)))
        service.run()
