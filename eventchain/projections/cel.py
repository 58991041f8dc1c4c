"""CEL expressions over events: checked once, and worked out once for each different thing they look at.

CEL is the Common Expression Language (https://cel.dev). Here it sees ``position``, ``stream``, ``version``,
``id``, ``type``, ``time`` (a timestamp), and ``data`` and ``metadata``: the JSON object there, an empty one
when there is none. Whole numbers are int, those beyond 64 bits double. An event for which the expression has
no value is not taken: a member or a time that the event lacks, things compared that do not compare.

An expression is split at its outermost ``&&``. Each part is worked out for the different values of what it
names, mostly few, and not for each event: so only these members are parsed, and only of events that the other
parts took. Which events are taken stays the same, as a conjunction is true only where all its parts are. A
part that compares one member with a literal, or asks for it, is worked out here, as such values may be many.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import numpy as np

from eventchain.errors import ProjectionError
from eventchain.formats.event import UNKNOWN
from eventchain.projections.event import parsed
from eventchain.projections.page import Events
from eventchain.projections.path import PAYLOADS, Path

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

_VARIABLES = {
    "position": "INT",
    "stream": "STRING",
    "version": "INT",
    "id": "STRING",
    "type": "STRING",
    "time": "TIMESTAMP",
    "data": "DYN",
    "metadata": "DYN",
}
_REPEATING = ("stream", "type")  # columns in which few values come again and again
_REMEMBERED = 100_000
_TOKEN = re.compile(r'"(?:\\.|[^"\\\n])*"|' r"'(?:\\.|[^'\\\n])*'|" r"[A-Za-z_][A-Za-z0-9_]*|&&|\|\||//|\S")
_PLAIN_STRING = re.compile(r"""(["'])[^"'\\\n]*\1""")
_UNUSUAL_VALUE = re.compile(rb"[0-9]{19}|\\u0000")
_COMPARISON = re.compile(
    r"""\s*(?:data|metadata)(?:\.[A-Za-z_][A-Za-z0-9_]*)+\s*(==|!=|<=|>=|<|>)\s*"""
    r"""(-?[0-9]+(?:\.[0-9]+)?|"[^"\\\n]*"|'[^'\\\n]*')\s*"""
)
_PRESENCE = re.compile(r"\s*(!?)\s*has\(\s*(?:data|metadata)\.[A-Za-z_][A-Za-z0-9_]*\s*\)\s*")
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_NOTHING: Any = object()
_CONTAINER = "event"
_HINT = "it is CEL (https://cel.dev) over " + ", ".join(_VARIABLES)


class Expression:
    """A condition on events. Raises ProjectionError, with the place, for one that is wrong.

    paths: what it looks at in payloads, as far as that can be told."""

    def __init__(self, text: str) -> None:
        compiled(text)
        self._parts = sorted(map(_Part, conjuncts(text)), key=lambda part: part.cost)
        self.paths = tuple(path for part in self._parts for path in part.paths if path.members)

    def chosen(self, events: Events) -> Events:
        """The events for which it is true."""
        for part in self._parts:
            if len(events):
                events = events.where(part.holds(events))
        return events


class _Part:
    """A condition that is worked out as one. paths: all that it looks at, a payload without members being
    the whole of it."""

    def __init__(self, text: str) -> None:
        self._program = compiled(text)
        self.paths = looked_at(text)
        self._repeats = all(path.members or path.column in _REPEATING for path in self.paths)
        self._known: dict[tuple[Any, ...], bool] = {}
        self._compares = comparison(text)
        self.cost = (sum(path.column in PAYLOADS for path in self.paths), not self._repeats)

    def holds(self, events: Events) -> Any:
        """A boolean for each event."""
        if not self._repeats:
            rows = zip(*map(events.column, self.paths), strict=True)
            return np.fromiter(map(self._true, rows), bool, len(events))
        if not self.paths:
            return np.full(len(events), self._true(()))
        groups = [events.values(path) for path in self.paths]
        if len(groups) == 1:
            ((codes, values),) = groups
            verdicts = np.zeros(len(values), bool)
            there = np.nonzero(np.bincount(codes, minlength=len(values)))[0]
            verdicts[there] = [self._remembered((values[code],)) for code in there.tolist()]
            return verdicts[codes]
        together = list(zip(*(codes.tolist() for codes, _ in groups), strict=True))
        known = {}
        for one in set(together):
            found = tuple(values[code] for code, (_, values) in zip(one, groups, strict=True))
            known[one] = self._remembered(found)
        return np.fromiter(map(known.__getitem__, together), bool, len(together))

    def _remembered(self, found: tuple[Any, ...]) -> bool:
        if self._compares is not None:
            return self._compares(found[0])
        verdict = self._known.get(found)
        if verdict is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            verdict = self._known[found] = self._true(found)
        return verdict

    def _true(self, found: Sequence[Any]) -> bool:
        """For what an event has at each of the paths."""
        variables: dict[str, Any] = {path.column: {} for path in self.paths if path.column in PAYLOADS}
        for path, value in zip(self.paths, found, strict=True):
            if path.column in PAYLOADS:
                _put(variables, (path.column, *path.members), value)
            elif path.column == "time":
                if (moment := _moment(value)) is not None:
                    variables["time"] = moment
            elif value != UNKNOWN:
                variables[path.column] = _representable(value)
        data = {f"{_CONTAINER}.{name}": value for name, value in variables.items()}
        return self._program.eval(data=data).plain_value() is True


def _put(variables: dict[str, Any], at: Sequence[str], text: bytes | None) -> None:
    """Set the JSON value at the end of a path of members; nothing for what is not JSON, and no payload that
    is not an object."""
    value = _value(text)
    if value is _NOTHING or (len(at) == 1 and not isinstance(value, dict)):
        return
    for name in at[:-1]:
        variables = variables.setdefault(name, {})
    variables[at[-1]] = value


def _value(text: bytes | None) -> Any:
    """What JSON stands for, _NOTHING for what is not JSON."""
    try:
        value = parsed(text) if text else _NOTHING
    except ValueError:
        return _NOTHING
    return _representable(value) if text and _UNUSUAL_VALUE.search(text) else value


def _representable(value: Any) -> Any:
    """A JSON value as CEL can hold it: whole numbers beyond 64 bits as double, U+FFFD for NUL, at which the
    library would end the text."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    if isinstance(value, dict):
        return {_representable(name): _representable(one) for name, one in value.items()}
    if isinstance(value, list):
        return list(map(_representable, value))
    if type(value) is int and not -(2**63) <= value < 2**63:
        return float(value) if abs(value) < 10**308 else math.inf if value > 0 else -math.inf
    return value


def _moment(microseconds: int) -> datetime | None:
    """None also for a time that CEL's timestamps do not reach: they are of the years 1 to 9999."""
    try:
        return EPOCH + microseconds * MICROSECOND
    except OverflowError:
        return None


# -- the expression's text --------------------------------------------------------------------------------


def compiled(text: str, names: Sequence[str] = tuple(_VARIABLES)) -> Any:
    """The checked program. names: the variables that it may use. Raises ProjectionError with the place where
    it is wrong."""
    environment = _environment(tuple(names))
    try:
        program = environment.compile(text)
    except RuntimeError as error:
        raise ProjectionError(_complaint(str(error)), hint=_HINT) from None
    if (kind := program.return_type().name()) not in ("BOOL", "DYN"):
        raise ProjectionError(f"the filter {text!r} is neither true nor false but {kind}", hint=_HINT)
    return program


@lru_cache(32)
def _environment(names: tuple[str, ...]) -> Any:
    try:
        from cel_expr_python import cel
    except ImportError:
        raise ProjectionError(
            "filters need the package cel-expr-python", hint='pip install "eventchain[filters]"'
        ) from None
    # `type` is a function of CEL; in a container of its own the variable of that name comes first.
    variables = {f"{_CONTAINER}.{name}": getattr(cel.Type, _VARIABLES[name]) for name in names}
    return cel.NewEnv(container=_CONTAINER, variables=variables)


def _complaint(said: str) -> str:
    text = said.removeprefix("INVALID_ARGUMENT: ").replace(f" (in container '{_CONTAINER}')", "")
    text = re.sub(r" \[[A-Z_]+\]$", "", text)
    return re.sub(r"ERROR: <input>:([0-9]+):([0-9]+): ", r"the filter is wrong at line \1, column \2: ", text)


def tokens_of(text: str) -> list[re.Match[str]]:
    """The words and signs of an expression; none for one with comments, quoted names, or strings that are
    raw, of bytes or of several lines, which are not taken apart here."""
    tokens = list(_TOKEN.finditer(text))
    for token, after in zip(tokens, [*tokens[1:], None], strict=True):
        string_follows = after is not None and after[0][0] in "\"'" and after.start() == token.end()
        if token[0] in ("//", "`", '"', "'") or (
            string_follows and (token[0][0] in "\"'" or token[0][0].isalpha())
        ):
            return []
    return tokens


def conjuncts(text: str) -> list[str]:
    """The parts between its outermost ``&&``; the whole when something that binds less tightly stands beside
    them, or when it cannot be taken apart."""
    parts, depth, begin = [], 0, 0
    for token in tokens_of(text):
        sign = token[0]
        depth += (sign in "([{") - (sign in ")]}")
        if depth == 0 and sign in ("||", "?"):
            return [text]
        if depth == 0 and sign == "&&":
            parts.append(text[begin : token.start()])
            begin = token.end()
    return [*parts, text[begin:]]


def comparison(text: str) -> Callable[[bytes], bool] | None:
    """For an expression that compares one member with a number or a string, or asks whether it is there:
    what CEL says of the member's JSON, empty for none. None for any other expression."""
    if match := _PRESENCE.fullmatch(text):
        wanted = not match[1]
        return lambda found: (_value(found) is not _NOTHING) is wanted
    match = _COMPARISON.fullmatch(text)
    if match is None:
        return None
    operate, word = _OPERATORS[match[1]], match[2]
    literal: Any = word[1:-1] if word[0] in "\"'" else float(word) if "." in word else int(word)
    kinds = (str,) if isinstance(literal, str) else (int, float)

    def compares(found: bytes) -> bool:
        value = _value(found)
        if type(value) not in kinds:  # what differs in kind is unequal, and neither less nor greater
            return operate is operator.ne and value is not _NOTHING
        if type(value) is type(literal):
            return operate(value, literal)
        return operate(float(value), float(literal))

    return compares


def looked_at(text: str) -> tuple[Path, ...]:
    """Everything of an event that an expression can depend on, a payload without members being the whole."""
    tokens = [token[0] for token in tokens_of(text)]
    found = set(_paths(tokens))
    try:
        if not tokens or _CONTAINER in tokens:
            raise ProjectionError("not taken apart")
        compiled(text, sorted({path.column for path in found}))
    except ProjectionError:  # it may name more than was seen
        found = set(map(Path, _VARIABLES))
    covered = [path for path in found if any(_within(path, other) for other in found)]
    return tuple(sorted(found.difference(covered), key=str))


def _within(path: Path, other: Path) -> bool:
    return (
        path != other and path.column == other.column and path.members[: len(other.members)] == other.members
    )


def _paths(tokens: Sequence[str]) -> Iterator[Path]:
    for at, token in enumerate(tokens):
        if token not in _VARIABLES or (at and tokens[at - 1] == "."):
            continue
        end, members = at + 1, []
        while token in PAYLOADS:
            ahead = [*tokens[end : end + 3], "", "", ""]
            if ahead[0] == "." and ahead[2] != "(":
                members.append(ahead[1])
                end += 2
            elif ahead[0] == "[" and ahead[2] == "]" and _PLAIN_STRING.fullmatch(ahead[1]):
                members.append(ahead[1][1:-1])
                end += 3
            else:
                break
        # `has` tells whether the object before the last member is there, unlike everything else.
        if len(members) > 1 and "".join(tokens[max(at - 2, 0) : at]) == "has(":
            del members[-1]
        yield Path(token, tuple(members))
