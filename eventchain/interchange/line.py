"""One event, one line: a CloudEvent 1.0 in the JSON event format.

What becomes what, reading a line:

==========  ================================================================================================
stream      ``subject``; without one, ``source``
version     ``sequence``, decimal digits with or without leading zeros; without one, the version after the
            stream's last in this file, from 0
id, type    themselves
time        ``time``, in microseconds, further digits cut off; without one, unknown
data        the bytes of the value of ``data`` exactly as they stand in the line, or ``data_base64`` decoded
metadata    JSON of all attributes but ``id`` and ``type`` as they were given: UTF-8, no spaces, names in the
            order of their code points, numbers as written; and ``"data_base64":true`` when the data came so
==========  ================================================================================================

Writing turns this round. An event that no line would be read as (one that did not come from a CloudEvent,
or whose version followed from lines that are not written now) gets ``source`` ``eventchain`` and the
extension ``eventchainmetadata``: its metadata in Base64, ``-`` for null. There a missing ``sequence`` or
``time`` means unknown, and ``eventchaintime`` gives microseconds that lie outside the years 1 to 9999. So
every event comes back as it was.
"""

from __future__ import annotations

import base64
import binascii
import re
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple

from eventchain.errors import FormatError
from eventchain.formats.event import UNKNOWN
from eventchain.interchange.json_text import is_json, members_of, members_text

OWN_SOURCE = "eventchain"
OWN_METADATA = "eventchainmetadata"
OWN_TIME = "eventchaintime"
LEADING = ("specversion", "id", "source", "type", "subject", "sequence", "time")
"""The order in which attributes are written; others follow by name, the data comes last."""

_EPOCH = datetime(1970, 1, 1)
_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII
)


class Event(NamedTuple):
    """An event's columns without its position, in their order."""

    stream: str
    version: int
    id: str
    type: str
    time: int
    data: bytes | None
    metadata: bytes | None


class Versions(dict[str, int]):
    """The newest version of each stream so far."""

    def following(self, stream: str) -> int:
        version = max(self.get(stream, -1), -1) + 1
        if version >= 2**63:
            raise FormatError(f"no version follows {version - 1} in stream {stream!r}")
        return version


class Line(NamedTuple):
    """A line taken apart. ``binary``: the data comes in Base64."""

    attributes: dict[str, Any]
    data: bytes | None
    binary: bool


def from_line(line: bytes, versions: Versions) -> Event:
    """The event of a line. ``versions`` takes note of it. Raises FormatError."""
    try:
        parts = _parse(line.decode())
        event = _own_event(parts) or _event(parts, versions)
    except UnicodeDecodeError as error:
        raise FormatError(f"byte {error.start + 1} of the line is not UTF-8") from error
    except UnicodeEncodeError as error:
        lone = f"\\u{ord(error.object[error.start]):04x}"
        raise FormatError(f"a lone surrogate ({lone}) is not text") from error
    except RecursionError as error:
        raise FormatError("the JSON is nested too deeply") from error
    versions[event.stream] = event.version
    return event


def to_line(event: Event, versions: Versions) -> bytes:
    """The line, without its end, that is read as this event. ``versions`` takes note of it."""
    embeds = event.data is not None and is_json(event.data)
    parts = _given(event, embeds, versions)
    if parts is None:
        parts = Line(_own_attributes(event), event.data, event.data is not None and not embeds)
    versions[event.stream] = event.version
    attributes = dict(parts.attributes)
    members = {name: attributes.pop(name) for name in LEADING if name in attributes}
    text = members_text(members | dict(sorted(attributes.items())))
    if parts.data is None:
        return b"{" + text + b"}"
    if parts.binary:
        return b"{" + text + b',"data_base64":"' + base64.b64encode(parts.data) + b'"}'
    return b"{" + text + b',"data":' + parts.data + b"}"


# -- attributes and columns ---------------------------------------------------------------------------


def _parse(text: str) -> Line:
    attributes, raw = members_of(text)
    data, binary = None if raw is None else raw.encode(), False
    encoded = attributes.pop("data_base64", None)
    if encoded is not None:
        if data is not None:
            raise FormatError("both data and data_base64 are given")
        if type(encoded) is not str:
            raise FormatError("data_base64 is not a string")
        try:
            data, binary = base64.b64decode(encoded, validate=True), True
        except (binascii.Error, ValueError) as error:
            raise FormatError(f"data_base64 is not Base64: {error}") from error
    return Line(attributes, data, binary)


