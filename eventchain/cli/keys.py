"""``eventchain keys``: the store of the keys that payloads of subjects are encrypted with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from eventchain.cli.common import Ticker, config_option, counted, json_option, note, print_json

if TYPE_CHECKING:
    from eventchain.assembly import Chain
    from eventchain.config import Encryption
    from eventchain.subjects import KeyStore


@click.group("keys")
def group() -> None:
    """Make the key store of [encryption], and change its wrapping key."""


@group.command("init")
@config_option
@json_option
def init(config_file: Path, as_json: bool) -> None:
    """Make the key store, and the file of the wrapping key where that is named and not there.

    Doing it again changes nothing.
    """
    from eventchain.errors import ConfigError
    from eventchain.subjects.wrapping import new_wrapping_key, wrapping_key_file

    encryption = _encryption(config_file)
    keys = _opened(encryption)
    file = wrapping_key_file(encryption.wrapping_key)
    made = file is not None and not file.exists()
    if made and file is not None:
        if keys.exists() and encryption.old_wrapping_key is None:
            raise ConfigError(
                f"{keys.url} is there already, and its wrapping key {file} is not",
                hint="put it back; to change it, name the present one as old_wrapping_key",
            )
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
            handle.write(new_wrapping_key())
            handle.flush()
            os.fsync(handle.fileno())
        note(
            f"made the wrapping key {file}: keep a copy apart from the key store; without it nothing is read"
        )
    keys.create()
    keys.close()
    if as_json:
        print_json({"keys": keys.url, "wrapping_key": encryption.wrapping_key, "wrapping_key_made": made})
    else:
        click.echo(f"the key store is {keys.url}")


@group.command("rotate")
@config_option
@json_option
def rotate(config_file: Path, as_json: bool) -> None:
    """Wrap every key anew by the wrapping key of the configuration.

    Before it, name the present wrapping key as old_wrapping_key and the new one as wrapping_key, and start
    applications again: both are then read. Afterwards the old one may be destroyed. It can be broken off at
    any moment; the same command goes on.
    """
    keys, done, due = _opened(_encryption(config_file)), 0, Ticker()

    def report(count: int) -> None:
        nonlocal done
        done += count
        if due():
            note(f"wrapped {counted(done, 'key')} anew")

    count = keys.rotate(report)
    keys.close()
    if as_json:
        print_json({"keys": keys.url, "rotated": count})
    else:
        click.echo(f"wrapped {counted(count, 'key')} anew")


def _encryption(config_file: Path) -> Encryption:
    from eventchain.config import Config
    from eventchain.errors import ConfigError

    encryption = Config.load(config_file).encryption
    if encryption is None:
        raise ConfigError(
            f"{config_file} has no [encryption]",
            hint='keys = "sqlite:///keys.db" and wrapping_key = "file:wrapping.key" there',
        )
    return encryption


def _opened(encryption: Encryption) -> KeyStore:
    from eventchain.assembly import key_store

    return key_store(encryption)


def keys_of(chain: Chain) -> KeyStore:
    """The key store that the configuration names. Raises ConfigError where it names none."""
    from eventchain.errors import ConfigError
    from eventchain.subjects import Encrypted

    if not isinstance(chain.events, Encrypted):
        raise ConfigError(
            "the configuration has no [encryption], so no subjects are known",
            hint='keys = "sqlite:///keys.db" and wrapping_key = "file:wrapping.key" there',
        )
    return chain.events.keys
