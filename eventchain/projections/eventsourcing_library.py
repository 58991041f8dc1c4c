"""Aggregates, applications and projections of the Python library ``eventsourcing``, used as they are.

What an import string names decides what the state is: an aggregate class, its aggregates by id; an
application class, all its aggregates, read with its own transcodings, compression and encryption; a
projection class, its view.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from inspect import isabstract
from typing import Any, get_args, get_origin

from eventsourcing.application import Application
from eventsourcing.domain import BaseAggregate, CanInitAggregate
from eventsourcing.persistence import Mapper, StoredEvent, Tracking
from eventsourcing.popo import POPOTrackingRecorder
from eventsourcing.projection import Projection as LibraryProjection
from eventsourcing.utils import get_topic, resolve_topic

from eventchain.errors import ProjectionError
from eventchain.projections.event import Event
from eventchain.projections.projection import Projection, code_of, found_by


def adapted(found: Any, options: Mapping[str, Any]) -> Projection[Any] | None:
    """The projection for a class of the library; None for anything else. Raises ProjectionError."""
    if not isinstance(found, type):
        return None
    if issubclass(found, BaseAggregate):
        return Aggregates(found, **options)
    if issubclass(found, LibraryProjection):
        return View(found, **options)
    if issubclass(found, Application):
        return Aggregates(BaseAggregate, application=found, **options)
    return None


class _OfLibrary(Projection[Any]):
    """Reads the library's stored events. application: whose transcodings are used, a class or its import
    string; else the library's own."""

    def __init__(self, application: type[Application[Any]] | str | None, *code: type) -> None:
        kind = found_by(application) if isinstance(application, str) else application or Application
        self._code = (*code, kind)
        environment = {"PERSISTENCE_MODULE": "eventsourcing.popo", "IS_SNAPSHOTTING_ENABLED": "n"}
        self._mapper: Mapper[Any] = kind({**os.environ, **environment}).mapper
        self._plain = _Plain(self._mapper.transcoder)

    def code(self) -> str:
        return "\n".join(
            code_of(one) for one in self._code if not one.__module__.startswith("eventsourcing.")
        )

    def _domain_event(self, event: Event) -> Any:
        if event.data is None or event.version is None:
            raise ProjectionError("it is no event of the library `eventsourcing`: it has no state or version")
        return self._mapper.to_domain_event(StoredEvent(event.stream, event.version, event.type, event.data))

    def dump(self, state: Any) -> bytes:
        return json.dumps(
            self._plain.of(self._outside(state)), ensure_ascii=False, sort_keys=True, separators=(",", ":")
        ).encode()

    def load(self, data: bytes) -> Any:
        return self._inside(self._plain.back(json.loads(data)))

    def _outside(self, state: Any) -> Any:
        """The state as values that can be written as JSON."""
        raise NotImplementedError  # each kind of object of the library has its own

    def _inside(self, values: Any) -> Any:
        """The state that was written as these values."""
        raise NotImplementedError  # as above


class Aggregates(_OfLibrary):
    """The aggregates of a class, by stream. Dumped as a JSON object with the topic and attributes of each."""

    def __init__(
        self,
        aggregate: type[BaseAggregate[Any]],
        *,
        application: type[Application[Any]] | str | None = None,
    ) -> None:
        super().__init__(application, aggregate)
        self._class = aggregate

    def initial(self) -> dict[str, BaseAggregate[Any]]:
        return {}

    def apply(self, state: dict[str, BaseAggregate[Any]], event: Event) -> dict[str, BaseAggregate[Any]]:
        aggregate = state.get(event.stream)
        if aggregate is None and not self._begins(event):
            return state
        after = self._domain_event(event).mutate(aggregate)
        if after is None:
            del state[event.stream]
        else:
            state[event.stream] = after
        return state

    def _begins(self, event: Event) -> bool:
        """Whether an aggregate of the class begins with the event."""
        kind = resolve_topic(event.type)
        if not (isinstance(kind, type) and issubclass(kind, CanInitAggregate)):
            return False
        return issubclass(resolve_topic(self._domain_event(event).originator_topic), self._class)

    def _outside(self, state: dict[str, BaseAggregate[Any]]) -> Any:
        return {
            stream: {
                "topic": get_topic(type(aggregate)),
                "state": {name: value for name, value in vars(aggregate).items() if name != _PENDING},
            }
            for stream, aggregate in state.items()
        }

    def _inside(self, values: Any) -> dict[str, BaseAggregate[Any]]:
        state = {}
        for stream, value in values.items():
            aggregate = object.__new__(resolve_topic(value["topic"]))
            aggregate.__dict__.update(value["state"], **{_PENDING: []})
            state[stream] = aggregate
        return state


