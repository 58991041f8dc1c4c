"""What several commands share: options, and printing for machines and for people."""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console

    from eventchain.mining.backends import Choice

F = TypeVar("F", bound=Callable[..., Any])

EVERY = 3.0
"""Seconds between two lines of progress where stderr is no terminal."""


# -- options ------------------------------------------------------------------------------------------


def config_option(command: F) -> F:
    return click.option(
        "-C",
        "--config",
        "config_file",
        type=click.Path(path_type=Path),
        default="eventchain.toml",
        envvar="EVENTCHAIN_CONFIG",
        show_default=True,
        show_envvar=True,
        metavar="FILE",
        help="The configuration file.",
    )(command)


def json_option(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def device_options(command: F) -> F:
    command = click.option(
        "--device",
        envvar="EVENTCHAIN_DEVICE",
        show_envvar=True,
        metavar="SEL",
        help="Devices of the backend: indices as 0,2 or a part of a name. Default: all.",
    )(command)
    return click.option(
        "--backend",
        envvar="EVENTCHAIN_BACKEND",
        show_envvar=True,
        metavar="NAME",
        help="auto, reference, cpu, opencl, cuda, fleet, stratum or another installed one. "
        "Default: the configuration's.",
    )(command)


class Percentage(click.ParamType[int]):
    """``30%`` or ``30``: from 1 to 100."""

    name = "percentage"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value).strip().removesuffix("%").rstrip()
        if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= 100:
            self.fail(f"{value!r} is not a percentage from 1% to 100%", param, ctx)
        return int(text)


class Rate(click.ParamType[float]):
    """Hashes a second: ``10G``, ``250 MH/s``, ``1e9``."""

    name = "H/s"
    _UNITS: ClassVar = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        text = str(value).strip().upper().removesuffix("H/S").rstrip()
        unit = text[-1:] if text[-1:].isalpha() else ""
        try:
            rate = float(text.removesuffix(unit)) * self._UNITS[unit]
        except (ValueError, KeyError):
            rate = 0.0
        if not 0 < rate < float("inf"):
            self.fail(f"{value!r} is not a rate; write it as 30M, 10G or 100T hashes a second", param, ctx)
        return rate


# -- printing -----------------------------------------------------------------------------------------


def print_json(value: Any, *, indent: int | None = 2) -> None:
    click.echo(json.dumps(value, indent=indent, ensure_ascii=False))


def note(text: str) -> None:
    """A line for people, on stderr."""
    click.echo(text, err=True)


def console(*, err: bool = False) -> Console:
    """Rich, imported now; a pipe is not wrapped to 80 columns."""
    from rich.console import Console

    class Printer(Console):
        def on_broken_pipe(self) -> None:
            """Leave it to the command line, which ends by it as for all other output; rich has exit 1."""
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    stream = sys.stderr if err else sys.stdout
    width = None if stream.isatty() else 240
    return Printer(stderr=err, width=width, highlight=False, markup=False, emoji=False)


def printable(text: str) -> str:
    """Text from a store, with what a terminal would act on escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def counted(count: int, noun: str, ending: str = "s") -> str:
    """``1 event``, ``2,000 events``."""
    return f"{count:,} {noun}{'' if count == 1 else ending}"


def quantity(value: float, unit: str = "") -> str:
    """``1.23 G`` and the unit: three digits or so, SI prefixes, powers of ten above them."""
    if value >= 1e21:
        return f"{value:.2e} {unit}".rstrip()
    for factor, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * factor:  # 999.9 k is 1 M in three digits
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def duration(seconds: float) -> str:
    """``0.13 s``, ``4.2 min``, ``3.1 days``, ``2,500 years``."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.3g} µs" if seconds >= 1e-6 else "under 1 µs"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    for size, name in ((31_557_600, "years"), (86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            value = seconds / size
            if value >= 1e7:
                return f"{value:.2e} {name}"
            return f"{value:,.0f} {name}" if value >= 100 else f"{value:.1f} {name}"
    return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"


def about(seconds: float) -> str:
    """``about 4.2 min``, ``under 1 µs``."""
    text = duration(seconds)
    return text if text.startswith("under") else f"about {text}"


def announce(choice: Choice) -> None:
    """Say which devices will mine, and which of the backend's will not. Why ``auto`` passed over other
    backends is what ``eventchain backends`` says."""
    note(f"backend {choice.name}: {choice.summary}")
    for name, reason in choice.set_aside.items():
        say_set_aside(name, reason)


def say_set_aside(device: str, reason: str) -> None:
    """A device that gets no work."""
    note(f"set aside: {device}: {reason}")


def say_step(what: str, count: int) -> None:
    """A step of something long, with the events that it concerns."""
    note(f"{what}: {counted(count, 'event')}")


class Ticker:
    """True every few seconds: for progress where stderr is no terminal."""

    def __init__(self, every: float = EVERY) -> None:
        self._every = every
        self._next = time.monotonic() + every

    def __call__(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._every
        return True
