"""The command line. Data goes to stdout, notices and progress to stderr; exit 0 is well, 1 means findings,
2 a usage error or something that cannot be used, 130 an interruption.

Each command lies in a module of its own, which imports nothing heavy until the command runs.
"""

from __future__ import annotations

import errno
import gc
import os
import signal
import sys
from contextlib import suppress
from importlib import import_module
from typing import Any

import click

from eventchain.errors import EventChainError

COMMANDS = {
    "init": "init:command",
    "import": "interchange:import_command",
    "export": "interchange:export_command",
    "mine": "mine:command",
    "run": "run:command",
    "verify": "verify:command",
    "erase": "erase:command",
    "forget": "forget:command",
    "retain": "retain:command",
    "keys": "keys:group",
    "status": "status:command",
    "tree": "tree:command",
    "show": "show:command",
    "receipt": "receipt:receipt_command",
    "wait": "receipt:wait_command",
    "snapshot": "snapshot:group",
    "backends": "backends:command",
    "bench": "bench:command",
    "worker": "worker:command",
    "fleet": "fleet:command",
    "stratum": "stratum:command",
    "demo": "demo:command",
}
"""Where each command is: module and name."""
INTERRUPTED = 130
BROKEN_PIPE = 141
GARBAGE = 50_000
"""Objects between two looks for cycles, which are rare here: 700 by default."""
OUTPUT_ERRORS = {errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""With no file's name they come from printing: stores and files translate theirs."""


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
        except OSError as error:
            if error.filename is None and error.errno in OUTPUT_ERRORS:
                ctx.exit(_no_output(error))
            fail(ctx, f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
        except (KeyboardInterrupt, click.Abort):  # the second where a question was to be answered
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
    _start_light()
    _open_standard_streams()
    signal.signal(signal.SIGTERM, _terminate)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # not under nohup
        signal.signal(signal.SIGHUP, _terminate)
    try:
        cli(prog_name="eventchain")
    except OSError as error:  # of the group's own --help, or of stderr
        sys.exit(_no_output(error))
    finally:
        gc.freeze()  # nothing is left to be found in cycles when the interpreter ends


def _start_light() -> None:
    """Before anything heavy is imported. numpy's linear algebra, which nothing here uses, would start a
    thread for each core that spins for a while; the collector would go over the modules again and again."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.set_threshold(GARBAGE)


def _open_standard_streams() -> None:
    """Give those that the caller closed (``>&-``) a sink. Their numbers would go to the next files opened,
    so that a library's message would be written into a store."""
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115  (open until the end)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def _no_output(error: OSError) -> int:
    """The exit code when stdout fails: quietly when its reader went away. What was not written is dropped,
    or the interpreter would try again when it ends, and complain."""
    with suppress(OSError, ValueError):  # no file descriptor under a test's stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return BROKEN_PIPE
    with suppress(OSError):
        click.echo(f"error: cannot write to standard output: {error.strerror}", err=True)
        click.echo("hint: make room there, or print to another place", err=True)
    return 2


def _terminate(number: int, frame: object) -> None:
    """Leave as by an exception, so that what a command must undo or close is undone and closed."""
    sys.exit(128 + number)
