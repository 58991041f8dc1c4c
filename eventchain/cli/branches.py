"""Naming branches on the command line."""

from __future__ import annotations

from collections.abc import Sequence

from eventchain.cli.common import printable


def named(origins: Sequence[str], wanted: str) -> str:
    """The origin that is meant: by itself, without the trunk's in front of it, or by its last part where that
    is one branch's alone. The trunk is the first of them. Raises ConfigError where there is none."""
    from difflib import get_close_matches

    from eventchain.errors import ConfigError

    trunk = origins[0].partition("@")[0] if origins else ""
    for name in (wanted, f"{trunk}/{wanted}"):
        if name in origins:
            return name
    found = [origin for origin in origins if origin.rpartition("/")[2] == wanted]
    if len(found) == 1:
        return found[0]
    known = [name for origin in origins for name in (origin, origin.rpartition("/")[2])]
    names = found or get_close_matches(wanted, known, 3, 0.4)
    raise ConfigError(
        f"{'there is more than one branch' if found else 'there is no branch'} {printable(wanted)}",
        hint=f"did you mean {' or '.join(map(printable, names))}?"
        if names
        else "`eventchain tree --all` lists them",
    )