class View(_OfLibrary):
    """The view of a projection, one in memory. Dumped as a JSON object of its attributes.

    view: the class, or its import string; else the one that the projection is generic over, or the only
    ``POPOTrackingRecorder`` that derives from that.
    """

    def __init__(
        self,
        projection: type[LibraryProjection[Any]],
        *,
        view: type | str | None = None,
        application: type[Application[Any]] | str | None = None,
    ) -> None:
        self._class = projection
        self._view = found_by(view) if isinstance(view, str) else view or _view_of(projection)
        super().__init__(application, projection, self._view)

    def initial(self) -> Any:
        return self._class(self._view())

    def apply(self, state: Any, event: Event) -> Any:
        if not state.topics or event.type in state.topics:
            # Late events have lower positions than those before them: what is counted here always grows.
            before = state.view.max_tracking_id(_NAME)
            state.process_event(self._domain_event(event), Tracking(_NAME, (before or 0) + 1))
        return state

    def _outside(self, state: Any) -> Any:
        return {
            name: value
            for name, value in vars(state.view).items()
            if name not in vars(POPOTrackingRecorder())
        }

    def _inside(self, values: Any) -> Any:
        state = self.initial()
        for name, value in values.items():
            there = vars(state.view).get(name)
            if isinstance(there, dict) and isinstance(value, dict):  # stays a defaultdict, a Counter
                there.clear()
                there.update(value)
            else:
                setattr(state.view, name, value)
        return state


_PENDING = "_pending_events"
_NAME = "eventchain"


def _view_of(projection: type[LibraryProjection[Any]]) -> type:
    stated = [
        view
        for base in projection.__mro__
        for origin in base.__dict__.get("__orig_bases__", ())
        if isinstance(get_origin(origin), type) and issubclass(get_origin(origin), LibraryProjection)
        for view in get_args(origin)
        if isinstance(view, type)
    ]
    usable = [
        view
        for view in dict.fromkeys(_and_derived(stated))
        if issubclass(view, POPOTrackingRecorder) and not isabstract(view)
    ]
    if len(usable) != 1:
        raise ProjectionError(
            f"{projection.__qualname__} has {len(usable)} views in memory"
            + "".join(f", {view.__module__}:{view.__qualname__}" for view in usable),
            hint='options = { view = "module:Class" } states which, a POPOTrackingRecorder',
        )
    return usable[0]


def _and_derived(classes: Iterable[type]) -> Iterable[type]:
    for one in classes:
        yield one
        yield from _and_derived(one.__subclasses__())


class _Plain:
    """Python values as JSON values and back, with nothing lost: what JSON has no kind for becomes
    ``{"_type_": …, "_data_": …}``, as in the library's transcodings, which serve what they are for."""

    def __init__(self, transcoder: Any) -> None:
        self._types = transcoder.types
        self._names = transcoder.names

    def of(self, value: Any) -> Any:
        kind = type(value)
        if value is None or kind in (bool, int, float, str):
            return value
        if kind in self._types:
            transcoding = self._types[kind]
            return _marked(transcoding.name, self.of(transcoding.encode(value)))
        if kind is list:
            return list(map(self.of, value))
        if isinstance(value, dict):
            if all(type(key) is str for key in value) and "_type_" not in value:
                return {key: self.of(one) for key, one in value.items()}
            pairs = [[self.of(key), self.of(one)] for key, one in value.items()]
            return _marked("dict", sorted(pairs, key=lambda pair: _order(pair[0])))
        if kind is tuple:
            return _marked("tuple", list(map(self.of, value)))
        if kind in (set, frozenset):
            return _marked(kind.__name__, sorted(map(self.of, value), key=_order))
        if dataclasses.is_dataclass(value):
            fields = {one.name: self.of(getattr(value, one.name)) for one in dataclasses.fields(value)}
            return _marked("dataclass", [get_topic(kind), fields])
        raise ProjectionError(
            f"the state holds {kind.__qualname__} objects, which have no known way into JSON",
            hint="register a transcoding for it on the application, and name the application",
        )

    def back(self, value: Any) -> Any:
        if isinstance(value, list):
            return list(map(self.back, value))
        if not isinstance(value, dict):
            return value
        if "_type_" not in value:
            return {key: self.back(one) for key, one in value.items()}
        name, data = value["_type_"], self.back(value["_data_"])
        if name in self._names:
            return self._names[name].decode(data)
        if name == "dict":
            return dict(data)
        if name == "dataclass":
            topic, fields = data
            made = object.__new__(resolve_topic(topic))
            for field, one in fields.items():
                object.__setattr__(made, field, one)
            return made
        return {"tuple": tuple, "set": set, "frozenset": frozenset}[name](data)


def _marked(name: str, data: Any) -> dict[str, Any]:
    return {"_type_": name, "_data_": data}


def _order(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
