"""Files to log in with: the seed of an nkey, or credentials."""

from __future__ import annotations

import re
from pathlib import Path

from eventchain.errors import ConfigError

_SEED = rb"SU[A-Z2-7]{56}"
_CREDENTIALS = re.compile(
    rb"-----BEGIN NATS USER JWT-----\n[\w.-]+\n-+END NATS USER JWT-+\n.*"
    rb"-----BEGIN USER NKEY SEED-----\n%b\n" % _SEED,
    re.DOTALL,
)


def check_seed(file: str) -> None:
    """Raises ConfigError unless the file holds the seed of a user's nkey."""
    if not re.fullmatch(_SEED, _read(file).strip()):
        raise ConfigError(
            f"{file} holds no seed of a user's nkey", hint="one line, which begins with SU: `nk -gen user`"
        )


def check_credentials(file: str) -> None:
    """Raises ConfigError unless the file holds a user's JWT and seed: nats-py looks for them for ever."""
    if not _CREDENTIALS.search(_read(file)):
        raise ConfigError(
            f"{file} is no credentials file of a user",
            hint="it has a JWT and a seed, and no Windows line ends: `nsc generate creds` prints one",
        )


def _read(file: str) -> bytes:
    if re.fullmatch(_SEED, file.encode()):
        raise ConfigError("a seed is given where its file should be", hint="write it into a file, mode 600")
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be read: {error.strerror}", hint="it is needed to log in to NATS"
        ) from None
