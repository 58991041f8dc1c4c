"""TOML files that people write: every complaint names the file, the line and the key."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from eventchain.errors import ConfigError, EventChainError

_MISSING = object()
_NAMES: dict[type, str] = {str: "a string", int: "a whole number", dict: "a table", list: "a list"}

Value = TypeVar("Value")


class TomlReader:
    """Takes values out of a file. Raises ConfigError for whatever is not as it should be.

    text: the content; path: where it is, for messages; template: what to compare a broken file with. In its
    methods ``table`` is the name in the brackets over a key, empty for keys above all tables.
    """

    def __init__(self, text: str, path: Path, template: str) -> None:
        self._lines = text.splitlines()
        self._path = path
        try:
            self.values: dict[str, Any] = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path} is not TOML: {error}", hint=f"compare it with {template}") from None

    def check_keys(self, values: Mapping[str, Any], known: Iterable[str], table: str) -> None:
        known = list(known)
        where = f" in [{table}]" if table else ""
        for key in values:
            if key not in known:
                raise ConfigError(
                    f"{self.at(key, table)}: unknown key {key!r}{where}",
                    hint=f"known are {', '.join(known)}",
                )

    def take(
        self, values: Mapping[str, Any], key: str, kind: type, default: Any = _MISSING, table: str = ""
    ) -> Any:
        if key not in values:
            if default is _MISSING:
                where = self.at(table) if table else self._path
                raise ConfigError(f"{where}: the key {key!r} is missing", hint=f"add a line {key} = …")
            return default
        value = values[key]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ConfigError(f"{self.at(key, table)}: {key!r} must be {_NAMES[kind]}, not {value!r}")
        return value

    def positive(self, values: Mapping[str, Any], key: str, most: int | None = None) -> int | None:
        value: int | None = self.take(values, key, int, None)
        if value is not None and value < 1:
            raise ConfigError(f"{self.at(key)}: {key!r} must be at least 1, not {value}")
        if value is not None and most is not None and value > most:
            raise ConfigError(f"{self.at(key)}: {key!r} must be at most {most}, not {value}")
        return value

    def file(self, values: Mapping[str, Any], key: str, folder: Path) -> str | None:
        """A path, relative to the file's folder."""
        value: str | None = self.take(values, key, str, None)
        return None if value is None else str(folder / value)

    def names(self, values: Mapping[str, Any], key: str) -> tuple[str, ...] | None:
        value: list[Any] | None = self.take(values, key, list, None)
        if value is not None and not (value and all(isinstance(one, str) for one in value)):
            raise ConfigError(f"{self.at(key)}: {key!r} must be a list of strings, not {value!r}")
        return None if value is None else tuple(value)

    def seconds(self, values: Mapping[str, Any], key: str, default: float) -> float:
        value = values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e9:
            raise ConfigError(f"{self.at(key)}: {key!r} must be a number of seconds, not {value!r}")
        return float(value)

    def flag(self, values: Mapping[str, Any], key: str, table: str = "") -> bool:
        """true or false, which it is when the key is absent."""
        value = values.get(key, False)
        if not isinstance(value, bool):
            raise ConfigError(f"{self.at(key, table)}: {key!r} must be true or false, not {value!r}")
        return value

    def parsed(
        self, values: Mapping[str, Any], key: str, parse: Callable[[str], Value], table: str = ""
    ) -> Value | None:
        """What ``parse`` makes of a string, whose errors get the line; None when the key is absent."""
        text = self.take(values, key, str, None, table)
        try:
            return None if text is None else parse(text)
        except EventChainError as error:
            raise ConfigError(f"{self.at(key, table)}: {error.message}", hint=error.hint) from None

    def at(self, key: str, table: str = "") -> str:
        """``file:line`` of a key of a table, or of the table of that name."""
        lines = list(enumerate(self._lines, 1))
        if table:
            header = re.compile(rf"\s*\[\s*{_spelled(table)}\s*\]")
            lines = lines[next((n for n, text in lines if header.match(text)), 0) :]
        line = re.compile(rf"\s*(\[\s*)?{_spelled(key)}\s*[=.\]]")
        number = next((n for n, text in lines if line.match(text)), None)
        return f"{self._path}:{number}" if number else str(self._path)


def _spelled(dotted: str) -> str:
    """A pattern of a key, its parts bare or quoted."""
    return r"\s*\.\s*".join(rf"[\"']?{re.escape(part)}[\"']?" for part in dotted.split("."))
