"""A chain's policy: what every block must keep to. Stated at genesis, and only ever tightened."""

from __future__ import annotations

import re
from dataclasses import dataclass

from eventchain.errors import FormatError
from eventchain.formats.header import target_of

MAX_NUMBER = 2**63 - 1
"""The largest decimal in a manifest."""
TOKEN = re.compile(r"[A-Za-z0-9+._/@=-]+")
SOURCE = re.compile(r"[A-Za-z0-9+._/@-]+")
_LINE = re.compile(
    r"bits=([0-9a-f]{8}) events=(0|[1-9][0-9]{0,18}) lag=(0|[1-9][0-9]{0,18}) late=(0|[1-9][0-9]{0,18}) "
    rf"source=({SOURCE.pattern})"
)


@dataclass(frozen=True, slots=True)
class Policy:
    """bits: the easiest compact target allowed; events: most leaves in a block; lag: how many blocks the
    newest sealed block may be behind; late: most late leaves in a block; source: the event store's adapter
    and its version."""

    bits: int
    events: int
    lag: int
    late: int
    source: str

    def __post_init__(self) -> None:
        target_of(self.bits)
        numbers = (
            1 <= self.events <= MAX_NUMBER and 1 <= self.lag <= MAX_NUMBER and 0 <= self.late <= MAX_NUMBER
        )
        if not numbers or not SOURCE.fullmatch(self.source):
            raise FormatError(
                f"no policy: events={self.events} lag={self.lag} late={self.late} source={self.source}",
                hint="events and lag are at least 1, late at least 0, source is letters, digits and +._/@-",
            )

    def __str__(self) -> str:
        return (
            f"bits={self.bits:08x} events={self.events} lag={self.lag} late={self.late} source={self.source}"
        )

    @classmethod
    def parse(cls, text: str) -> Policy:
        """Raises FormatError unless the text states all keys, sorted, and prints back to itself."""
        match = _LINE.fullmatch(text)
        if match is None:
            raise FormatError(f"{text[:120]!r} is not a policy")
        bits, events, lag, late, source = match.groups()
        return cls(int(bits, 16), int(events), int(lag), int(late), source)

    def tightens(self, before: Policy) -> bool:
        """Whether this policy is tighter in something, looser in nothing and of the same source."""
        return self != before and self.allows_nothing_beyond(before)

    def allows_nothing_beyond(self, before: Policy) -> bool:
        return (
            target_of(self.bits) <= target_of(before.bits)
            and self.events <= before.events
            and self.lag <= before.lag
            and self.late <= before.late
            and self.source == before.source
        )


def other_source(sealed: str, here: str) -> str:
    """What to say of an event store that is not of the source that the policy states."""
    said = f"the chain seals events of {sealed}, this store is {here}"
    if sealed.partition("/")[0] == here.partition("/")[0]:
        said += ": the adapter is the same and what it declares is not; was the mapping changed?"
    return said
