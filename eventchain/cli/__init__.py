"""The command line. Data goes to stdout, notices and progress to stderr; exit 0 is well, 1 means findings,
2 a usage error or something that cannot be used, 130 an interruption.

Each command lies in a module of its own, which imports nothing heavy until the command runs.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from typing import Any

import click

from eventchain.errors import EventChainError

COMMANDS = {
    "init": "init:command",
    "import": "interchange:import_command",
    "export": "interchange:export_command",
    "mine": "mine:command",
    "verify": "verify:command",
    "status": "status:command",
    "show": "show:command",
    "backends": "backends:command",
    "bench": "bench:command",
    "demo": "demo:command",
}
"""Where each command is: module and name."""
INTERRUPTED = 130
BROKEN_PIPE = 141


class Commands(click.Group):
    """Imports a command's module when it is asked for, and turns every failure into a message."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name].partition(":")
        command: click.Command = getattr(import_module(f"eventchain.cli.{module}"), attribute)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # a reader that went away is noticed here, not when the interpreter ends
            return result
        except EventChainError as error:
            fail(ctx, error.message, error.hint)
        except click.ClickException as error:
            error.show()
            ctx.exit(2)  # click has 1 for some
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(BROKEN_PIPE)
        except OSError as error:
            fail(ctx, f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(INTERRUPTED)


def fail(ctx: click.Context, message: str, hint: str = "") -> None:
    click.echo(f"error: {message}", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)
    ctx.exit(2)


@click.group(
    cls=Commands,
    name="eventchain",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="eventchain", prog_name="eventchain")
def cli() -> None:
    """Seal an event store's events into a private proof-of-work chain, and find every change to them."""


def main() -> None:
    signal.signal(signal.SIGTERM, _terminate)
    cli(prog_name="eventchain")


def _terminate(number: int, frame: object) -> None:
    """Leave as by an exception, so that what a command must undo or close is undone and closed."""
    sys.exit(128 + number)