def _event(parts: Line, versions: Versions) -> Event:
    attributes = parts.attributes
    version = attributes.get("specversion")
    if type(version) is not str or version != "1.0":
        raise FormatError('specversion is not "1.0"', hint="each line is one CloudEvent 1.0 as JSON")
    for name in ("id", "source", "type"):
        if not _is_text(attributes.get(name)):
            raise FormatError(f"the required attribute {name} is missing or not a non-empty string")
    subject = attributes.get("subject")
    if subject is not None and not _is_text(subject):
        raise FormatError("subject is not a non-empty string")
    stream = subject or attributes["source"]
    sequence, time = attributes.get("sequence"), attributes.get("time")
    kept = {name: value for name, value in attributes.items() if name not in ("id", "type")}
    if parts.binary:
        kept["data_base64"] = True
    for text in (attributes["id"], attributes["type"]):
        text.encode()
    return Event(
        stream=stream,
        version=versions.following(stream) if sequence is None else _version(sequence),
        id=attributes["id"],
        type=attributes["type"],
        time=UNKNOWN if time is None else _microseconds(time),
        data=parts.data,
        metadata=b"{" + members_text(dict(sorted(kept.items()))) + b"}",
    )


def _given(event: Event, embeds: bool, versions: Versions) -> Line | None:
    """The line as it was given; None when the event did not come from one that would be read as it now."""
    if event.metadata is None:
        return None
    try:
        attributes, data = members_of(event.metadata.decode())
        binary = attributes.pop("data_base64", None) is True
        parts = Line(attributes | {"id": event.id, "type": event.type}, event.data, binary)
        if _event(parts, versions) != event or _own_event(parts) is not None:
            return None
    except (FormatError, UnicodeError, RecursionError):
        return None
    fits = embeds or binary if event.data is not None else not binary
    return parts if fits and data is None else None


def _own_attributes(event: Event) -> dict[str, Any]:
    attributes = {
        "specversion": "1.0",
        "id": event.id,
        "source": OWN_SOURCE,
        "type": event.type,
        "subject": event.stream,
        OWN_METADATA: "-" if event.metadata is None else base64.b64encode(event.metadata).decode(),
    }
    if event.version != UNKNOWN:
        attributes["sequence"] = str(event.version)
    if event.time != UNKNOWN:
        try:
            moment = _EPOCH + timedelta(microseconds=event.time)
            attributes["time"] = moment.isoformat(timespec="microseconds") + "Z"
        except OverflowError:
            attributes[OWN_TIME] = str(event.time)
    return attributes


def _own_event(parts: Line) -> Event | None:
    """The event that :func:`_own_attributes` made this line of; None when it did not."""
    attributes = parts.attributes
    metadata = attributes.get(OWN_METADATA)
    if not isinstance(metadata, str) or not all(type(value) is str for value in attributes.values()):
        return None
    try:
        time = int(attributes[OWN_TIME]) if OWN_TIME in attributes else UNKNOWN
        if "time" in attributes:
            time = _microseconds(attributes["time"])
        event = Event(
            stream=attributes["subject"],
            version=int(attributes["sequence"]) if "sequence" in attributes else UNKNOWN,
            id=attributes["id"],
            type=attributes["type"],
            time=time,
            data=parts.data,
            metadata=None if metadata == "-" else base64.b64decode(metadata, validate=True),
        )
        for text in event[0], event[2], event[3]:
            text.encode()
    except (KeyError, ValueError, FormatError):
        return None
    small = -(2**63) <= event.version < 2**63 and -(2**63) <= event.time < 2**63
    return event if small and _own_attributes(event) == attributes else None


def _is_text(value: Any) -> bool:
    return type(value) is str and value != ""


def _version(sequence: Any) -> int:
    digits = isinstance(sequence, str) and sequence.isascii() and sequence.isdecimal()
    if not digits or len(sequence.lstrip("0")) > 19:
        raise FormatError(f"sequence {sequence!r} is not a number of decimal digits below 2^63")
    if (version := int(sequence)) >= 2**63:
        raise FormatError(f"sequence {sequence!r} is not below 2^63")
    return version


def _microseconds(time: Any) -> int:
    """RFC 3339 to microseconds since 1970 UTC. A leap second counts as the second after it."""
    match = _TIME.fullmatch(time) if type(time) is str else None
    if not match:
        raise FormatError(f"time {time!r} is not an RFC 3339 time with an offset")
    *numbers, fraction, sign, hours, minutes = match.groups()
    year, month, day, hour, minute, second = map(int, numbers)
    ahead = (int(hours) * 60 + int(minutes)) * (-1 if sign == "-" else 1) if sign else 0
    try:
        days = date(year, month, day).toordinal() - _EPOCH.toordinal()
    except ValueError as error:
        raise FormatError(f"time {time!r} does not exist: {error}") from error
    if hour > 23 or minute > 59 or second > 60 or (sign and (int(hours) > 23 or int(minutes) > 59)):
        raise FormatError(f"time {time!r} does not exist")
    seconds = ((days * 24 + hour) * 60 + minute - ahead) * 60 + second
    return seconds * 1_000_000 + (int(fraction[:6].ljust(6, "0")) if fraction else 0)
