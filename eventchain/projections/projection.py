"""What a projection is, and how one is found by its import string."""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

from eventchain.errors import ProjectionError
from eventchain.projections.event import Event
from eventchain.projections.page import Events, failed
from eventchain.projections.path import Path

State = TypeVar("State")
FAILURES = (Exception, SystemExit)
"""What a stranger's code is expected to raise: a projection that exits must not end us without a word."""


class Projection(Generic[State]):
    """A fold over events: a state that begins as ``initial()`` and that ``apply`` takes from event to event.

    ``apply`` must depend on nothing but the state, the event and the projection's options: no clock, no
    randomness, no network. So the same events give the same state anywhere, byte for byte as ``dump`` writes
    it, and a snapshot can be proven by replaying the events.
    """

    def initial(self) -> State:
        """The state before any event."""
        raise NotImplementedError("every projection brings its own")

    def apply(self, state: State, event: Event) -> State:
        """The state after the event. May change the given state and return it; keeps nothing of the event's
        parsed JSON in it that it would change later."""
        raise NotImplementedError("every projection brings its own `apply`, or `apply_events`")

    def apply_events(self, state: State, events: Events) -> State:
        """The state after many events. A projection that can do better than one by one does it here, and
        names in ``paths`` what it reads out of payloads, so that all of a pass are served at once."""
        for event in events:
            try:
                state = self.apply(state, event)
            except FAILURES as error:
                raise failed(event, error) from error
        return state

    @property
    def paths(self) -> tuple[Path, ...]:
        """What ``apply_events`` asks its events for, as far as it is known before."""
        return ()

    def dump(self, state: State) -> bytes:
        """The state as bytes, equal for equal states: canonical JSON (RFC 8785) unless a projection brings
        its own. Strings, whole numbers below 2^53, floats, booleans, None, lists, and dicts with strings as
        keys. Raises ProjectionError for anything else."""
        return canonical(state)

    def load(self, data: bytes) -> State:
        """The state that ``dump`` wrote."""
        state: State = json.loads(data)
        return state

    @property
    def options(self) -> Mapping[str, Any]:
        """What ``apply`` depends on besides code, as JSON values: a part of the fingerprint."""
        return {}

    def code(self) -> str:
        """What stands for the code in the fingerprint."""
        return code_of(type(self))

    def fingerprint(self) -> str:
        """A short token that changes when the projection's code or its options change."""
        digest = hashlib.sha256(self.code().encode())
        digest.update(b"\0" + canonical(dict(self.options), "`options`"))
        return digest.hexdigest()[:16]


def canonical(value: Any, what: str = "the state") -> bytes:
    """The one JSON text of a value under RFC 8785. Raises ProjectionError for what is not JSON."""
    import rfc8785

    try:
        if _flat(value):  # Python's own encoder then writes the same, twenty times as fast
            return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError, RecursionError) as error:
        raise ProjectionError(
            f"{what} is not JSON: {error}",
            hint="use strings, numbers, booleans, None, lists and dicts, or write `dump` and `load`",
        ) from error


def _flat(value: Any) -> bool:
    """Whether it is a dict of strings and whole numbers, its keys in the same order as UTF-16 code units and
    as code points."""
    return (
        type(value) is dict
        and all(type(key) is str for key in value)
        and all(type(one) is str or (type(one) is int and -(2**53) < one < 2**53) for one in value.values())
        and max("".join(value), default="") < "\U00010000"
    )


def by_columns(projection: Projection[Any]) -> bool:
    """Whether it takes many events at once without making objects of them."""
    return type(projection).apply_events is not Projection.apply_events


def code_of(thing: Any) -> str:
    """The code of a class or function, without comments, docstrings and layout: its own, and that of every
    name at the top level of its module that it uses, directly or through others. Of other modules only what
    is imported from them, not their code. Raises ProjectionError when there is no source to read."""
    module = inspect.getmodule(thing)
    try:
        tree = ast.parse(inspect.getsource(module))  # type: ignore[arg-type]
    except (OSError, TypeError, SyntaxError):
        raise ProjectionError(
            f"the source of {thing.__qualname__} cannot be read, so no change of it would be noticed",
            hint="put the projection into a module that is a file",
        ) from None
    known = _top_level(tree)
    wanted, taken = [thing.__qualname__.partition(".")[0]], set()
    while wanted:
        name = wanted.pop()
        if name in known and name not in taken:
            taken.add(name)
            wanted += [
                node.id for part in known[name] for node in ast.walk(part) if isinstance(node, ast.Name)
            ]
    return "\n".join(ast.unparse(_bare(part)) for name in sorted(taken) for part in known[name])


def _top_level(tree: ast.Module) -> dict[str, list[ast.stmt]]:
    """The statements that give each name at the top level of a module its value, in order."""
    known: dict[str, list[ast.stmt]] = {}
    for part in tree.body:
        for name in set(_given(part)):
            known.setdefault(name, []).append(part)
    return known


def _given(part: ast.stmt) -> Iterator[str]:
    """The names that a statement gives a value, at any depth outside of classes and functions."""
    if isinstance(part, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        yield part.name
    elif isinstance(part, (ast.Import, ast.ImportFrom)):
        yield from (alias.asname or alias.name.partition(".")[0] for alias in part.names)
    else:
        for node in ast.iter_child_nodes(part):
            if isinstance(node, ast.stmt):
                yield from _given(node)
            else:
                yield from (
                    inner.id
                    for inner in ast.walk(node)
                    if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store)
                )


def _bare(tree: ast.stmt) -> ast.stmt:
    """Without docstrings."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def imported(use: str, options: Mapping[str, Any] | None = None) -> Projection[Any]:
    """The projection that an import string ``module:object`` names, the current folder included: a class,
    which is given the options, an instance, a function that is given them and returns one, or a class of the
    library ``eventsourcing``. Raises ProjectionError."""
    found = found_by(use)
    options = options or {}
    if isinstance(found, Projection):
        if options:
            raise ProjectionError(f"{use!r} is an instance and takes no options", hint="name its class")
        return found
    made = None
    if callable(found):
        try:
            if "eventsourcing.domain" in sys.modules:  # else nothing of that library is named
                from eventchain.projections.eventsourcing_library import adapted

                made = adapted(found, options)
            made = found(**options) if made is None else made
        except ProjectionError:
            raise
        except FAILURES as error:
            raise ProjectionError(
                f"{use!r} cannot be made: {type(error).__name__}: {error}",
                hint="it is called with the `options` as keywords, and must give a Projection",
            ) from error
    if not isinstance(made, Projection):
        raise ProjectionError(
            f"{use!r} is not a projection but a {type(found if made is None else made).__name__}",
            hint="derive its class from eventchain.projections.Projection",
        )
    return made


def found_by(use: str) -> Any:
    """What an import string names. Raises ProjectionError."""
    module_name, separator, name = use.partition(":")
    if not separator or not module_name or not name:
        raise ProjectionError(
            f"{use!r} is not an import string", hint="that is module:object, as shop.totals:OrderTotals"
        )
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise ProjectionError(
                f"there is no module {error.name!r} for {use!r}",
                hint="it is looked for in the current folder and where Python's packages are",
            ) from None
        raise ProjectionError(f"importing {module_name!r} failed: {error}") from error
    except FAILURES as error:
        raise ProjectionError(f"importing {module_name!r} failed: {type(error).__name__}: {error}") from error
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ProjectionError(
                f"the module {module_name!r} has no {name!r}", hint="an import string is module:object"
            ) from None
    return found
