"""``eventchain import`` and ``eventchain export``: events from and to files."""

from __future__ import annotations

import time
from pathlib import Path

import click

from eventchain.cli.common import config_option, counted, duration, json_option, note, print_json


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@config_option
@json_option
def import_command(file: Path, config_file: Path, as_json: bool) -> None:
    """Append the events of FILE to the event store, all or none.

    FILE is CloudEvents 1.0 as JSON Lines (also gzipped, also - for stdin) or Parquet. Positions are given
    anew, in the file's order; data bytes are kept as they stand.
    """
    from eventchain.chain.rows import all_events
    from eventchain.config import Config
    from eventchain.errors import ConfigError, ConflictError, FormatError
    from eventchain.eventstores import open_event_store
    from eventchain.interchange import read_events
    from eventchain.interchange.conflict import Watched, explained

    store = open_event_store(Config.load(config_file).store)
    try:
        if not hasattr(store, "append_batches"):
            raise ConfigError(
                f"{store.url} is another application's store and not ours to write",
                hint="let that application append its events",
            )
        began = time.monotonic()
        batches = Watched(read_events(file))
        try:
            count = store.append_batches(batches)
        except ConflictError as error:
            raise explained(error, file, batches.last, all_events(store)) from error
        seconds = time.monotonic() - began
    except (FormatError, ConflictError) as error:
        raise type(error)(f"{error.message}; nothing was imported", hint=error.hint) from error
    finally:
        store.close()
    if as_json:
        print_json({"events": count, "seconds": round(seconds, 3)})
    else:
        click.echo(f"imported {counted(count, 'event')} in {duration(seconds)}")


@click.command("export")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--force", is_flag=True, help="Replace FILE when it exists.")
@config_option
def export_command(file: Path, force: bool, config_file: Path) -> None:
    """Write all events to FILE.

    FILE is CloudEvents 1.0 as JSON Lines (.jsonl, .jsonl.gz, or - for stdout) or Parquet (.parquet). It
    appears only when it is complete. Positions are given anew when it is imported. What is encrypted is
    written decrypted where the configuration has its keys.
    """
    from eventchain.assembly import open_events
    from eventchain.chain.rows import all_events, readable
    from eventchain.config import Config
    from eventchain.errors import ConfigError
    from eventchain.interchange import write_events
    from eventchain.interchange.files import STANDARD

    if str(file) != STANDARD and file.exists() and not force:
        raise ConfigError(f"{file} exists already", hint="--force replaces it")
    store = open_events(Config.load(config_file))
    try:
        count = write_events((readable(store, batch) for batch in all_events(store)), file)
    finally:
        store.close()
    note(f"exported {counted(count, 'event')}")
