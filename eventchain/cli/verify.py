"""``eventchain verify``: re-reads everything and names what is wrong."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eventchain.cli.common import (
    Ticker,
    config_option,
    console,
    counted,
    json_option,
    note,
    print_json,
    printable,
)

if TYPE_CHECKING:
    from rich.console import Console

    from eventchain.assembly import Chain
    from eventchain.formats.anchor import Anchor
    from eventchain.verify import Finding, Report

WITHOUT_ANCHOR = (
    "No anchor was given. Chain and events fit together, but rows alone hold no outside truth: a chain "
    "rewritten as a whole, an older copy or one with its tail cut off would look just as good. Give an "
    "anchor that was kept elsewhere with --anchor."
)


@click.command("verify")
@config_option
@click.option(
    "--anchor",
    "anchor_files",
    type=click.Path(dir_okay=False, path_type=Path),
    multiple=True,
    metavar="FILE",
    help="The chain must contain the anchors in this file; when all is well the newest are written back, one "
    "for each branch. A file that does not exist is made. May be repeated.",
)
@click.option("--store", metavar="URL", help="The event store, instead of the configuration's.")
@click.option("--chain", "chain_url", metavar="URL", help="The chain store, instead of the configuration's.")
@json_option
def command(
    config_file: Path,
    anchor_files: tuple[Path, ...],
    store: str | None,
    chain_url: str | None,
    as_json: bool,
) -> None:
    """Check the chain and every event against it.

    Everything is read again and nothing is trusted.
    With both --store and --chain no configuration is read, so an auditor needs only a copy of the chain
    store and read access to the events. Exit 0: nothing is wrong. Exit 1: findings. With --json each finding
    is a line, and the verdict the last.
    """
    with _opened(config_file, store, chain_url) as chain:
        anchors = [anchor for file in anchor_files for anchor in _read(file)]
        with _shown(console(err=True)) as progress:
            report = chain.verify(anchors, progress)
    try:  # before the verdict is printed: its reader may go away
        if report.newest:
            _write(dict.fromkeys(anchor_files), report.newest)
    finally:
        (_print_json if as_json else _print)(report)
    if not report.clean:
        click.get_current_context().exit(1)


def _opened(config_file: Path, store: str | None, chain: str | None) -> Chain:
    from dataclasses import replace

    from eventchain.assembly import open_chain
    from eventchain.config import Config, resolve

    here = Path.cwd()
    if store is not None and chain is not None:
        return open_chain(Config(resolve(store, here), resolve(chain, here)))
    config = Config.load(config_file)
    if store is not None:
        config = replace(config, store=resolve(store, here))
    if chain is not None:
        config = replace(config, chain=resolve(chain, here))
    return open_chain(config)


def _read(file: Path) -> list[Anchor]:
    """The anchors in a file, a line each; none when there is no such file yet. Raises ConfigError where it
    could not be written back later: a verification may take hours."""
    from eventchain.errors import ConfigError, FormatError
    from eventchain.formats.anchor import Anchor

    folder = file.resolve().parent
    if not folder.is_dir():
        raise ConfigError(f"there is no folder for the anchors of {file}", hint=f"make {folder} first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(
            f"the anchors of {file} could not be written back", hint=f"{folder} needs to be writable"
        )
    if file.exists() and not file.is_file():
        raise ConfigError(f"{file} is no ordinary file", hint="the newest anchors are written back to it")
    try:
        anchors = [Anchor.parse(line) for line in file.read_text(encoding="utf-8").splitlines() if line]
    except FileNotFoundError:
        note(f"{file} does not exist yet: nothing is required of the chain by it")
        return []
    except (FormatError, UnicodeDecodeError) as error:
        raise FormatError(
            f"{file} holds no anchor: {error}", hint="an anchor reads: origin height link seal"
        ) from None
    if not anchors:
        raise FormatError(f"{file} is empty", hint="remove it if no anchor was ever kept in it")
    return anchors


def _write(files: Iterable[Path], anchors: Iterable[Anchor]) -> None:
    from eventchain.config import write_atomically
    from eventchain.errors import StoreError

    lines = "".join(f"{anchor}\n" for anchor in anchors)
    for file in files:
        try:
            write_atomically(file, lines)
        except OSError as error:
            raise StoreError(
                f"cannot write the anchors to {file}: {error.strerror}", hint="keep the ones printed here"
            ) from error


# -- printing -----------------------------------------------------------------------------------------


def _print_json(report: Report) -> None:
    for finding in report.findings:
        print_json(finding.as_dict(), indent=None)
    verdict: dict[str, Any] = {
        "verdict": report.verdict,
        "findings": len(report.wrong),
        "notices": len(report.notices),
        "blocks": report.blocks,
        "sealed_blocks": report.sealed_blocks,
        "events": report.events,
        "erased": report.erased,
        "anchors": report.anchors,
        "anchored_height": report.anchored_height,
        "anchors_to_keep": [str(anchor) for anchor in report.newest],
    }
    print_json(verdict, indent=None)


def _print(report: Report) -> None:
    for finding in report.wrong:
        click.echo(_line(finding))
    for finding in report.notices:
        note("notice: " + _line(finding))
    blocks, events = counted(report.blocks, "block"), counted(report.events, "event")
    erased = f" ({report.erased:,} lawfully erased)" if report.erased else ""
    checked = f"{blocks} ({report.sealed_blocks:,} sealed), {events}{erased}"
    if not report.clean:
        count = len(report.wrong)
        click.echo(f"verdict: {counted(count, 'finding')} in {checked}")
        return
    if report.anchors:
        click.echo(f"verdict: clean, anchored at block {report.anchored_height}; {checked}")
    else:
        click.echo(f"verdict: self-consistent only; {checked}")
        note(WITHOUT_ANCHOR)
    for anchor in report.newest:
        click.echo(f"anchor: {anchor}")


def _line(finding: Finding) -> str:
    """``altered: block 3, position 2071, stream acc-7, event 5e…: what it means``"""
    where = []
    if finding.origin and finding.height is None:
        where.append(finding.origin)
    elif finding.height is not None:
        where.append(f"{finding.origin} block {finding.height}".lstrip())
    if finding.position is not None:
        through = f" to {finding.last}" if finding.last not in (None, finding.position) else ""
        where.append(f"position{'s' if through else ''} {finding.position}{through}")
    if finding.count > 1:
        where.append(f"{finding.count:,} events")
    if finding.stream is not None:
        where.append(f"stream {finding.stream}")
    if finding.id is not None:
        where.append(f"event {finding.id}")
    place = ", ".join(where)
    return printable(f"{finding.kind}: {place}{': ' if place else ''}{finding.message}")


@contextmanager
def _shown(out: Console) -> Iterator[Callable[[int], None]]:
    """A callback that is told of leaves checked: a counter, or plain lines every few seconds."""
    total = 0
    if not out.is_terminal:
        due = Ticker()

        def plain(leaves: int) -> None:
            nonlocal total
            total += leaves
            if due():
                note(f"{counted(total, 'event')} checked")

        yield plain
        return

    with out.status("reading") as status:

        def drawn(leaves: int) -> None:
            nonlocal total
            total += leaves
            status.update(f"{counted(total, 'event')} checked")

        yield drawn
