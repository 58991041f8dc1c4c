"""A series: one configured projection, and the branch that its snapshots are on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from eventchain.chain.prefix import trunk_of
from eventchain.contracts.chain_store import Branch, ChainStore
from eventchain.errors import ProjectionError
from eventchain.formats.manifest import base_origin
from eventchain.formats.snapshot import About
from eventchain.projections.filter import Filter
from eventchain.projections.fold import Run, named
from eventchain.projections.projection import FAILURES, Projection
from eventchain.projections.spec import Spec


@dataclass(frozen=True)
class Series:
    """origin: of its branch; parent: of the branch whose events the projection sees; both without an
    incarnation. Importing the projection and compiling the filter raise ProjectionError when first asked
    for."""

    spec: Spec
    origin: str
    parent: str

    @property
    def name(self) -> str:
        return self.spec.name

    @cached_property
    def projection(self) -> Projection[Any]:
        return self.spec.projection()

    @cached_property
    def filter(self) -> Filter:
        return self.spec.filter()

    def check(self) -> None:
        """Raises ProjectionError where the projection or the filter cannot be used."""
        self.begin()
        self.about(0)

    def about(self, size: int) -> About:
        """What a snapshot that covers so many events says of itself."""
        return About(str(self.filter), self._fingerprint, self.name, size)

    def misfit(self, about: About) -> str:
        """Why a snapshot is not of this projection as it is now, or an empty string."""
        if about.filter != str(self.filter):
            return f"its filter was {about.filter or 'none'}" if about.filter else "it had no filter"
        return "" if about.fingerprint == self._fingerprint else "the projection's code or options changed"

    def begin(self, state: bytes | None = None, size: int = 0) -> Run:
        """The projection with a dumped state that covers so many events, or before any event. Raises
        ProjectionError."""
        return Run.begin(self.name, self.projection, self.filter, state, size)

    @cached_property
    def _fingerprint(self) -> str:
        try:
            return self.projection.fingerprint()
        except FAILURES as error:
            raise named(self.name, error, "fingerprint: ") from error


def all_series(store: ChainStore, specs: Mapping[str, Spec]) -> dict[str, Series]:
    """The series of every configured projection by name, each after the one whose snapshots are its events.
    Raises StoreError where there is no chain."""
    trunk = base_origin(trunk_of(store).origin)
    found: dict[str, Series] = {}

    def add(spec: Spec) -> Series:
        if spec.name not in found:
            parent = trunk if spec.of is None else add(specs[spec.of]).origin
            found[spec.name] = Series(spec, f"{parent}/{spec.name}", parent)
        return found[spec.name]

    for spec in specs.values():
        add(spec)
    return found


def series_named(store: ChainStore, specs: Mapping[str, Spec], *names: str) -> list[Series]:
    """Those of these names, each once. Raises ProjectionError where none of a name is configured."""
    for name in names:
        if name not in specs:
            known = ", ".join(specs)
            raise ProjectionError(
                f"there is no projection {name!r}",
                hint=f"configured are {known}"
                if known
                else "the configuration names one as [projection.NAME]",
            )
    found = all_series(store, specs)
    return [found[name] for name in dict.fromkeys(names)]


def branch_of(store: ChainStore, origin: str) -> Branch | None:
    """The branch of this origin in its newest incarnation."""
    alike = [branch for branch in store.branches() if base_origin(branch.origin) == base_origin(origin)]
    return alike[-1] if alike else None
